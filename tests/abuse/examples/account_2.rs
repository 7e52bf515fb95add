//! The second version of the accounts of `handlers/account`: its deposits name a currency, and it folds no others. It
//! opens and fills accounts only, and keeps a state of another shape, so that nobody takes one for the other's.
#![cfg(target_family = "wasm")]

use carryall_sdk::prelude::*;
use serde::{Deserialize, Serialize};

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Deposit {
    pub cents: u64,
    pub currency: String,
}

carryall_sdk::messages! {
    pub enum Command {
        "DEPOSIT" "2.0.0" => Deposit(Deposit),
    }
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Opened {
    pub owner: String,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Deposited {
    pub amount: Deposit,
    pub balance_cents: u64,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Withdrawn {
    pub balance_cents: u64,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Closed {}

carryall_sdk::messages! {
    pub enum Event {
        "ACCOUNT_OPENED" "1.0.0" => Opened(Opened),
        "MONEY_DEPOSITED" "2.0.0" => Deposited(Deposited),
        "MONEY_WITHDRAWN" "1.0.0" => Withdrawn(Withdrawn),
        "ACCOUNT_CLOSED" "1.0.0" => Closed(Closed),
    }
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct State {
    pub owner: String,
    pub balance_cents: u64,
    /// Of each deposit, oldest first.
    pub currencies: Vec<String>,
}

struct Account;

impl InstanceHandler for Account {
    type State = State;
    type Command = Command;
    type Event = Event;

    fn manifest() -> Manifest {
        Manifest::new("account", "2.0.0").kind("Account").state("account", "2.0.0")
    }

    fn decide(_: &Context, state: Option<&State>, command: &Received<Command>) -> Result<Decision<Event>, Fault> {
        let Command::Deposit(amount) = &command.body;
        let Some(account) = state else {
            return Ok(Decision::reject(Problem::new("account-not-open", "open the account first")));
        };
        let balance_cents = account.balance_cents + amount.cents;
        Ok(Decision::accept(Event::Deposited(Deposited { amount: amount.clone(), balance_cents })))
    }

    fn evolve(state: Option<State>, event: Recorded<Event>) -> Result<Option<State>, Fault> {
        let opened = |state: Option<State>| state.ok_or_else(|| Fault::new("not-open", "a movement before opening"));
        Ok(Some(match event.body {
            Event::Opened(opened) => State { owner: opened.owner, balance_cents: 0, currencies: Vec::new() },
            Event::Deposited(Deposited { amount, balance_cents }) => {
                let mut account = opened(state)?;
                account.currencies.push(amount.currency);
                State { balance_cents, ..account }
            }
            Event::Withdrawn(Withdrawn { balance_cents }) => State { balance_cents, ..opened(state)? },
            Event::Closed(Closed {}) => opened(state)?,
        }))
    }
}

carryall_sdk::export!(instance: Account);
