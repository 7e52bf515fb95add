//! Deploys the handlers that come with the binary: like any other, by upload and activation, with the actor `system`.
//! Activates only what was never activated: from the first activation on, which version serves is the operator's
//! choice. Idempotent: a crash between any two steps, or a second process, ends in the same history.

use bytes::Bytes;

use super::check::Ask;
use super::components;
use super::error::Error;
use super::fold::State;
use super::service::{Deployments, Upload};
use crate::domain::Digest;

/// Who deploys bundled handlers, in the history.
pub const ACTOR: &str = "system";
/// Why, in the history.
pub const REASON: &str = "bundled";

/// What became of a bundled handler.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bundled {
    pub name: String,
    pub digest: Digest,
    pub outcome: Outcome,
}

/// See [`Bundled`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// It was put in charge by this call.
    Activated,
    /// It was in charge already.
    Active,
    /// Another version is in charge by an operator's choice.
    Waiting { active: Digest },
    /// It does not fit what an operator put in charge.
    Refused { reason: String },
}

impl Deployments {
    /// Deploys bundled handlers, given as file stem and bytes. Those that others depend on go first.
    pub async fn ensure_bundled(&self, handlers: &[(&str, Bytes)]) -> Result<Vec<Bundled>, Error> {
        let mut uploads = Vec::with_capacity(handlers.len());
        for (stem, bytes) in handlers {
            uploads.push((*stem, self.ensure_uploaded(bytes).await?));
        }
        uploads.sort_by_key(|(_, upload)| rank(&upload.version.world));
        let mut done = Vec::with_capacity(uploads.len());
        for (stem, upload) in uploads {
            let (name, digest) = (upload.name.clone(), upload.version.digest);
            let outcome = self.ensure_active(upload).await?;
            match &outcome {
                Outcome::Activated | Outcome::Active => {}
                Outcome::Waiting { active } => tracing::info!(
                    handler = name, %digest, %active, bundled = stem,
                    "this binary brings another version than the active one; to put it in charge: \
                     carryall handlers activate {name} {digest} --force"
                ),
                Outcome::Refused { reason } => {
                    tracing::warn!(handler = name, %digest, bundled = stem, reason, "a bundled handler is refused");
                }
            }
            done.push(Bundled { name, digest, outcome });
        }
        Ok(done)
    }

    /// Uploads what the history does not have. What it has is not compiled again, so a later start costs a digest.
    async fn ensure_uploaded(&self, bytes: &Bytes) -> Result<Upload, Error> {
        let digest = components::digest(bytes.clone()).await;
        let damaged = self.trouble().values().any(|trouble| trouble.digest == digest);
        match self.known(digest) {
            Some(upload) if !damaged => Ok(upload),
            _ => self.upload_digested(digest, bytes.clone(), ACTOR).await,
        }
    }

    async fn ensure_active(&self, upload: Upload) -> Result<Outcome, Error> {
        let digest = upload.version.digest;
        if upload.state == State::Active {
            return Ok(Outcome::Active);
        }
        let deployment = self.get(&upload.name).await?;
        if let Some(active) = deployment.active {
            return Ok(charge(digest, active));
        }
        let ask = Ask { if_revision: Some(0), force: true, reason: Some(REASON.into()) };
        match self.activate(&upload.name, digest, ask, ACTOR).await {
            Ok(_) => Ok(Outcome::Activated),
            // Another process was faster, with this version or another.
            Err(Error::Revision { .. }) => {
                Ok(self.get(&upload.name).await?.active.map_or(Outcome::Active, |active| charge(digest, active)))
            }
            Err(error @ Error::Incompatible { .. }) => Ok(Outcome::Refused { reason: error.to_string() }),
            Err(error) => Err(error),
        }
    }
}

/// A handler is in charge already, perhaps since a moment ago through another process.
fn charge(bundled: Digest, active: Digest) -> Outcome {
    if bundled == active { Outcome::Active } else { Outcome::Waiting { active } }
}

/// Readers of a state come after the ones that keep it, projections after both.
fn rank(world: &str) -> u8 {
    match world {
        "upcaster-handler" => 0,
        "ontology-handler" => 1,
        "instance-handler" => 2,
        _ => 3,
    }
}
