//! The documents of `handlers/account-projection` in another form and in other collections, in two versions. The
//! owner "poison" is too much for the broken one; all else is the same in both, so that the mended one goes on with
//! what the broken one began.

use carryall_sdk::prelude::*;
use serde::{Deserialize, Serialize};

use crate::{BROKEN, VERSION};

const ACCOUNTS: &str = "accounts";
const OWNERS: &str = "owners";

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
struct Account {
    form: u32,
    owner: String,
    cents: u64,
    movements: u64,
}

#[derive(Serialize, Deserialize)]
struct Owner {
    owner: String,
}

struct Accounts;

impl ProjectionHandler for Accounts {
    type Event = Event;

    fn manifest() -> Manifest {
        Manifest::new("account-projection", VERSION).kind("Account").collection(ACCOUNTS, 2).collection(OWNERS, 1)
    }

    fn needs(event: &Recorded<Event>) -> Result<Vec<DocKey>, Fault> {
        Ok(vec![DocKey::new(ACCOUNTS, &event.source.id)])
    }

    fn project(event: &Recorded<Event>, documents: &Documents) -> Result<Vec<Write>, Fault> {
        let id = &event.source.id;
        if let Event::Opened(Opened { owner }) = &event.body {
            assert!(!(BROKEN && owner == "poison"), "this owner is too much");
            let account = Account { form: 2, owner: owner.clone(), cents: 0, movements: 0 };
            return Ok(vec![
                Write::put(ACCOUNTS, id, &account)?,
                Write::put(OWNERS, id, &Owner { owner: owner.clone() })?,
            ]);
        }
        let missing = || Fault::new("document-missing", format!("no document of account {id}"));
        let mut account: Account = documents.get(ACCOUNTS, id)?.ok_or_else(missing)?;
        if let Event::Deposited(moved) | Event::Withdrawn(moved) = &event.body {
            account.cents = moved.balance_cents;
            account.movements += 1;
        }
        Ok(vec![Write::put(ACCOUNTS, id, &account)?])
    }
}

carryall_sdk::export!(projection: Accounts);
