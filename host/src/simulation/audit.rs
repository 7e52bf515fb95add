//! What must hold when everything has come to rest: answers against the log, decisions against a native account,
//! documents against a fold, rows and checkpoints against the log's end.

use std::collections::HashMap;

use serde_json::Value;
use uuid::Uuid;

use super::clients::{Answer, Attempt, History, untrue};
use super::crew::Crew;
use super::process::{ACCOUNTS, DOCUMENTS, THINGS};
use super::truth::{Fact, Truth};
use super::world::World;
use crate::domain::{EventKind, Partition};
use crate::event_store::verify;
use crate::port::index::Index as _;
use crate::port::read_model::{DocumentKey, ReadModel as _};
use crate::port::registry::{DeadLetter, DeadLetters as _};
use crate::projection::LIVE;

/// Dead letters that wait.
pub async fn parked(world: &World) -> Vec<DeadLetter> {
    let registry = &world.database.registry;
    registry.list(Some("parked"), None, usize::MAX).await.unwrap()
}

/// Whether nothing is left to do; else what is.
pub fn unfinished(crew: &Crew) -> Option<String> {
    let world = &crew.world;
    let truth = world.truth.lock();
    let end = truth.len() as u64;
    let open =
        truth.facts.iter().find(|fact| fact.kind == EventKind::Command && !truth.outcomes.contains_key(&fact.id));
    if let Some(open) = open {
        return Some(format!("{} {} of {} is not decided", open.event_type, open.id, open.aggregate));
    }
    if truth.relay_position() < end {
        return Some(format!("the relay is at {} of {end}", truth.relay_position()));
    }
    drop(truth);
    for slot in 0..crew.len() {
        let seen = crew.services(slot).map(|services| services.events.end(Partition(0)).0);
        if seen != Some(end) {
            return Some(format!("process {slot} is at {seen:?} of {end}"));
        }
    }
    // Nothing here waits: these ports are in memory.
    futures_util::FutureExt::now_or_never(async {
        let checkpoints = world.database.model.checkpoints().await.unwrap();
        for consumer in [ACCOUNTS, THINGS, DOCUMENTS] {
            let at = checkpoints.iter().find(|(name, _, _)| name == consumer).map_or(0, |(_, _, at)| at.0);
            if at < end {
                return Some(format!("{consumer} is at {at} of {end}"));
            }
        }
        if let Some(letter) = parked(world).await.pop() {
            return Some(format!("{} is parked at {}", letter.aggregate_id, letter.handler));
        }
        let indexed = world.database.index.watermark(Partition(0)).await.unwrap().next_position.0;
        (indexed < end).then(|| format!("the index is at {indexed} of {end}"))
    })
    .flatten()
}

/// Everything that can be said at the end.
pub async fn all(crew: &Crew, history: &History) -> Result<(), String> {
    let world = &crew.world;
    {
        let truth = world.truth.lock();
        for attempt in history.attempts.lock().iter() {
            answer(&truth, attempt)?;
        }
        refused(&truth, history)?;
        decisions(&truth)?;
    }
    documents(world).await?;
    rest(world).await?;
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
            if (place as u64, fact.sequence) != (*position, sequence.0) || fact.aggregate != aggregate {
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

/// What was refused every time is not in the log.
fn refused(truth: &Truth, history: &History) -> Result<(), String> {
    let attempts = history.attempts.lock();
    let mut open: HashMap<Uuid, bool> = HashMap::new();
    for attempt in attempts.iter() {
        let may_be = matches!(attempt.answer, Answer::Accepted { .. } | Answer::Unknown);
        *open.entry(attempt.intention.id).or_default() |= may_be;
    }
    match open.iter().find(|(id, may_be)| !**may_be && truth.places.contains_key(id)) {
        Some((id, _)) => Err(format!("I5: {id} was refused each time and is in the log")),
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

async fn documents(world: &World) -> Result<(), String> {
    let folded = decisions(&world.truth.lock())?;
    for id in ["a", "b"] {
        let key = DocumentKey { collection: "accounts".into(), id: id.into() };
        let found = world.database.model.documents(LIVE, &[key]).await.unwrap().pop().flatten();
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
    if let Some(letter) = letters.iter().find(|letter| letter.handler != THINGS) {
        return Err(format!("parking: {} parked {}: {}", letter.handler, letter.aggregate_id, letter.error));
    }
    let report = verify::verify(&world.objects, Some(&world.database.index), |_| {}).await;
    match report {
        Ok(report) if report.findings.is_empty() => Ok(()),
        Ok(report) => Err(format!("I1: {:?}", report.findings)),
        Err(error) => Err(format!("I1: {error}")),
    }
}

/// Every process tells the status that the log says.
async fn statuses(crew: &Crew) -> Result<(), String> {
    let ids: Vec<Uuid> = {
        let truth = crew.world.truth.lock();
        truth.facts.iter().filter(|fact| fact.kind == EventKind::Command).map(|fact| fact.id).collect()
    };
    let Some(services) = crew.services(0) else { return Err("status: process 0 is not up".into()) };
    for id in ids {
        let status = services.queries.status(id).await.map_err(|error| format!("status: {id}: {error}"))?;
        if !status.is_final() {
            return Err(format!("status: {id} is {:?} at the end", status.status));
        }
        if let Some(why) = untrue(crew, id, status.status) {
            return Err(format!("status: {why}"));
        }
    }
    Ok(())
}
