//! Builds of projections (decision 0011): each is all rows that the versions of one projection with the same
//! collections write, with the claims and checkpoints of its own consumers. Readers see the live one of each
//! projection; another is built beside it and takes over by moving a pointer, whatever the number of rows. Never lets a
//! reader see one that is not whole.

use async_trait::async_trait;
use uuid::Uuid;

use crate::domain::{AggregateType, event_topic};
use crate::port::Result;

/// Name of the bundled projection handler: its consumers have fixed names (contract §4).
pub const BUNDLED: &str = "projection";
/// What stands between a consumer's plain name and the build that it writes.
const AT: char = '@';

/// Where a build is on its way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// Written beside the live one.
    Building,
    /// Has caught up nearly: the consumers of the live one stand still, so that it can do so wholly.
    Taking,
    /// Readers see it.
    Live,
    /// Nobody reads it any more; its rows are being deleted.
    Dropping,
}

impl State {
    /// The text in the table.
    pub fn as_str(self) -> &'static str {
        match self {
            State::Building => "building",
            State::Taking => "taking",
            State::Live => "live",
            State::Dropping => "dropping",
        }
    }

    /// The state that this text in the table names.
    pub fn parse(text: &str) -> Option<State> {
        let all = [State::Building, State::Taking, State::Live, State::Dropping];
        all.into_iter().find(|state| state.as_str() == text)
    }
}

/// A build, as the read model has it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Build {
    /// The projection's name, for its first one; those after it are told apart by `@` and what follows.
    pub name: String,
    /// The projection.
    pub handler: String,
    pub state: State,
    /// Sequence in the projection's deployment history at which it was begun: who knows less of that history leaves the
    /// builds alone.
    pub asked: u64,
    /// Drawn when it was begun.
    pub id: Uuid,
}

impl Build {
    /// How its writers know it.
    pub fn begun(&self) -> Begun {
        Begun { name: self.name.clone(), id: self.id }
    }
}

/// A build as those who write it know it: another one of its name, begun after it was deleted, is not theirs.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Begun {
    pub name: String,
    pub id: Uuid,
}

/// A build to begin, or to take over.
#[derive(Debug, Clone, Copy)]
pub struct Wanted<'a> {
    pub name: &'a str,
    pub handler: &'a str,
    pub asked: u64,
    /// Collections whose readers it is for.
    pub collections: &'a [String],
}

/// The builds of every projection. Each call is one transaction, and safe to repeat.
#[async_trait]
pub trait Builds: Send + Sync + std::fmt::Debug {
    /// All of them, by name.
    async fn builds(&self) -> Result<Vec<Build>>;
    /// Begins a build with a new id: `live` at once when its projection has none, else `building`. Changes nothing when
    /// one of the name is there, or another of the projection is on its way.
    async fn begin(&self, wanted: Wanted<'_>, id: Uuid) -> Result<()>;
    /// Moves a build that is not live from a state to another; gives whether it was in the first.
    async fn turn(&self, name: &str, from: State, to: State) -> Result<bool>;
    /// Makes a build live that is `taking`, and the live one `dropping`, when no consumer of the live one has a
    /// checkpoint beyond that of its successor. `successors`: both names. Gives whether it did so.
    async fn take_over(&self, wanted: Wanted<'_>, successors: &[(String, String)]) -> Result<bool>;
    /// Deletes rows of a build that is `dropping`, and claims and checkpoints of its consumers, at most `limit` of each
    /// sort; when there are none left, the build. Gives whether nothing is left of it. A build that is not there has
    /// its leavings deleted; one in another state stays.
    async fn drop_some(&self, name: &str, consumers: &[String], limit: usize) -> Result<bool>;
}

/// Name of the build of a projection that was first written by a version with this digest, after so many rebuilds that
/// were asked for.
pub fn later_build(handler: &str, digest12: &str, rebuilds: u64) -> String {
    let again = if rebuilds == 0 { String::new() } else { format!(".{rebuilds}") };
    format!("{handler}{AT}{digest12}{again}")
}

/// The consumer of a build that does what the consumer with the plain name does for the first one.
pub fn consumer_of(build: &str, plain: &str) -> String {
    match build.split_once(AT) {
        Some((_, which)) => format!("{plain}{AT}{which}"),
        None => plain.to_owned(),
    }
}

/// The plain name of the consumer that a projection handler has for the events of an aggregate type.
pub fn name(handler: &str, kind: &AggregateType) -> String {
    if handler == BUNDLED { format!("projection_worker:{}", event_topic(kind)) } else { format!("{handler}:{kind}") }
}

/// The plain name of a consumer, whichever build it writes.
pub fn plain(consumer: &str) -> &str {
    consumer.split_once(AT).map_or(consumer, |(plain, _)| plain)
}

/// Name under which operators see a consumer whose build is not the live one: the plain name is that of the consumer
/// which writes what readers see.
pub fn shown(consumer: &str) -> String {
    if plain(consumer) == consumer { format!("{consumer}{AT}first") } else { consumer.to_owned() }
}
