//! Example of a whole domain in one file: accounts that are opened, filled, drawn on and closed.
//!
//! Amounts are whole cents, so no sum is ever rounded. A closed account keeps its state: its id is never used
//! again.

use carryall_sdk::prelude::*;
use serde::{Deserialize, Serialize};

/// The greatest balance: the last whole number that every JSON reader keeps exact.
const CENTS_MAX: u64 = (1 << 53) - 1;

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Open {
    pub owner: String,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Amount {
    pub amount_cents: u64,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Close {}

carryall_sdk::messages! {
    pub enum Command {
        "OPEN_ACCOUNT" "1.0.0" => Open(Open),
        "DEPOSIT" "1.0.0" => Deposit(Amount),
        "WITHDRAW" "1.0.0" => Withdraw(Amount),
        "CLOSE_ACCOUNT" "1.0.0" => Close(Close),
    }
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Opened {
    pub owner: String,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Moved {
    pub amount_cents: u64,
    /// After the movement.
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

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct State {
    pub owner: String,
    pub balance_cents: u64,
    pub closed: bool,
}

pub struct Account;

impl InstanceHandler for Account {
    type State = State;
    type Command = Command;
    type Event = Event;

    fn manifest() -> Manifest {
        Manifest::new("account", env!("CARGO_PKG_VERSION")).kind("Account").state("account", "1.0.0")
    }

    fn decide(_: &Context, state: Option<&State>, command: &Received<Command>) -> Result<Decision<Event>, Fault> {
        Ok(match (&command.body, state) {
            (Command::Open(open), None) => decide_open(open),
            (Command::Open(_), Some(_)) => refuse("account-exists", "this account was opened before"),
            (_, None) => refuse("account-not-open", "open the account first"),
            (_, Some(account)) if account.closed => refuse("account-closed", "this account is closed"),
            (Command::Deposit(amount), Some(account)) => decide_deposit(amount, account),
            (Command::Withdraw(amount), Some(account)) => decide_withdraw(amount, account),
            (Command::Close(_), Some(account)) if account.balance_cents > 0 => {
                refuse("balance-not-zero", "withdraw the balance before closing")
            }
            (Command::Close(_), Some(_)) => Decision::accept(Event::Closed(Closed {})),
        })
    }

    fn evolve(state: Option<State>, event: Recorded<Event>) -> Result<Option<State>, Fault> {
        let account = |state: Option<State>| state.ok_or_else(|| Fault::new("not-open", "a movement before opening"));
        Ok(Some(match event.body {
            Event::Opened(opened) => State { owner: opened.owner, balance_cents: 0, closed: false },
            Event::Deposited(moved) | Event::Withdrawn(moved) => {
                State { balance_cents: moved.balance_cents, ..account(state)? }
            }
            Event::Closed(_) => State { closed: true, ..account(state)? },
        }))
    }
}

fn decide_open(open: &Open) -> Decision<Event> {
    if open.owner.trim().is_empty() {
        return Decision::reject(Problem::new("owner-missing", "`owner` must not be empty").at("/owner"));
    }
    Decision::accept(Event::Opened(Opened { owner: open.owner.clone() }))
}

fn decide_deposit(amount: &Amount, account: &State) -> Decision<Event> {
    if let Some(refusal) = refuse_zero(amount) {
        return refusal;
    }
    match account.balance_cents.checked_add(amount.amount_cents).filter(|sum| *sum <= CENTS_MAX) {
        Some(balance_cents) => {
            Decision::accept(Event::Deposited(Moved { amount_cents: amount.amount_cents, balance_cents }))
        }
        None => refuse_amount("amount-too-large", "the balance would pass 2^53 - 1 cents"),
    }
}

fn decide_withdraw(amount: &Amount, account: &State) -> Decision<Event> {
    if let Some(refusal) = refuse_zero(amount) {
        return refusal;
    }
    match account.balance_cents.checked_sub(amount.amount_cents) {
        Some(balance_cents) => {
            Decision::accept(Event::Withdrawn(Moved { amount_cents: amount.amount_cents, balance_cents }))
        }
        None => refuse_amount("insufficient-funds", &format!("the balance is {} cents", account.balance_cents)),
    }
}

fn refuse_zero(amount: &Amount) -> Option<Decision<Event>> {
    (amount.amount_cents == 0).then(|| refuse_amount("amount-zero", "move at least one cent"))
}

fn refuse_amount(code: &str, message: &str) -> Decision<Event> {
    Decision::reject(Problem::new(code, message).at("/amount_cents"))
}

fn refuse(code: &str, message: &str) -> Decision<Event> {
    Decision::reject(Problem::new(code, message))
}

carryall_sdk::export!(instance: Account);

#[cfg(test)]
mod tests;
