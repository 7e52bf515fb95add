//! Example of a projection: one document for each account, in the collection `accounts`.
//!
//! The event of a movement does not say who owns the account, so the document before it is asked for. Events are
//! declared as this projection reads them: it depends on what is recorded, not on the code that recorded it.

use carryall_sdk::prelude::*;
use serde::{Deserialize, Serialize};

const ACCOUNTS: &str = "accounts";

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Opened {
    pub owner: String,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Moved {
    pub balance_cents: u64,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Closed {}

carryall_sdk::messages! {
    pub enum Event {
        "ACCOUNT_OPENED" "1.0.0" => Opened(Opened),
        "MONEY_DEPOSITED" "1.0.0" => Deposited(Moved),
        "MONEY_WITHDRAWN" "1.0.0" => Withdrawn(Moved),
        "ACCOUNT_CLOSED" "1.0.0" => Closed(Closed),
    }
}

#[derive(Serialize, Deserialize)]
struct Document {
    account_id: String,
    owner: String,
    balance_cents: u64,
    closed: bool,
    sequence_number: u64,
    opened_at: String,
    updated_at: String,
}

pub struct AccountProjection;

impl ProjectionHandler for AccountProjection {
    type Event = Event;

    fn manifest() -> Manifest {
        Manifest::new("account-projection", env!("CARGO_PKG_VERSION")).kind("Account").collection(ACCOUNTS, 1)
    }

    fn needs(event: &Recorded<Event>) -> Result<Vec<DocKey>, Fault> {
        Ok(match &event.body {
            Event::Opened(_) => Vec::new(),
            _ => vec![DocKey::new(ACCOUNTS, &event.source.id)],
        })
    }

    fn project(event: &Recorded<Event>, documents: &Documents) -> Result<Vec<Write>, Fault> {
        let id = &event.source.id;
        let at = event.at.to_string();
        let mut document = match &event.body {
            Event::Opened(opened) => Document {
                account_id: id.clone(),
                owner: opened.owner.clone(),
                balance_cents: 0,
                closed: false,
                sequence_number: event.seq,
                opened_at: at.clone(),
                updated_at: at.clone(),
            },
            _ => documents
                .get(ACCOUNTS, id)?
                .ok_or_else(|| Fault::new("document-missing", format!("no document of account {id}")))?,
        };
        match &event.body {
            Event::Opened(_) => {}
            Event::Deposited(moved) | Event::Withdrawn(moved) => document.balance_cents = moved.balance_cents,
            Event::Closed(_) => document.closed = true,
        }
        document.sequence_number = event.seq;
        document.updated_at = at;
        Ok(vec![Write::put(ACCOUNTS, id, &document)?])
    }
}

carryall_sdk::export!(projection: AccountProjection);

#[cfg(test)]
mod tests;
