//! What is asked of Consul, whichever way the questions travel.

use std::time::Duration;

use form_urlencoded::Serializer;

use crate::error::ConfigError;

/// Which servers may answer, and how old their answer may be.
///
/// Measured on 1.8.7: a change arrives after about 10 ms by default and 85 ms with `Stale`. While a
/// leader is elected, `Default` and `Consistent` fail and `Stale` and `Cached` answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Consistency {
    /// The leader answers, or what the agent's operator has set.
    #[default]
    Default,
    /// Any server answers, as long as it heard from the leader within this time; else the leader is
    /// asked, and when it cannot be, the set is kept and reported stale.
    Stale(Duration),
    /// The leader answers after it made sure that it still leads.
    Consistent,
    /// The agent answers from its cache, and shares one upstream watch among all its clients.
    Cached,
}

/// What is asked of Consul.
#[derive(Clone, Debug)]
pub struct ConsulOptions {
    pub(super) datacenters: Vec<String>,
    pub(super) consistency: Consistency,
    pub(super) near: Option<String>,
    pub(super) filter: Option<String>,
    pub(super) namespace: Option<String>,
    pub(super) partition: Option<String>,
    pub(super) peer: Option<String>,
    pub(super) passing: bool,
    pub(super) connect: bool,
    pub(super) address: Option<String>,
    pub(super) wait: Duration,
    pub(super) max_blocking: usize,
}

impl Default for ConsulOptions {
    fn default() -> Self {
        Self {
            datacenters: Vec::new(),
            consistency: Consistency::Default,
            near: None,
            filter: None,
            namespace: None,
            partition: None,
            peer: None,
            passing: false,
            connect: false,
            address: None,
            wait: Duration::from_secs(20),
            max_blocking: 128,
        }
    }
}

impl ConsulOptions {
    /// Adds a datacenter. With several, the first that has instances is used; with none (the
    /// default), the agent's own.
    #[must_use]
    pub fn datacenter(mut self, name: impl Into<String>) -> Self {
        self.datacenters.push(name.into());
        self
    }

    /// Which servers may answer; the leader by default.
    #[must_use]
    pub fn consistency(mut self, consistency: Consistency) -> Self {
        self.consistency = consistency;
        self
    }

    /// Sorts by round-trip time to this node (`_agent`: the agent's). Only the servers' work: the
    /// order in the set is that of the keys.
    #[must_use]
    pub fn near(mut self, node: impl Into<String>) -> Self {
        self.near = Some(node.into());
        self
    }

    /// Lets only instances through that satisfy this expression, such as
    /// `Service.Meta.version == "2"`.
    #[must_use]
    pub fn filter(mut self, expression: impl Into<String>) -> Self {
        self.filter = Some(expression.into());
        self
    }

    /// The namespace (Enterprise).
    #[must_use]
    pub fn namespace(mut self, name: impl Into<String>) -> Self {
        self.namespace = Some(name.into());
        self
    }

    /// The admin partition (Enterprise). An agent that is too old to know partitions would answer
    /// with the instances of another; this is found out first and reported.
    #[must_use]
    pub fn partition(mut self, name: impl Into<String>) -> Self {
        self.partition = Some(name.into());
        self
    }

    /// Asks for instances of a peered cluster. As with partitions, an agent that is too old to know
    /// peers is found out first.
    #[must_use]
    pub fn peer(mut self, name: impl Into<String>) -> Self {
        self.peer = Some(name.into());
        self
    }

    /// Lets the servers leave out all instances that do not pass. Without it (the default) warning
    /// instances serve with their warning weight, and critical ones are known, but withheld.
    #[must_use]
    pub fn passing(mut self) -> Self {
        self.passing = true;
        self
    }

    /// Asks for instances that can be reached through Consul's service mesh
    /// (`/v1/health/connect`).
    #[must_use]
    pub fn connect(mut self) -> Self {
        self.connect = true;
        self
    }

    /// Takes this one of an instance's tagged addresses (`lan`, `wan`, …) when it has it.
    #[must_use]
    pub fn tagged_address(mut self, tag: impl Into<String>) -> Self {
        self.address = Some(tag.into());
        self
    }

    /// How long Consul may hold a query when nothing changes, from 100 ms to 10 min; 20 s by
    /// default. Consul adds up to a sixteenth. Shorter costs requests; longer than
    /// [`WatchSettings::stale_after`](crate::registry::WatchSettings::stale_after) lets an idle copy be
    /// reported stale.
    #[must_use]
    pub fn wait(mut self, wait: Duration) -> Self {
        self.wait = wait;
        self
    }

    /// How many queries of the watches of this registry may block at the same time, each of which
    /// occupies a connection of the agent; from 1 to 10,000, 128 by default: an agent takes 200 from one
    /// address (`http_max_conns_per_client`), and registrations and other processes need some.
    ///
    /// With more watches than that they take turns: each blocks for 5 s when it has its turn, and looks
    /// every 5 s without blocking while it has none. So a change is seen within about 5 s instead of at
    /// once; above 500 watches within a hundredth of a second for each of them. An agent that grants fewer
    /// connections is found out and followed. Either is warned of once.
    #[must_use]
    pub fn max_blocking(mut self, queries: usize) -> Self {
        self.max_blocking = queries;
        self
    }

    pub(super) fn validate(&self) -> Result<(), ConfigError> {
        let range = Duration::from_millis(100)..=Duration::from_secs(600);
        if !range.contains(&self.wait) {
            return Err(ConfigError::new(
                "wait",
                format!(
                    "{:?} is not in {:?}..={:?}",
                    self.wait,
                    range.start(),
                    range.end()
                ),
            ));
        }
        if !(1..=10_000).contains(&self.max_blocking) {
            return Err(ConfigError::new(
                "max_blocking",
                format!("{} is not in 1..=10000", self.max_blocking),
            ));
        }
        let texts = [
            ("near", &self.near),
            ("filter", &self.filter),
            ("ns", &self.namespace),
            ("partition", &self.partition),
            ("peer", &self.peer),
        ];
        let empty = texts.iter().find(|(_, text)| text.as_deref() == Some(""));
        if let Some((field, _)) = empty {
            return Err(ConfigError::new(*field, "must not be empty"));
        }
        if self.datacenters.iter().any(String::is_empty) {
            return Err(ConfigError::new(
                "dc",
                "a datacenter's name must not be empty",
            ));
        }
        Ok(())
    }

    /// Where the request goes: the parameters that reads and writes share.
    pub(super) fn tenancy(&self, query: &mut Serializer<'_, String>) {
        for (name, value) in [("ns", &self.namespace), ("partition", &self.partition)] {
            if let Some(value) = value {
                query.append_pair(name, value);
            }
        }
    }
}
