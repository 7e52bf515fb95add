//! Domain logic that runs both natively and inside the `decider` component, so that the benchmark of the sandbox
//! compares the same code. An account with a history: about 1 KiB of JSON a message.

use serde::{Deserialize, Serialize};

/// State of an account.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Account {
    pub owner: String,
    pub balance: i64,
    pub deposits: u64,
    pub last_note: String,
}

/// Payload of the command `DEPOSIT`, and data of the event `DEPOSITED`.
#[derive(Debug, Serialize, Deserialize)]
pub struct Deposit {
    pub amount: i64,
    pub note: String,
    pub tags: Vec<String>,
}

/// Decides a deposit: the data of its event, or why not.
pub fn decide(state: Option<&str>, payload: &str) -> Result<String, String> {
    let account: Account = state.map_or(Ok(Account::default()), serde_json::from_str).map_err(|e| e.to_string())?;
    let deposit: Deposit = serde_json::from_str(payload).map_err(|error| error.to_string())?;
    if deposit.amount <= 0 || account.balance.checked_add(deposit.amount).is_none() {
        return Err("amount".into());
    }
    serde_json::to_string(&deposit).map_err(|error| error.to_string())
}

/// Folds deposits into the state.
pub fn evolve<'a>(state: Option<&str>, events: impl Iterator<Item = &'a str>) -> Result<String, String> {
    let mut account: Account = state.map_or(Ok(Account::default()), serde_json::from_str).map_err(|e| e.to_string())?;
    for data in events {
        let deposit: Deposit = serde_json::from_str(data).map_err(|error| error.to_string())?;
        account.balance = account.balance.saturating_add(deposit.amount);
        account.deposits += 1;
        account.last_note = deposit.note;
    }
    serde_json::to_string(&account).map_err(|error| error.to_string())
}
