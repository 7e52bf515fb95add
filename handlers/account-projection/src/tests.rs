//! The document of an account over its life.

use super::AccountProjection;
use carryall_sdk::testing::{history, projected};
use serde_json::{Value, json};

fn document(count: usize) -> Option<Value> {
    let events = [
        ("ACCOUNT_OPENED", json!({"owner": "Ada"})),
        ("MONEY_DEPOSITED", json!({"amount_cents": 500, "balance_cents": 500})),
        ("MONEY_WITHDRAWN", json!({"amount_cents": 500, "balance_cents": 0})),
        ("ACCOUNT_CLOSED", json!({})),
    ];
    projected::<AccountProjection>(&history("Account", "a1", events.into_iter().take(count))).document("accounts", "a1")
}

#[test]
fn an_opened_account_is_empty() {
    assert_eq!(
        document(1),
        Some(json!({"account_id": "a1", "owner": "Ada", "balance_cents": 0, "closed": false, "sequence_number": 2,
            "opened_at": "2025-12-17T00:00:00.000Z", "updated_at": "2025-12-17T00:00:00.000Z"}))
    );
}

#[test]
fn movements_change_the_balance_and_keep_the_owner() {
    assert_eq!(
        document(2),
        Some(json!({"account_id": "a1", "owner": "Ada", "balance_cents": 500, "closed": false, "sequence_number": 4,
            "opened_at": "2025-12-17T00:00:00.000Z", "updated_at": "2025-12-17T00:00:01.000Z"}))
    );
}

#[test]
fn a_closed_account_stays_readable() {
    assert_eq!(
        document(4),
        Some(json!({"account_id": "a1", "owner": "Ada", "balance_cents": 0, "closed": true, "sequence_number": 8,
            "opened_at": "2025-12-17T00:00:00.000Z", "updated_at": "2025-12-17T00:00:03.000Z"}))
    );
}
