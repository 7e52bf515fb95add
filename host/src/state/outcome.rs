//! What a verdict is recorded as: name, version and data of each event. Pure, and the only place that knows: the worker
//! writes it, and a replay compares what is stored with it (I8).

use std::borrow::Cow;

use serde_json::json;
use uuid::Uuid;

use crate::codec;
use crate::codec::json::Json;
use crate::domain::event_type;
use crate::sandbox::{Problem, Verdict};

/// Version of the events that the host itself makes.
const HOST_VERSION: &str = "1.0.0";

/// One event of an outcome.
#[derive(Debug, Clone)]
pub struct Recorded<'a> {
    pub name: &'a str,
    pub schema_version: &'a str,
    pub data: Cow<'a, Json>,
}

/// The events of a verdict: at least one.
pub fn recorded(command_id: Uuid, verdict: &Verdict) -> Result<Vec<Recorded<'_>>, codec::Error> {
    match verdict {
        Verdict::Accepted(outcome) if outcome.events.is_empty() => {
            let data = json!({"command_id": command_id, "issued": outcome.commands.len()});
            Ok(vec![by_host(event_type::COMMAND_UNCHANGED, &data)?])
        }
        Verdict::Accepted(outcome) => {
            let events = outcome.events.iter().map(|event| Recorded {
                name: &event.name,
                schema_version: &event.schema_version,
                data: Cow::Borrowed(&event.data),
            });
            Ok(events.collect())
        }
        Verdict::Unchanged => Ok(vec![by_host(event_type::COMMAND_UNCHANGED, &json!({"command_id": command_id}))?]),
        Verdict::Rejected(problems) => {
            let first = problems.first();
            let code = first.map_or("rejected", |problem| &problem.code);
            let message = first.map_or("refused by the handler", |problem| &problem.message);
            Ok(vec![failed(command_id, code, message, problems)?])
        }
    }
}

/// A command that failed.
pub fn failed(
    command_id: Uuid,
    code: &str,
    message: &str,
    problems: &[Problem],
) -> Result<Recorded<'static>, codec::Error> {
    let problems: Vec<_> =
        problems.iter().map(|p| json!({"code": p.code, "message": p.message, "pointer": p.pointer})).collect();
    let data = json!({"command_id": command_id, "code": code, "message": message, "problems": problems});
    by_host(event_type::COMMAND_FAILED, &data)
}

fn by_host(name: &'static str, data: &serde_json::Value) -> Result<Recorded<'static>, codec::Error> {
    Ok(Recorded { name, schema_version: HOST_VERSION, data: Cow::Owned(Json::from_value(data)?) })
}
