//! A snapshot: the folded state of an aggregate as of one event, under `snapshots/`. Derived and discardable. It says
//! all by itself what it is a fold of and by whom; who reads it compares that with what was asked for, and trusts no
//! byte that the digest in the last line does not cover (I9).

#[cfg(test)]
mod tests;

use std::borrow::Cow;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::Error;
use super::json::Json;
use crate::domain::{Aggregate, Digest, Sequence};

/// Where they lie.
pub const FOLDER: &str = "snapshots/";
const FORMAT: &str = "carryall-snapshot-1";

/// What a fold is made of besides the events: other code, another snapshot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Folder {
    /// The handler.
    pub handler: Digest,
    /// The upcasters of the aggregate type that were active, called or not.
    pub upcasters: Vec<Digest>,
}

/// The last command that was decided.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Decided {
    pub command: Sequence,
    pub failed: bool,
}

/// A folded state, and what the host must know of the stream to go on from it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snapshot {
    pub store: Uuid,
    pub aggregate: Aggregate,
    /// Everything up to this event is folded.
    pub sequence: Sequence,
    /// Id of the event with that sequence: of another history, another snapshot.
    pub event_id: Uuid,
    pub last_domain: Sequence,
    /// The oldest command that had no outcome then; whoever goes on reads the log from there.
    pub first_undecided: Option<Sequence>,
    pub last_decided: Option<Decided>,
    pub folder: Folder,
    /// Those of the folder's upcasters that were called.
    pub used: Vec<Digest>,
    /// `None`: the aggregate does not exist.
    pub state: Option<Json>,
}

#[derive(Serialize, Deserialize)]
struct Header<'a> {
    format: Cow<'a, str>,
    store: Uuid,
    aggregate_type: Cow<'a, str>,
    aggregate_id: Cow<'a, str>,
    sequence: Sequence,
    event_id: Uuid,
    last_domain: Sequence,
    first_undecided: Option<Sequence>,
    last_decided: Option<Decided>,
    handler: Digest,
    upcasters: Cow<'a, [Digest]>,
    used: Cow<'a, [Digest]>,
    exists: bool,
}

#[derive(Serialize, Deserialize)]
struct Footer {
    digest: Digest,
}

/// Key of the snapshot of an aggregate as of a sequence. Those of one handler behind the same upcasters lie together,
/// so that what nobody asks for any more can be deleted by folder.
pub fn key(aggregate: &Aggregate, sequence: Sequence, folder: &Folder) -> String {
    let mut by = short(folder.handler);
    if !folder.upcasters.is_empty() {
        let all: Vec<u8> = folder.upcasters.iter().flat_map(|digest| digest.0).collect();
        by = format!("{by}-{}", short(Digest::of(&all)));
    }
    let name = Digest::of(aggregate.to_string().as_bytes()).to_string();
    format!("{FOLDER}{by}/{}/{name}/{:016}.ndjson", &name[..2], sequence.0)
}

fn short(digest: Digest) -> String {
    digest.to_string()[..16].to_owned()
}

impl Snapshot {
    /// Three lines: header, state, and the digest of both.
    pub fn encode(&self) -> Bytes {
        let header = Header {
            format: FORMAT.into(),
            store: self.store,
            aggregate_type: self.aggregate.kind.as_str().into(),
            aggregate_id: self.aggregate.id.as_str().into(),
            sequence: self.sequence,
            event_id: self.event_id,
            last_domain: self.last_domain,
            first_undecided: self.first_undecided,
            last_decided: self.last_decided,
            handler: self.folder.handler,
            upcasters: self.folder.upcasters.as_slice().into(),
            used: self.used.as_slice().into(),
            exists: self.state.is_some(),
        };
        let mut bytes = serde_json::to_vec(&header).expect("ids, numbers and digests always serialise");
        bytes.push(b'\n');
        bytes.extend_from_slice(self.state.as_ref().map_or("null", Json::as_str).as_bytes());
        bytes.push(b'\n');
        let footer = Footer { digest: Digest::of(&bytes) };
        serde_json::to_writer(&mut bytes, &footer).expect("a digest always serialises");
        bytes.push(b'\n');
        Bytes::from(bytes)
    }

    /// Reads what any release wrote, whole and unchanged.
    pub fn decode(bytes: &[u8]) -> Result<Snapshot, Error> {
        let wrong = |reason: String| Error::Snapshot { reason };
        let text = bytes.strip_suffix(b"\n").ok_or_else(|| wrong("the last line is cut".into()))?;
        let cut = text.iter().rposition(|byte| *byte == b'\n').ok_or_else(|| wrong("there is one line".into()))?;
        let (body, footer) = bytes.split_at(cut + 1);
        let footer: Footer = serde_json::from_slice(footer).map_err(|error| wrong(error.to_string()))?;
        if Digest::of(body) != footer.digest {
            return Err(wrong("the digest is that of other bytes".into()));
        }
        let cut = body.iter().position(|byte| *byte == b'\n').expect("the body ends with a line feed");
        let header: Header<'_> = serde_json::from_slice(&body[..cut]).map_err(|error| wrong(error.to_string()))?;
        if header.format != FORMAT {
            return Err(wrong(format!("this release does not read the format {}", header.format)));
        }
        let state = body[cut + 1..].strip_suffix(b"\n").ok_or_else(|| wrong("there is no state".into()))?;
        let aggregate = Aggregate::parse(&header.aggregate_type, &header.aggregate_id);
        Ok(Snapshot {
            store: header.store,
            aggregate: aggregate.map_err(|error| wrong(error.to_string()))?,
            sequence: header.sequence,
            event_id: header.event_id,
            last_domain: header.last_domain,
            first_undecided: header.first_undecided,
            last_decided: header.last_decided,
            folder: Folder { handler: header.handler, upcasters: header.upcasters.into_owned() },
            used: header.used.into_owned(),
            state: if header.exists { Some(Json::parse(state)?) } else { None },
        })
    }
}
