//! Each rule of the account, as a scenario.
#![allow(clippy::unwrap_used)]

use super::{Account, Amount, CENTS_MAX, Close, Closed, Command, Event, Moved, Open, Opened};
use carryall_sdk::testing::{Given, given, given_nothing};
use serde_json::json;

fn opened() -> Event {
    Event::Opened(Opened { owner: "Ada".into() })
}

fn deposited(amount_cents: u64, balance_cents: u64) -> Event {
    Event::Deposited(Moved { amount_cents, balance_cents })
}

fn withdrawn(amount_cents: u64, balance_cents: u64) -> Event {
    Event::Withdrawn(Moved { amount_cents, balance_cents })
}

fn deposit(amount_cents: u64) -> Command {
    Command::Deposit(Amount { amount_cents })
}

fn withdraw(amount_cents: u64) -> Command {
    Command::Withdraw(Amount { amount_cents })
}

fn filled() -> Given<Account> {
    given::<Account>([opened(), deposited(500, 500)])
}

#[test]
fn an_account_lives_from_opening_to_closing() {
    let end = given_nothing::<Account>()
        .when(Command::Open(Open { owner: "Ada".into() }))
        .then([opened()])
        .when(deposit(500))
        .then([deposited(500, 500)])
        .when(withdraw(500))
        .then([withdrawn(500, 0)])
        .when(Command::Close(Close {}))
        .then([Event::Closed(Closed {})]);
    assert_eq!(end.state(), Some(json!({"owner": "Ada", "balance_cents": 0, "closed": true})));
}

#[test]
fn an_account_is_opened_once_and_needs_an_owner() {
    filled().when(Command::Open(Open { owner: "Bob".into() })).then_rejected("account-exists");
    given_nothing::<Account>().when(Command::Open(Open { owner: " ".into() })).then_rejected("owner-missing");
}

#[test]
fn an_account_that_was_never_opened_moves_no_money() {
    given_nothing::<Account>()
        .when(deposit(1))
        .then_rejected("account-not-open")
        .when(withdraw(1))
        .then_rejected("account-not-open")
        .when(Command::Close(Close {}))
        .then_rejected("account-not-open");
}

#[test]
fn a_closed_account_moves_no_money_and_stays_closed() {
    given::<Account>([opened(), Event::Closed(Closed {})])
        .when(deposit(1))
        .then_rejected("account-closed")
        .when(Command::Close(Close {}))
        .then_rejected("account-closed")
        .when(Command::Open(Open { owner: "Ada".into() }))
        .then_rejected("account-exists");
}

#[test]
fn amounts_are_bounded_by_zero_the_balance_and_exact_numbers() {
    filled()
        .when(deposit(0))
        .then_rejected("amount-zero")
        .when(withdraw(0))
        .then_rejected("amount-zero")
        .when(withdraw(501))
        .then_rejected("insufficient-funds")
        .when(deposit(CENTS_MAX))
        .then_rejected("amount-too-large")
        .when(deposit(CENTS_MAX - 500))
        .then([deposited(CENTS_MAX - 500, CENTS_MAX)]);
}

#[test]
fn money_left_keeps_an_account_open() {
    filled().when(Command::Close(Close {})).then_rejected("balance-not-zero");
}

#[test]
fn a_payload_of_another_shape_is_refused_and_not_a_fault() {
    filled()
        .when(("DEPOSIT", json!({"amount_cents": "5"})))
        .then_rejected("invalid-payload")
        .when(("DEPOSIT", json!({"amount_cents": -5})))
        .then_rejected("invalid-payload");
    filled().when(("BORROW", json!({}))).then_fault("unknown-command");
}
