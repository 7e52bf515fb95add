//! The mutations: what is broken, and how. `MUTANT` stands for the switch. When the code moves, the text to find moves
//! with it; a mutation that is not noticed is a hole in the simulation, or no mutation at all.

/// One way to break the code.
pub struct Mutation {
    pub name: &'static str,
    /// What goes wrong then.
    pub story: &'static str,
    pub file: &'static str,
    /// Occurs once.
    pub find: &'static str,
    pub replace: &'static str,
}

const COMMITTER: &str = "host/src/event_store/committer.rs";
const JUDGE: &str = "host/src/event_store/judge.rs";

/// All of them.
pub const MUTATIONS: &[Mutation] = &[
    Mutation {
        name: "exists-is-failure",
        story: "a 412 is taken as lost: the request is answered as not written, whoever wrote the slot",
        file: COMMITTER,
        find: "                Ok(PutNew::Exists) => {",
        replace: "                Ok(PutNew::Exists) if MUTANT => return Ok(Written::Not(port::Error::Unavailable {
                    what: \"it\", reason: String::new(),
                })),
                Ok(PutNew::Exists) => {",
    },
    Mutation {
        name: "unknown-is-failure",
        story: "an unknown put is answered as failed",
        file: COMMITTER,
        find: "                Ok(PutNew::Unknown) => unresolved = true,",
        replace: "                Ok(PutNew::Unknown) if MUTANT => return Ok(Written::Not(port::Error::Unavailable {
                    what: \"it\", reason: String::new(),
                })),
                Ok(PutNew::Unknown) => unresolved = true,",
    },
    Mutation {
        name: "unknown-is-done",
        story: "an unknown put is acknowledged",
        file: COMMITTER,
        find: "                Ok(PutNew::Unknown) => unresolved = true,",
        replace: "                Ok(PutNew::Unknown) if MUTANT => return Ok(Written::Mine),
                Ok(PutNew::Unknown) => unresolved = true,",
    },
    Mutation {
        name: "absent-is-not-written",
        story: "a read that finds nothing after an unknown put is taken as \"not written\"",
        file: COMMITTER,
        find: "                Ok(PutNew::Unknown) => unresolved = true,",
        replace:
            "                Ok(PutNew::Unknown) if MUTANT && matches!(shared.objects.get(&key).await, Ok(None)) => {
                    return Ok(Written::Not(port::Error::Unavailable { what: \"it\", reason: String::new() }));
                }
                Ok(PutNew::Unknown) => unresolved = true,",
    },
    Mutation {
        name: "index-without-watermark",
        story: "rows of the index are used without looking at the watermark they belong to",
        file: COMMITTER,
        find: "            let relation = self.log.view.lock().relation(&found.watermark);
            match relation {
                Relation::Within =>",
        replace: "            let relation = self.log.view.lock().relation(&found.watermark);
            match relation {
                _ if MUTANT => return Ok(Looked::At(found)),
                Relation::Within =>",
    },
    Mutation {
        name: "stale-rejection",
        story: "a rejection is answered from the view, without looking whether the view is the last",
        file: COMMITTER,
        find: "        if judged.events.is_empty() {
            let next",
        replace: "        if judged.events.is_empty() && MUTANT {
            answer(batch, &mut judged, None);
            return Ok(true);
        }
        if judged.events.is_empty() {
            let next",
    },
    Mutation {
        name: "ids-not-looked-up",
        story: "looking in the log first is skipped: an id that is only in the index is taken as new",
        file: JUDGE,
        find: "        if self.append.ids_are_new {",
        replace: "        if self.append.ids_are_new || MUTANT {",
    },
    Mutation {
        name: "expected-not-checked",
        story: "a client's expected sequence is not checked",
        file: JUDGE,
        find: "            Expected::Client(expected) if client_is_right(expected, head) => Ok(()),",
        replace: "            Expected::Client(expected) if MUTANT || client_is_right(expected, head) => Ok(()),",
    },
    Mutation {
        name: "outcome-ids-random",
        story: "the ids of an outcome are drawn instead of derived",
        file: "host/src/codec/envelope/build.rs",
        find: "        let event_id = derived_id::domain_event(self.command_id, self.index);",
        replace: "        static DRAWN: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(0);
        let event_id = match MUTANT {
            true => Uuid::from_u128(u128::from(DRAWN.fetch_add(1, std::sync::atomic::Ordering::Relaxed))),
            false => derived_id::domain_event(self.command_id, self.index),
        };",
    },
    Mutation {
        name: "commands-out-of-order",
        story: "the commands of an aggregate are decided last first",
        file: "host/src/worker/wave.rs",
        find: "let Some((record, attempt)) = lane.queue.pop_front() else { continue };",
        replace: "let next = if MUTANT { lane.queue.pop_back() } else { lane.queue.pop_front() };
            let Some((record, attempt)) = next else { continue };",
    },
    Mutation {
        name: "checkpoint-before-effect",
        story: "the checkpoint is what was read, not what has its effect",
        file: "host/src/state/consumer/context.rs",
        find: "    pub fn checkpoint(&self) -> Position {
        let course = self.course.lock();",
        replace: "    pub fn checkpoint(&self) -> Position {
        let course = self.course.lock();
        if MUTANT {
            return course.cursor;
        }",
    },
    Mutation {
        name: "in-progress-is-passed-over",
        story: "an event that another process holds is taken as handled",
        file: "host/src/projection/apply.rs",
        find: "                Claimed::InProgress => {",
        replace: "                Claimed::InProgress if MUTANT => {}
                Claimed::InProgress => {",
    },
    Mutation {
        name: "lease-not-fenced",
        story: "the effect of a projection is made whoever holds the claim now",
        file: "host/src/port/registry/memory.rs",
        find: "            !row.is_some_and(|row| row.is_held_by(owner) && row.attempt == event.attempt)",
        replace: "            !MUTANT && !row.is_some_and(|row| row.is_held_by(owner) && row.attempt == event.attempt)",
    },
    Mutation {
        name: "lease-by-own-clock",
        story: "a process holds its leases by its own wall clock, which is minutes ahead when it ends",
        file: "host/src/state/claims.rs",
        find: "        let time = self.registry.time(self.clock.now()).await?;",
        replace: "        let time =
            if MUTANT { self.clock.now() } else { self.registry.time(self.clock.now()).await? };",
    },
    Mutation {
        name: "relay-checkpoint-before-acks",
        story: "the relay goes on without the acknowledgement of the bus",
        file: "host/src/relay/mod.rs",
        find: "            self.bus.publish(records.into_iter().map(message).collect()).await?;",
        replace: "            let sent = self.bus.publish(records.into_iter().map(message).collect()).await;
            if !MUTANT {
                sent?;
            }",
    },
    Mutation {
        name: "relay-checkpoint-backwards",
        story: "a relay that is behind overwrites the checkpoint of one that is ahead",
        file: "host/src/relay/mod.rs",
        find: "            if let Some(theirs) = theirs",
        replace: "            if !MUTANT
                && let Some(theirs) = theirs",
    },
    Mutation {
        name: "dead-letter-not-kept",
        story: "a process does not remember what is parked",
        file: "host/src/state/parking.rs",
        find: "            self.inner.parked.lock().insert(key, letter);",
        replace: "            if !MUTANT {
                self.inner.parked.lock().insert(key, letter);
            }",
    },
    Mutation {
        name: "reset-without-looking",
        story: "a process that found the database empty empties it, though another has filled it since",
        file: "host/src/port/index/memory.rs",
        find: "        let unchanged = state.store",
        replace: "        let unchanged = MUTANT || state.store",
    },
    Mutation {
        name: "checkpoint-of-another-partition",
        story: "a consumer goes on from the checkpoint of whichever partition comes first",
        file: "host/src/state/consumer/mod.rs",
        find: "*consumer == options.consumer && *on == partition)",
        replace: "*consumer == options.consumer && (MUTANT || *on == partition))",
    },
    Mutation {
        name: "relay-forgets-partitions",
        story: "the relay of a partition writes the checkpoint as if there were no other",
        file: "host/src/relay/mod.rs",
        find: "            checkpoint.partitions.insert(self.partition.0, place);",
        replace: "            if MUTANT {
                checkpoint.partitions.clear();
            }
            checkpoint.partitions.insert(self.partition.0, place);",
    },
    Mutation {
        name: "deployment-not-followed",
        story: "a version that another process put in charge is not taken up",
        file: "host/src/deploy/follow.rs",
        find: "                deployed |= event",
        replace: "                deployed |= !MUTANT && event",
    },
    Mutation {
        name: "activation-not-fenced",
        story: "an activation is appended whatever was activated since it was judged",
        file: "host/src/deploy/service.rs",
        find: "            expected: Expected::Exactly(last),",
        replace: "            expected: if MUTANT { Expected::Any } else { Expected::Exactly(last) },",
    },
    Mutation {
        name: "outcome-names-first-activation",
        story: "an outcome does not name the activation that its handler was put in charge by",
        file: "host/src/worker/decide.rs",
        find: "            revision: self.job.active.revision,",
        replace: "            revision: if MUTANT { 1 } else { self.job.active.revision },",
    },
    Mutation {
        name: "build-passes-what-it-lacks",
        story: "a build that takes over is said to be at the end of the log, wherever it is",
        file: "host/src/app/builds.rs",
        find: "            model.set_checkpoint(&row.consumer, row.partition, row.position, Some(&begun)).await?;",
        replace: "            let at = if MUTANT { self.parts.events.end(row.partition) } else { row.position };
            model.set_checkpoint(&row.consumer, row.partition, at, Some(&begun)).await?;",
    },
    Mutation {
        name: "read-before-projected",
        story: "a read with a token is served as soon as the command is decided",
        file: "host/src/query/consistency.rs",
        find: "            if self.reached(source, &consumers, *partition, *position) {",
        replace: "            if MUTANT || self.reached(source, &consumers, *partition, *position) {",
    },
    Mutation {
        name: "read-one-event-early",
        story: "a read with a token is served when everything before what it waits for is projected",
        file: "host/src/query/consistency.rs",
        find: ".is_some_and(|least| least > position),",
        replace: ".is_some_and(|least| least > position || MUTANT && least == position),",
    },
];
