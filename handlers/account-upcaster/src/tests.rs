//! What becomes of a stored deposit.
#![allow(clippy::unwrap_used)]

use super::AccountUpcaster;
use carryall_sdk::testing::{described_upcaster, upcast};
use serde_json::json;

#[test]
fn a_deposit_without_a_currency_was_one_in_euros() {
    let stored = json!({"amount_cents": 500, "balance_cents": 700});
    let newer = json!({"amount": {"cents": 500, "currency": "EUR"}, "balance_cents": 700});
    let made = upcast::<AccountUpcaster>("MONEY_DEPOSITED", "1.0.0", &stored);
    assert_eq!(made, [("MONEY_DEPOSITED".into(), "2.0.0".into(), newer)]);
}

#[test]
fn it_names_what_it_takes_and_what_it_makes() {
    let described = described_upcaster::<AccountUpcaster>();
    assert_eq!(described.folds[0].versions, ["1.0.0"]);
    assert_eq!(described.emits[0].versions, ["2.0.0"]);
}
