//! Why a deployment is refused, or not done, or not known to be done.

use super::check::Refusal;
use super::record::Finding;
use crate::codec;
use crate::domain::Digest;
use crate::error::{Classified, Kind};
use crate::event_store::{self, AppendError};
use crate::port;
use crate::sandbox;

/// What every call here may end in.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The sandbox refuses the component: an import, a missing export, a description that makes no sense.
    #[error("the component is refused: {}", with_sources(.0))]
    Component(#[source] sandbox::Error),
    /// What the component says of itself breaks a contract.
    #[error("the component is refused: {}", messages(.findings))]
    Contract { findings: Vec<Finding> },
    /// No handler has this name.
    #[error("there is no handler {name:?}")]
    UnknownHandler { name: String },
    /// The handler has no version with this digest.
    #[error("handler {name} has no version {digest}: upload it first")]
    UnknownDigest { name: String, digest: Digest },
    /// Another activation came first.
    #[error("handler {name} is at revision {actual}, not {expected}: look at it again, then decide again")]
    Revision { name: String, expected: u64, actual: u64 },
    /// There is no version to go back to.
    #[error("handler {name} has had no other version active before the present one")]
    NothingBefore { name: String },
    /// What decides or upcasts writes no documents.
    #[error("handler {name} is no active projection: there is nothing that it wrote")]
    NothingToRebuild { name: String },
    /// Nobody verified the version, and the caller did not insist.
    #[error(
        "version {digest} of {name} has no green verification report: verify it, or activate it with \"force\": true, \
         which the history will say"
    )]
    NotVerified { name: String, digest: Digest },
    /// It does not fit what is active, or what is in the log.
    #[error("version {digest} of {name} cannot become active: {}", messages(.findings))]
    Incompatible { name: String, digest: Digest, findings: Vec<Finding> },
    /// The stored component is not what was uploaded.
    #[error("the stored component {digest} is damaged or missing: upload the same bytes again to repair it")]
    DamagedComponent { digest: Digest },
    /// The reason is too long for the history.
    #[error("the reason has {bytes} bytes, {max} are allowed")]
    Reason { bytes: usize, max: usize },
    /// A limit of this host.
    #[error("{what} may number at most {max}")]
    TooMany { what: &'static str, max: usize },
    /// Others deploy without pause.
    #[error("other deployments of {name} came in between again and again: try again")]
    Contended { name: String },
    /// As many uploads as may run at once are running.
    #[error("{max} uploads are under way, no more are taken: try again")]
    Busy { max: usize },
    /// It is not known whether the object store took the component; repeating the upload is safe.
    #[error("whether component {digest} was stored is not known: upload it again")]
    StoreUnknown { digest: Digest },
    /// The log did not take the event, or it is not known whether it did.
    #[error(transparent)]
    Append(#[from] AppendError),
    /// The log could not be read.
    #[error(transparent)]
    Log(#[from] event_store::Error),
    /// The object store could not be read or written.
    #[error(transparent)]
    Port(#[from] port::Error),
    /// An event could not be built or read.
    #[error(transparent)]
    Codec(#[from] codec::Error),
    /// The component could not be loaded again though it once was.
    #[error("component {digest} does not load any more: {}", with_sources(.source))]
    Reload {
        digest: Digest,
        #[source]
        source: sandbox::Error,
    },
}

impl Error {
    /// The findings behind a refusal, for the body of the answer.
    pub fn findings(&self) -> &[Finding] {
        match self {
            Error::Contract { findings } | Error::Incompatible { findings, .. } => findings,
            _ => &[],
        }
    }

    /// What about a refused component is wrong, as kind and name: `("import", "wasi:sockets/tcp@0.2.0")`.
    pub fn culprit(&self) -> Option<(&'static str, &str)> {
        match self {
            Error::Component(sandbox::Error::RefusedImport { name, .. }) => Some(("import", name)),
            Error::Component(sandbox::Error::MissingExport { name, .. }) => Some(("export", name)),
            Error::Component(sandbox::Error::Contract { field, .. }) => Some(("field", field)),
            _ => None,
        }
    }

    /// The limit that a component is over, in bytes.
    pub fn over_bytes_max(&self) -> Option<usize> {
        match self {
            Error::Component(sandbox::Error::TooLarge { max, .. }) => Some(*max),
            _ => None,
        }
    }

    pub(super) fn refused(name: &str, digest: Digest, refusal: Refusal) -> Error {
        let name = name.to_owned();
        match refusal {
            Refusal::UnknownHandler => Error::UnknownHandler { name },
            Refusal::UnknownDigest => Error::UnknownDigest { name, digest },
            Refusal::Revision { expected, actual } => Error::Revision { name, expected, actual },
            Refusal::NotVerified => Error::NotVerified { name, digest },
            Refusal::Incompatible(findings) => Error::Incompatible { name, digest, findings },
        }
    }
}

impl Classified for Error {
    fn kind(&self) -> Kind {
        match self {
            Error::Contract { .. } | Error::TooMany { .. } | Error::NotVerified { .. } => Kind::Rejected,
            Error::Incompatible { .. } => Kind::Rejected,
            Error::Reason { .. } => Kind::Invalid,
            Error::UnknownHandler { .. } | Error::UnknownDigest { .. } => Kind::NotFound,
            Error::Revision { .. } | Error::NothingBefore { .. } | Error::NothingToRebuild { .. } => Kind::Conflict,
            Error::DamagedComponent { .. } => Kind::Corrupt,
            Error::Contended { .. } | Error::Busy { .. } => Kind::Unavailable,
            Error::StoreUnknown { .. } => Kind::Unavailable,
            Error::Component(error) => match error.kind() {
                Kind::Invalid => Kind::Rejected,
                kind => kind,
            },
            Error::Reload { source, .. } => match source.kind() {
                Kind::Invalid => Kind::Corrupt,
                kind => kind,
            },
            Error::Append(error) => error.kind(),
            Error::Log(error) => error.kind(),
            Error::Port(error) => error.kind(),
            Error::Codec(error) => error.kind(),
        }
    }

    fn code(&self) -> &'static str {
        match self {
            Error::Reason { .. } => "invalid_reason",
            Error::Component(error) => error.code(),
            Error::Contract { .. } => "invalid_manifest",
            Error::UnknownHandler { .. } => "unknown_handler",
            Error::UnknownDigest { .. } => "unknown_digest",
            Error::Revision { .. } => "revision_conflict",
            Error::NothingBefore { .. } => "nothing_to_roll_back_to",
            Error::NothingToRebuild { .. } => "nothing_to_rebuild",
            Error::NotVerified { .. } => "verification_required",
            Error::Incompatible { .. } => "incompatible_handler",
            Error::DamagedComponent { .. } => "damaged_component",
            Error::TooMany { .. } => "too_many",
            Error::Contended { .. } => "deployment_contended",
            Error::Busy { .. } => "overloaded",
            Error::StoreUnknown { .. } => "component_store_unknown",
            Error::Append(error) => error.code(),
            Error::Log(error) => error.code(),
            Error::Port(error) => error.code(),
            Error::Codec(error) => error.code(),
            Error::Reload { .. } => "component_does_not_load",
        }
    }
}

fn messages(findings: &[Finding]) -> String {
    findings.iter().map(|finding| finding.message.as_str()).collect::<Vec<_>>().join("; ")
}

/// The error and what is behind it, in one line: whoever wrote the component gets to see the whole of it.
fn with_sources(error: &sandbox::Error) -> String {
    let mut text = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}
