//! What must hold when everything has come to rest: answers against the log, decisions against a native account and
//! against the versions they name, documents against a fold, rows and checkpoints against the log's end.

use std::collections::HashMap;
use std::sync::Arc;

use serde_json::Value;
use uuid::Uuid;

use super::clients::{Answer, Attempt, History, untrue};
use super::crew::Crew;
use super::process::{ACCOUNTS, DOCUMENTS, PACK_SIZE, THINGS};
use super::truth::{Activation, Fact, Truth};
use super::world::World;
use crate::domain::{EventKind, Partition};
use crate::event_store::verify;
use crate::port::index::Index as _;
use crate::port::read_model::builds::{Builds as _, consumer_of};
use crate::port::read_model::{DocumentKey, ReadModel as _};
use crate::port::registry::{DeadLetter, DeadLetters as _};
use crate::replay::{self, Again, Decisions};

/// Commands that are decided again in each run, drawn among all.
const DECIDED_AGAIN: usize = 5;

/// Dead letters that wait.
pub async fn parked(world: &World) -> Vec<DeadLetter> {
    let registry = &world.database.registry;
    registry.list(Some("parked"), None, usize::MAX).await.unwrap()
}

/// Whether nothing is left to do; else what is.
pub fn unfinished(crew: &Crew) -> Option<String> {
    let world = &crew.world;
    let truth = world.truth.lock();
    let open =
        truth.facts.iter().find(|fact| fact.kind == EventKind::Command && !truth.outcomes.contains_key(&fact.id));
    if let Some(open) = open {
        return Some(format!("{} {} of {} is not decided", open.event_type, open.id, open.aggregate));
    }
    if let Some(behind) = truth.not_relayed() {
        return Some(behind);
    }
    let ends: Vec<(Partition, u64)> =
        (0..truth.partitions()).map(Partition).map(|partition| (partition, truth.end(partition))).collect();
    for slot in 0..crew.len() {
        let Some(services) = crew.services(slot) else { return Some(format!("process {slot} is not up")) };
        for (partition, end) in &ends {
            let seen = services.events.end(*partition).0;
            if seen != *end {
                return Some(format!("process {slot} is at {seen} of {end} in partition {partition}"));
            }
        }
        for (name, activations) in &truth.activations {
            let (serving, active) = (services.serving(name), activations.last().map(|last| last.digest));
            if serving != active {
                return Some(format!("process {slot} has {serving:?} serve as {name}, and {active:?} is active"));
            }
        }
    }
    drop(truth);
    // Nothing here waits: these ports are in memory.
    futures_util::FutureExt::now_or_never(async {
        let builds = world.database.model.builds().await.unwrap();
        let [build] = &builds[..] else { return Some(format!("there are other builds than the live one: {builds:?}")) };
        let documents = consumer_of(&build.name, DOCUMENTS);
        let checkpoints = world.database.model.checkpoints().await.unwrap();
        for (partition, end) in ends {
            for consumer in [ACCOUNTS, THINGS, &documents] {
                let its = checkpoints.iter().find(|(name, on, _)| name == consumer && *on == partition);
                let at = its.map_or(0, |(_, _, at)| at.0);
                if at < end {
                    return Some(format!("{consumer} is at {at} of {end} in partition {partition}"));
                }
            }
            let indexed = world.database.index.watermark(partition).await.unwrap().next_position.0;
            if indexed < end {
                return Some(format!("the index is at {indexed} of {end} in partition {partition}"));
            }
        }
        parked(world).await.pop().map(|letter| format!("{} is parked at {}", letter.aggregate_id, letter.handler))
    })
    .flatten()
}

/// Everything that can be said at the end.
pub async fn all(crew: &Crew, history: &History, renewed: usize) -> Result<(), String> {
    let world = &crew.world;
    {
        let truth = world.truth.lock();
        for attempt in history.attempts.lock().iter() {
            answer(&truth, attempt)?;
        }
        refused(&truth, history)?;
        decisions(&truth)?;
        named(&truth, renewed)?;
    }
    documents(world).await?;
    rest(world).await?;
    decided_again(crew).await?;
    statuses(crew).await
}

/// An answer is what the log says, at some moment between question and answer.
fn answer(truth: &Truth, attempt: &Attempt) -> Result<(), String> {
    let intention = &attempt.intention;
    let (id, aggregate) = (intention.id, intention.aggregate.to_string());
    let place = truth.places.get(&id).copied();
    match &attempt.answer {
        Answer::Accepted { sequence, position, replayed } => {
            let Some(place) = place else { return Err(format!("I5: {id} was accepted and is not in the log")) };
            let fact = &truth.facts[place];
            if (fact.position, fact.sequence) != (*position, sequence.0) || fact.aggregate != aggregate {
                return Err(format!("I4: {id} was accepted as {sequence} at {position} and is elsewhere"));
            }
            if place >= attempt.returned {
                return Err(format!("I5: {id} was accepted before it was durable"));
            }
            if !replayed && place < attempt.invoked {
                return Err(format!("I4: {id} was there before and is told to be new"));
            }
            if !replayed && !truth.head_at(&aggregate, place).accepts(intention.expected) {
                return Err(format!("I3: {id} was written against {:?}", intention.expected));
            }
            same_content(fact, attempt)
        }
        Answer::Conflict => {
            let justified = (attempt.invoked..=attempt.returned)
                .any(|events| !truth.head_at(&aggregate, events).accepts(intention.expected));
            if !justified {
                return Err(format!("I3: {id} met a conflict, and {:?} was right all the time", intention.expected));
            }
            match place {
                // Known ids are answered as the first time, whatever is expected.
                Some(place) if place < attempt.invoked && same_content(&truth.facts[place], attempt).is_ok() => {
                    Err(format!("I4: {id} is in the log and met a conflict"))
                }
                _ => Ok(()),
            }
        }
        Answer::Mismatch => match place {
            Some(place) if place < attempt.returned && same_content(&truth.facts[place], attempt).is_err() => Ok(()),
            _ => Err(format!("I4: {id} was told to have other content")),
        },
        Answer::Refused(_) | Answer::Unknown => Ok(()),
    }
}

fn same_content(fact: &Fact, attempt: &Attempt) -> Result<(), String> {
    let envelope = data(fact);
    let same = envelope["payload"] == attempt.intention.payload
        && fact.event_type == format!("{}_REQUESTED", attempt.intention.name);
    if same { Ok(()) } else { Err(format!("I4: {} was accepted and holds other content", fact.id)) }
}

/// What is in the log was written for somebody who was told so, or who was told that nobody knows. A refusal is for
/// good: not even the same command, sent again and accepted, may turn out to have been written by a request that was
/// refused.
fn refused(truth: &Truth, history: &History) -> Result<(), String> {
    let attempts = history.attempts.lock();
    let mut written: HashMap<Uuid, bool> = HashMap::new();
    for attempt in attempts.iter() {
        let Some(place) = truth.places.get(&attempt.intention.id).copied() else { continue };
        let may_have = match attempt.answer {
            Answer::Accepted { .. } => attempt.invoked <= place && place < attempt.returned,
            Answer::Unknown => attempt.invoked <= place,
            Answer::Conflict | Answer::Mismatch | Answer::Refused(_) => false,
        };
        *written.entry(attempt.intention.id).or_default() |= may_have;
    }
    // In an order that does not depend on hashes.
    let wrong = attempts.iter().map(|attempt| attempt.intention.id).find(|id| written.get(id) == Some(&false));
    match wrong {
        Some(id) => Err(format!("I5: {id} is in the log, and all who sent it by then were refused")),
        None => Ok(()),
    }
}

fn data(fact: &Fact) -> Value {
    let envelope: Value = serde_json::from_slice(&fact.line).expect("an envelope");
    envelope["data"].clone()
}

/// The documents that a fold of the log gives, and whether each decision on accounts follows from those before it.
fn decisions(truth: &Truth) -> Result<HashMap<String, (u64, u64, bool)>, String> {
    let mut accounts: HashMap<String, (u64, u64, bool)> = HashMap::new();
    for fact in truth.facts.iter().filter(|fact| fact.topic == "account_events") {
        let data = data(fact);
        let number = |name: &str| data[name].as_u64().unwrap_or_default();
        let wrong = || Err(format!("I3: {} at {} was decided on another state", fact.event_type, fact.sequence));
        let account = accounts.get(&fact.aggregate).copied();
        let next = match (fact.event_type.as_str(), account) {
            ("ACCOUNT_OPENED", None) => (0, fact.sequence, false),
            ("MONEY_DEPOSITED", Some((balance, _, false))) => {
                if balance + number("amount_cents") != number("balance_cents") {
                    return wrong();
                }
                (number("balance_cents"), fact.sequence, false)
            }
            ("MONEY_WITHDRAWN", Some((balance, _, false))) => {
                if balance.checked_sub(number("amount_cents")) != Some(number("balance_cents")) {
                    return wrong();
                }
                (number("balance_cents"), fact.sequence, false)
            }
            ("ACCOUNT_CLOSED", Some((0, _, false))) => (0, fact.sequence, true),
            ("COMMAND_FAILED" | "COMMAND_UNCHANGED", _) => continue,
            _ => return wrong(),
        };
        accounts.insert(fact.aggregate.clone(), next);
    }
    Ok(accounts)
}

/// Each outcome names a version that was in charge before it, under the number of that activation; when all processes
/// are new, it is none that was retired by then.
fn named(truth: &Truth, renewed: usize) -> Result<(), String> {
    for outcome in truth.facts.iter().filter_map(|fact| truth.outcomes.get(&fact.id)) {
        let (place, fact) = (outcome[0], &truth.facts[outcome[0]]);
        let envelope: Value = serde_json::from_slice(&fact.line).expect("an envelope");
        let handler = &envelope["metadata"]["handler"];
        let Some(name) = handler["name"].as_str() else { continue };
        let known = truth.activations.get(name).map_or(&[][..], Vec::as_slice);
        let is_it = |of: &Activation| {
            let named = handler["digest"].as_str().and_then(|text| text.parse().ok());
            named == Some(of.digest) && handler["revision"] == of.revision && of.place < place
        };
        let Some(by) = known.iter().position(is_it) else {
            return Err(format!("I8: {} at {place} names {handler}, which was not in charge", fact.event_type));
        };
        if place >= renewed && known.get(by + 1).is_some_and(|next| next.place < renewed) {
            return Err(format!("I8: {} at {place} was decided by {handler}, which was retired", fact.event_type));
        }
    }
    Ok(())
}

/// Some commands, decided again by the versions that their outcomes name, give the same bytes.
async fn decided_again(crew: &Crew) -> Result<(), String> {
    let commands: Vec<Uuid> = {
        let truth = crew.world.truth.lock();
        truth.facts.iter().filter(|fact| fact.kind == EventKind::Command).map(|fact| fact.id).collect()
    };
    let drawn = crew.world.sim.draw(|random| [(); DECIDED_AGAIN].map(|()| random.index(commands.len().max(1))));
    let Some(services) = crew.services(0) else { return Err("replay: process 0 is not up".into()) };
    let deployments = services.deployments.clone();
    let load: replay::Load = Arc::new(move |digest| {
        let deployments = deployments.clone();
        Box::pin(async move { deployments.component(digest).await.map_err(|error| error.to_string()) })
    });
    let mut decisions = Decisions::new(services.events.clone(), load);
    for id in drawn.into_iter().filter_map(|place| commands.get(place)) {
        let record = services.events.find(&[*id]).await.ok().and_then(|mut found| found.pop().flatten());
        let Some(record) = record else { return Err(format!("replay: {id} is not found")) };
        match decisions.again(&record).await {
            Ok(Again::Same | Again::NotJudged(_)) => {}
            Ok(Again::Differs { code, message }) => return Err(format!("I8: {id}: {code}: {message}")),
            Err(error) => return Err(format!("replay: {id}: {error}")),
        }
    }
    Ok(())
}

async fn documents(world: &World) -> Result<(), String> {
    let folded = decisions(&world.truth.lock())?;
    for id in ["a", "b"] {
        let key = DocumentKey { collection: "accounts".into(), id: id.into() };
        let found = world.database.model.documents(None, &[key]).await.unwrap().pop().flatten();
        let found: Option<Value> = found.map(|document| serde_json::from_str(document.body.get()).unwrap());
        let told = found.map(|document| {
            let number = |name: &str| document[name].as_u64().unwrap_or_default();
            (number("balance_cents"), number("sequence_number"), document["closed"] == Value::Bool(true))
        });
        let wanted = folded.get(&format!("Account/{id}")).copied();
        if told != wanted {
            return Err(format!("read model: account {id} is {told:?}, the log says {wanted:?}"));
        }
    }
    Ok(())
}

/// The bus had everything, the projection parked nothing, the chain and the index are whole.
async fn rest(world: &World) -> Result<(), String> {
    let letters = world.database.registry.list(None, None, usize::MAX).await.unwrap();
    let is_wrong = |letter: &&DeadLetter| letter.handler != THINGS && world.is_written(&letter.handler);
    if let Some(letter) = letters.iter().find(is_wrong) {
        return Err(format!("parking: {} parked {}: {}", letter.handler, letter.aggregate_id, letter.error));
    }
    let report = verify::verify(&world.objects, Some(&world.database.index), PACK_SIZE, |_| {}).await;
    match report {
        Ok(report) if report.is_clean() && report.index_behind == 0 => Ok(()),
        Ok(report) => Err(format!("I1: {report:?}")),
        Err(error) => Err(format!("I1: {error}")),
    }
}

/// Every process tells the status that the log says.
async fn statuses(crew: &Crew) -> Result<(), String> {
    let ids: Vec<Uuid> = {
        let truth = crew.world.truth.lock();
        truth.facts.iter().filter(|fact| fact.kind == EventKind::Command).map(|fact| fact.id).collect()
    };
    for slot in 0..crew.len() {
        let Some(services) = crew.services(slot) else { return Err(format!("status: process {slot} is not up")) };
        for id in &ids {
            let status = services.queries.status(*id).await.map_err(|error| format!("status: {id}: {error}"))?;
            if !status.is_final() {
                return Err(format!("status: {id} is {:?} at the end in process {slot}", status.status));
            }
            if let Some(why) = untrue(crew, *id, status.status) {
                return Err(format!("status in process {slot}: {why}"));
            }
        }
    }
    Ok(())
}
