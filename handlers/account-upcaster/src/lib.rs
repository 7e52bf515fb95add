//! Example of an upcaster: deposits recorded before accounts knew currencies, in the form that names one.
//!
//! Both forms are declared here as they are stored. Neither changes any more, whatever the code of accounts becomes.

use carryall_sdk::{json, prelude::*};
use serde::{Deserialize, Serialize};

const DEPOSITED: &str = "MONEY_DEPOSITED";
/// Until the second version every account was kept in euros.
const CURRENCY: &str = "EUR";

/// Version 1.0.0.
#[derive(Deserialize)]
struct Before {
    amount_cents: u64,
    balance_cents: u64,
}

/// Version 2.0.0.
#[derive(Serialize)]
struct After {
    amount: Money,
    balance_cents: u64,
}

#[derive(Serialize)]
struct Money {
    cents: u64,
    currency: &'static str,
}

pub struct AccountUpcaster;

impl UpcasterHandler for AccountUpcaster {
    fn manifest() -> Manifest {
        Manifest::new("account-upcaster", env!("CARGO_PKG_VERSION")).kind("Account")
    }

    fn understands() -> Vec<(&'static str, &'static str)> {
        vec![(DEPOSITED, "1.0.0")]
    }

    fn makes() -> Vec<(&'static str, &'static str)> {
        vec![(DEPOSITED, "2.0.0")]
    }

    fn upcast(event: Stored) -> Result<Vec<Stored>, Fault> {
        let before: Before = json::read(&event.name, &event.data)?;
        let amount = Money { cents: before.amount_cents, currency: CURRENCY };
        let data = json::write(&After { amount, balance_cents: before.balance_cents })?;
        Ok(vec![Stored { schema_version: "2.0.0".into(), data, ..event }])
    }
}

carryall_sdk::export!(upcaster: AccountUpcaster);

#[cfg(test)]
mod tests;
