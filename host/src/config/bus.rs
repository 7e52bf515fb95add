//! Which bus a process uses: its own, or Kafka. Understands the settings that name it; opens nothing.

use super::Reader;

/// A Kafka cluster, and which part of it is ours.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kafka {
    /// `host:port`, separated by commas.
    pub bootstrap_servers: String,
    /// Begins the names of topics and groups, for clusters that others use too.
    pub prefix: String,
}

impl Reader<'_> {
    /// Kafka, when its servers are named.
    pub(super) fn kafka(&mut self) -> Option<Kafka> {
        let (servers, prefix) = (self.values.text("kafka_bootstrap_servers"), self.values.text("kafka_prefix"));
        if servers.is_empty() {
            if !prefix.is_empty() {
                self.refuse("kafka_prefix", "needs KAFKA_BOOTSTRAP_SERVERS: without it there is no Kafka");
            }
            return None;
        }
        let has_port = |server: &str| {
            let (host, port) = server.trim().rsplit_once(':')?;
            (!host.is_empty() && port.parse::<u16>().is_ok()).then_some(())
        };
        if servers.split(',').any(|server| has_port(server).is_none()) {
            self.refuse("kafka_bootstrap_servers", "must be host:port, or several of them separated by commas");
        }
        let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
        if prefix.len() > PREFIX_LENGTH_MAX || !prefix.chars().all(fits) {
            self.refuse("kafka_prefix", "must be at most 64 of a-z, A-Z, 0-9, `.`, `_` and `-`, as in names of topics");
        }
        Some(Kafka { bootstrap_servers: servers.to_owned(), prefix: prefix.to_owned() })
    }
}

/// Leaves room for the name itself: Kafka takes 249 characters.
const PREFIX_LENGTH_MAX: usize = 64;
