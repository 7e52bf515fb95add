//! Clients. They send commands, send them again when they are not sure, use an id twice, rely on what
//! they saw last, ask for the status; every question and every answer goes into the history that is judged at the end.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::sync::oneshot;
use uuid::Uuid;

use super::crew::Crew;
use super::executor::{OUTSIDE, Sim};
use super::process::Services;
use crate::codec::envelope::CommandDraft;
use crate::codec::json::Json;
use crate::command::{self, Identity, Submission};
use crate::domain::{Aggregate, Sequence, Timestamp, command_topic};
use crate::error::{Classified, Kind};
use crate::event_store::{Append, AppendError, Expected};
use crate::query::{self, Source, StatusName, Token};

/// The collection that the projection of accounts writes.
const ACCOUNTS: &str = "accounts";
/// How long a client waits for an answer.
const PATIENCE_MS: u64 = 3_000;
/// How long a process lets a client wait for what is not there yet.
const WAIT: Duration = Duration::from_secs(1);
/// How often a client sends one command.
const ATTEMPTS_MAX: usize = 6;

/// A command as a client has it in mind.
#[derive(Debug, Clone)]
pub struct Intention {
    pub id: Uuid,
    pub aggregate: Aggregate,
    pub name: &'static str,
    pub payload: Value,
    pub expected: Expected,
}

/// What a client was told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    Accepted {
        sequence: Sequence,
        position: u64,
        replayed: bool,
    },
    Conflict,
    Mismatch,
    /// Nothing was written, for another reason.
    Refused(String),
    /// Nobody knows.
    Unknown,
}

/// One request, with the length of the log when it was sent and when it was answered.
#[derive(Debug, Clone)]
pub struct Attempt {
    pub intention: Intention,
    pub invoked: usize,
    pub returned: usize,
    pub answer: Answer,
}

/// What all clients share.
#[derive(Debug, Default)]
pub struct History {
    pub attempts: Mutex<Vec<Attempt>>,
    pub working: Mutex<usize>,
    /// Commands that others may send as well.
    shared: Mutex<Vec<Intention>>,
}

/// Asks a process something; `None` when no answer comes: it died, or it sleeps.
pub async fn ask<T, F>(crew: &Crew, slot: usize, question: impl FnOnce(Arc<Services>) -> F) -> Option<T>
where
    T: Send + 'static,
    F: Future<Output = T> + Send + 'static,
{
    let services = crew.services(slot)?;
    let (tell, told) = oneshot::channel();
    let group = services.group;
    let work = question(services);
    crew.world.sim.spawn(group, async move {
        // A client that lost patience does not want to know.
        let _gone = tell.send(work.await);
    });
    tokio::select! {
        biased;
        told = told => told.ok(),
        () = crew.world.sim.sleep_ms(PATIENCE_MS) => None,
    }
}

/// Sends one command once.
async fn send(services: Arc<Services>, intention: Intention) -> Answer {
    // Accounts come in as over HTTP; things by the log itself, which takes what no manifest declares.
    if intention.aggregate.kind.as_str() == "Account" {
        let expected_seq = match intention.expected {
            Expected::Client(sequence) => Some(sequence),
            _ => None,
        };
        let submission = Submission {
            identity: Identity { command_id: intention.id, made: false },
            command_type: intention.name,
            aggregate: intention.aggregate,
            expected_seq,
            payload: Json::from_value(&intention.payload).unwrap(),
            metadata: None,
            actor: Some("alice"),
            correlation_id: None,
            traceparent: None,
        };
        return match services.commands.submit(submission).await {
            Ok(accepted) => Answer::Accepted {
                sequence: accepted.sequence,
                position: accepted.position.0,
                replayed: accepted.replayed,
            },
            Err(command::Error::Conflict { .. }) => Answer::Conflict,
            Err(command::Error::Mismatch { .. }) => Answer::Mismatch,
            Err(error) if error.kind() == Kind::Unknown => Answer::Unknown,
            Err(error) => Answer::Refused(format!("{error:?}")),
        };
    }
    let draft = CommandDraft {
        command_id: intention.id,
        command_type: intention.name,
        aggregate: &intention.aggregate,
        expected_seq: match intention.expected {
            Expected::Client(sequence) => Some(sequence),
            _ => None,
        },
        payload: &Json::from_value(&intention.payload).unwrap(),
        actor: "alice",
        occurred_at: Timestamp(0),
        correlation_id: "c",
        causation_id: None,
        traceparent: None,
        extra: None,
        topic: command_topic(&intention.aggregate.kind).into(),
        service: "test",
    };
    let append = Append {
        aggregate: intention.aggregate.clone(),
        expected: intention.expected,
        drafts: vec![draft.build().unwrap()],
        outcome_of: None,
        ids_are_new: false,
    };
    match services.events.append(append).await {
        Ok(appended) => Answer::Accepted {
            sequence: appended.records[0].sequence,
            position: appended.records[0].position.0,
            replayed: appended.replayed,
        },
        Err(AppendError::Conflict { .. }) => Answer::Conflict,
        Err(AppendError::Mismatch { .. }) => Answer::Mismatch,
        Err(error) if error.kind() == Kind::Unknown => Answer::Unknown,
        Err(error) => Answer::Refused(format!("{error:?}")),
    }
}

/// One client.
pub struct Client {
    crew: Arc<Crew>,
    history: Arc<History>,
    name: String,
}

impl Client {
    /// Spawns clients, each with so many commands in mind.
    pub fn spawn(crew: &Arc<Crew>, history: &Arc<History>, clients: u64, commands: u64) {
        for number in 0..clients {
            *history.working.lock() += 1;
            let client = Client { crew: crew.clone(), history: history.clone(), name: format!("c{number}") };
            crew.world.sim.spawn(OUTSIDE, async move {
                let mut last = None;
                for _ in 0..commands {
                    client.turn(&mut last).await;
                }
                *client.history.working.lock() -= 1;
            });
        }
    }

    fn sim(&self) -> &Sim {
        &self.crew.world.sim
    }

    async fn turn(&self, last: &mut Option<(Aggregate, u64)>) {
        let (pause, slot) = self.sim().draw(|random| (random.below(400), random.index(self.crew.len())));
        self.sim().sleep_ms(pause).await;
        let intention = self.intend(slot, last.take()).await;
        for _ in 0..ATTEMPTS_MAX {
            let slot = self.sim().draw(|random| random.index(self.crew.len()));
            let (tell, invoked) = (intention.clone(), self.crew.world.truth.lock().len());
            self.sim().note(&self.name, "send", invoked as u64, || {
                format!("{} {} {} {:?} to {slot}", tell.id, tell.aggregate, tell.name, tell.expected)
            });
            let answer = ask(&self.crew, slot, |services| send(services, tell)).await.unwrap_or(Answer::Unknown);
            let returned = self.crew.world.truth.lock().len();
            self.sim().note(&self.name, "told", returned as u64, || format!("{} {answer:?}", intention.id));
            let attempt = Attempt { intention: intention.clone(), invoked, returned, answer: answer.clone() };
            self.history.attempts.lock().push(attempt);
            match answer {
                Answer::Accepted { sequence, .. } => {
                    *last = Some((intention.aggregate.clone(), sequence.0));
                    return self.follow(&intention).await;
                }
                Answer::Conflict | Answer::Mismatch => return,
                Answer::Refused(_) | Answer::Unknown => {
                    let (pause, gives_up) = self.sim().draw(|random| (random.below(900), random.chance(100)));
                    if gives_up {
                        return;
                    }
                    self.sim().sleep_ms(pause).await;
                }
            }
        }
    }

    /// What to send next, at times what another client sends, or its id for something else.
    async fn intend(&self, slot: usize, last: Option<(Aggregate, u64)>) -> Intention {
        let (thing, id, command, amount) = self
            .sim()
            .draw(|random| (random.chance(350), random.pick(&["a", "b"]), random.below(100), random.below(50) + 1));
        let seen = self.history.shared.lock().len();
        let (reuse, other, pick) =
            self.sim().draw(|random| (seen > 0 && random.chance(120), random.chance(300), random.index(seen.max(1))));
        if reuse {
            let mut intention = self.history.shared.lock()[pick].clone();
            if other {
                intention.payload = json!({"owner": format!("not {amount}")});
                intention.name = "OPEN_ACCOUNT";
            }
            return intention;
        }
        let kind = if thing { "Thing" } else { "Account" };
        let aggregate = Aggregate::parse(kind, id).unwrap();
        let (name, payload) = match (thing, command) {
            (true, 0..4) => ("FAULT", json!({})),
            (true, 4..7) => ("COMMANDS", json!(2)),
            (true, 7..10) => ("ECHO", json!({"no": "deposit"})),
            (true, 10..15) => ("REJECT", json!(1)),
            (true, 15..20) => ("UNCHANGED", json!({})),
            (true, _) => ("DEPOSIT", json!({"amount": amount, "note": "n", "tags": []})),
            (false, 0..25) => ("OPEN_ACCOUNT", json!({"owner": "bob"})),
            (false, 25..65) => ("DEPOSIT", json!({"amount_cents": amount})),
            (false, 65..97) => ("WITHDRAW", json!({"amount_cents": amount})),
            (false, _) => ("CLOSE_ACCOUNT", json!({})),
        };
        let expected = match (self.sim().draw(|random| random.below(4)), last) {
            (0, Some((of, sequence))) if of == aggregate => Expected::Client(sequence),
            (0 | 1, _) => {
                let wanted = aggregate.clone();
                let head = ask(&self.crew, slot, |services| async move { services.events.head(&wanted).await }).await;
                head.and_then(Result::ok).map_or(Expected::Any, |head| Expected::Client(head.last.0))
            }
            _ => Expected::Any,
        };
        let intention = Intention { id: self.crew.fresh_id(), aggregate, name, payload, expected };
        self.history.shared.lock().push(intention.clone());
        intention
    }

    /// Now and then, waits for the outcome, or for what it did to the document.
    async fn follow(&self, intention: &Intention) {
        let (what, slot) = self.sim().draw(|random| (random.below(1_000), random.index(self.crew.len())));
        match what {
            0..300 => self.status(intention, slot).await,
            300..600 if intention.aggregate.kind.as_str() == "Account" => self.read(intention, slot).await,
            _ => {}
        }
    }

    /// Waits for the outcome; a final status must be what the log says.
    async fn status(&self, intention: &Intention, slot: usize) {
        let (id, wait) = (intention.id, WAIT);
        let status = ask(&self.crew, slot, |services| async move { services.queries.final_status(id, wait).await });
        let Some(Ok(status)) = status.await else { return };
        self.sim().note(&self.name, "status", 0, || format!("{id} {:?}", status.status));
        if let Some(why) = untrue(&self.crew, id, status.status) {
            self.sim().broken("status", why);
        }
    }

    /// Reads the document or the stream with the command's token, from any process: what is told has what the command
    /// did. Who waits for the graph waits for all projections, hence for this one too.
    async fn read(&self, intention: &Intention, slot: usize) {
        let (id, account) = (intention.id, intention.aggregate.clone());
        let source = self.sim().draw(|random| random.pick(&[Source::Log, Source::Graph, Source::Collection(ACCOUNTS)]));
        let read = ask(&self.crew, slot, |services| async move {
            let token = Token::Command(id);
            services.queries.consistent(source, Some(&token), WAIT, services.deployments.learn()).await?;
            newest(&services, source, &account).await
        });
        let Some(Ok(told)) = read.await else { return };
        self.sim().note(&self.name, "read", told.unwrap_or_default(), || format!("{id} {source:?}"));
        if let Some(why) = stale(&self.crew, id, told) {
            self.sim().broken("read-your-writes", why);
        }
    }
}

/// The newest event that a read shows of an account.
async fn newest(services: &Services, source: Source<'_>, account: &Aggregate) -> Result<Option<u64>, query::Error> {
    if source == Source::Log {
        let page = services.queries.stream(account, 0, 1_000).await?;
        return Ok(page.records.last().map(|record| record.sequence.0));
    }
    let document = services.queries.document(ACCOUNTS, account.id.as_str()).await?;
    let document = document.map(|document| serde_json::from_str::<Value>(document.body.get()).unwrap());
    Ok(document.and_then(|document| document["sequence_number"].as_u64()))
}

/// Why what was read with a command's token lacks what the command did.
fn stale(crew: &Crew, id: Uuid, told: Option<u64>) -> Option<String> {
    let truth = crew.world.truth.lock();
    let outcome = truth.outcomes.get(&id).into_iter().flatten().map(|place| &truth.facts[*place]);
    let wanted = outcome.filter(|fact| fact.event_type != "COMMAND_FAILED").map(|fact| fact.sequence).max();
    (wanted > told).then(|| format!("command {id} made {wanted:?}, and what was read is of {told:?}"))
}

/// Why a final status is not what the log says.
pub fn untrue(crew: &Crew, id: Uuid, told: StatusName) -> Option<String> {
    let truth = crew.world.truth.lock();
    let last = truth.outcomes.get(&id).and_then(|outcome| outcome.last()).map(|place| &truth.facts[*place]);
    let fits = match told {
        StatusName::Completed => last.is_some_and(|fact| fact.event_type != "COMMAND_FAILED"),
        StatusName::Failed | StatusName::Cancelled => last.is_some_and(|fact| fact.event_type == "COMMAND_FAILED"),
        StatusName::Pending | StatusName::Processing | StatusName::Retrying => true,
    };
    (!fits).then(|| format!("command {id} is told {told:?} and ends with {:?}", last.map(|fact| &fact.event_type)))
}
