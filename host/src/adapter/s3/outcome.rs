//! What an answer of S3, or the lack of one, proves about a write. The rule: `Refused` and `Unavailable` of a
//! conditional write only when it certainly did not and will not take effect; `Unknown` for all else (decision 21).

use std::io;

use aws_sdk_s3::config::http::HttpResponse;
use aws_sdk_s3::error::{ProvideErrorMetadata, SdkError};

use super::WHAT;
use crate::port::object_store::{PutIf, PutNew};
use crate::port::{Error, Result};

/// What came back, whatever was asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Answer {
    /// The server's word, in its own form: a status, and a code of S3 when the answer has one.
    Said { status: u16, code: Option<String>, message: String },
    /// Nothing was sent: the request could not be made, or nobody listens at the address.
    NotSent(String),
    /// Anything may have happened.
    Unclear(String),
}

impl Answer {
    pub(super) fn of<E>(error: &SdkError<E, HttpResponse>) -> Answer
    where
        E: ProvideErrorMetadata + std::error::Error + 'static,
    {
        match error {
            SdkError::ServiceError(said) => Answer::Said {
                status: said.raw().status().as_u16(),
                code: said.err().code().map(str::to_owned),
                message: said.err().message().unwrap_or("no message").to_owned(),
            },
            SdkError::ConstructionFailure(_) => Answer::NotSent(chain(error)),
            SdkError::DispatchFailure(_) if nobody_listens(error) => Answer::NotSent(chain(error)),
            _ => Answer::Unclear(chain(error)),
        }
    }

    /// What is wrong, for calls whose effect is not in question or can be made again.
    pub(super) fn into_error(self) -> Error {
        let (refused, reason) = match self {
            Answer::Said { status, code, message } => {
                let refused = code.is_some() && (300..=499).contains(&status) && !passes(status, code.as_deref());
                (refused, format!("{status} {}: {message}", code.unwrap_or_else(|| "without a code".into())))
            }
            Answer::NotSent(reason) | Answer::Unclear(reason) => (false, reason),
        };
        if refused { Error::Refused { what: WHAT, reason } } else { Error::Unavailable { what: WHAT, reason } }
    }
}

/// Whether it will pass by itself: overload, a time limit, a conflict with a request under way.
fn passes(status: u16, code: Option<&str>) -> bool {
    let conflict = matches!(code, Some("RequestTimeout" | "OperationAborted" | "ConditionalRequestConflict"));
    conflict || matches!(status, 408 | 409 | 425 | 429)
}

/// Only a missing key. A missing bucket, or a 404 that S3 did not write, must not read as an empty log.
pub(super) fn absent(answer: &Answer) -> bool {
    matches!(answer, Answer::Said { status: 404, code: Some(code), .. } if code == "NoSuchKey")
}

/// Outcome of a write with `If-None-Match: *` that did not simply succeed.
pub(super) fn put_new(answer: Answer, key: &str) -> Result<PutNew> {
    match &answer {
        Answer::Said { status: 412, .. } => return Ok(PutNew::Exists),
        // S3 says no under one of its own codes, or does not know the condition.
        Answer::Said { status: 501, code: Some(_), message } => {
            let reason = format!("it does not know conditional writes: {message}");
            return Err(Error::Refused { what: WHAT, reason });
        }
        Answer::Said { status: 300..=499, code: Some(_), .. } => match answer.into_error() {
            refused @ Error::Refused { .. } => return Err(refused),
            error => tracing::warn!(key, %error, "a conditional write is undecided"),
        },
        Answer::NotSent(_) => return Err(answer.into_error()),
        _ => tracing::warn!(key, error = %answer.into_error(), "a conditional write is undecided"),
    }
    Ok(PutNew::Unknown)
}

/// Outcome of a compare-and-set that did not simply succeed. An error leaves open whether it was written.
pub(super) fn put_if(answer: Answer) -> Result<PutIf> {
    match &answer {
        Answer::Said { status: 412, .. } => Ok(PutIf::Changed),
        // `If-Match` on a key that was deleted meanwhile.
        answer if absent(answer) => Ok(PutIf::Changed),
        _ => Err(answer.into_error()),
    }
}

/// A connection that was refused carried nothing.
fn nobody_listens(error: &(dyn std::error::Error + 'static)) -> bool {
    let refused = |error: &(dyn std::error::Error + 'static)| {
        let io = error.downcast_ref::<io::Error>();
        io.is_some_and(|io| io.kind() == io::ErrorKind::ConnectionRefused)
    };
    let mut cause = Some(error);
    while let Some(error) = cause {
        if refused(error) {
            return true;
        }
        cause = error.source();
    }
    false
}

/// An error with its causes, in one line.
pub(super) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let next = error.to_string();
        if !text.ends_with(&next) {
            text.push_str(": ");
            text.push_str(&next);
        }
        cause = error.source();
    }
    text
}
