//! The handlers of a simulated store, and other versions of them that are put in charge in the middle of a run. One
//! of these refuses in other words, so that a decision that names a version which did not make it is found when it is
//! made again.

use std::sync::{Arc, OnceLock};

use bytes::Bytes;

use crate::sandbox::Handler;
use crate::tests::components::{abuse, component, sandbox, variant};

/// What a client hears who moves money of an account that is not open, and what the other version says: as long.
const WORDS: (&str, &str) = ("open the account first", "first open the account");

/// A component, loaded.
#[derive(Debug)]
pub struct Version {
    /// Name of the handler.
    pub name: &'static str,
    pub bytes: Bytes,
    pub handler: Arc<Handler>,
}

/// All versions, compiled once for all runs; the first [`BUNDLED`] are those that every process brings.
pub fn versions() -> &'static [Version] {
    static VERSIONS: OnceLock<Vec<Version>> = OnceLock::new();
    VERSIONS.get_or_init(|| {
        let (account, projection) = (component("examples/account"), component("examples/account-projection"));
        let things: Bytes = abuse("decider").into();
        let all = [
            ("account", account.clone()),
            ("abuse", things.clone()),
            ("account-projection", projection.clone()),
            ("account", in_other_words(&account)),
            ("account", variant(&account, 1)),
            ("abuse", variant(&things, 1)),
            ("account-projection", variant(&projection, 1)),
        ];
        let load = |(name, bytes): (&'static str, Bytes)| {
            let handler = sandbox().load(&bytes).unwrap();
            Version { name, bytes, handler }
        };
        all.into_iter().map(load).collect()
    })
}

/// How many versions the processes bring.
pub const BUNDLED: usize = 3;

fn in_other_words(component: &Bytes) -> Bytes {
    let (from, to) = WORDS;
    let places: Vec<usize> =
        (0..component.len() - from.len()).filter(|at| component[*at..].starts_with(from.as_bytes())).collect();
    assert_eq!(places.len(), 1, "the account handler says {from:?} in one place");
    let mut bytes = component.to_vec();
    bytes[places[0]..places[0] + to.len()].copy_from_slice(to.as_bytes());
    bytes.into()
}
