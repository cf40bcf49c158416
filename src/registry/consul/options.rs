//! The options for queries to Consul, the same for every transport.

use std::time::Duration;

use form_urlencoded::Serializer;

use crate::error::{ConfigError, check_range};

/// Which servers may respond, and how old their data may be.
///
/// Measured on 1.8.7: a change arrives after about 10 ms with `Default`, and after 85 ms with `Stale`.
/// During the election of a leader, `Default` and `Consistent` fail, while `Stale` and `Cached` respond.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Consistency {
    /// The leader responds, unless the agent's operator has set another mode.
    #[default]
    Default,
    /// Any server responds that heard from the leader within this time. Otherwise the request goes to
    /// the leader; if that fails, the set is kept and reported as stale.
    Stale(Duration),
    /// The leader responds after it has verified that it still leads.
    Consistent,
    /// The agent responds from its cache, and shares one upstream watch among all its clients.
    Cached,
}

/// The options for queries to Consul.
#[derive(Clone, Debug, PartialEq, Eq)]
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
    /// Adds a datacenter. Of several, the first with instances is used. Without any (the default), it is
    /// the agent's own.
    #[must_use]
    pub fn datacenter(mut self, name: impl Into<String>) -> Self {
        self.datacenters.push(name.into());
        self
    }

    /// Sets which servers may respond; the leader by default.
    #[must_use]
    pub fn consistency(mut self, consistency: Consistency) -> Self {
        self.consistency = consistency;
        self
    }

    /// Makes the servers sort by round-trip time to this node (`_agent` is the agent's node). It has no
    /// effect on the set, which is in the order of the keys.
    #[must_use]
    pub fn near(mut self, node: impl Into<String>) -> Self {
        self.near = Some(node.into());
        self
    }

    /// Sets an expression that instances must satisfy, such as `Service.Meta.version == "2"`; none by
    /// default.
    #[must_use]
    pub fn filter(mut self, expression: impl Into<String>) -> Self {
        self.filter = Some(expression.into());
        self
    }

    /// Sets the namespace (Enterprise); none by default.
    #[must_use]
    pub fn namespace(mut self, name: impl Into<String>) -> Self {
        self.namespace = Some(name.into());
        self
    }

    /// Sets the admin partition (Enterprise); none by default. An agent whose version does not support
    /// partitions would return instances of another partition. So the version is checked first, and an
    /// error is reported.
    #[must_use]
    pub fn partition(mut self, name: impl Into<String>) -> Self {
        self.partition = Some(name.into());
        self
    }

    /// Requests the instances of a peered cluster; none by default. As with partitions, the agent's
    /// version is checked first.
    #[must_use]
    pub fn peer(mut self, name: impl Into<String>) -> Self {
        self.peer = Some(name.into());
        self
    }

    /// Makes the servers omit all instances that are not passing. By default, warning instances get
    /// traffic with their warning weight, and critical ones are listed as withheld.
    #[must_use]
    pub fn passing(mut self) -> Self {
        self.passing = true;
        self
    }

    /// Requests instances that can be reached through Consul's service mesh (`/v1/health/connect`).
    #[must_use]
    pub fn connect(mut self) -> Self {
        self.connect = true;
        self
    }

    /// Uses this tagged address (`lan`, `wan`, …) of an instance, if the instance has it.
    #[must_use]
    pub fn tagged_address(mut self, tag: impl Into<String>) -> Self {
        self.address = Some(tag.into());
        self
    }

    /// Sets how long Consul may hold a query when nothing changes, from 100 ms to 10 min; 20 s by
    /// default. Consul adds up to a sixteenth. A shorter wait costs more requests. An idle set
    /// counts as confirmed for as long as a wait takes, unless
    /// [`WatchSettings::stale_after`](crate::registry::WatchSettings::stale_after) is set.
    #[must_use]
    pub fn wait(mut self, wait: Duration) -> Self {
        self.wait = wait;
        self
    }

    /// Sets how many queries of this registry's watches may block at the same time, from 1 to 10,000;
    /// 128 by default. Each occupies a connection of the agent. An agent accepts 200 from one address
    /// (`http_max_conns_per_client`), and registrations and other processes need some.
    ///
    /// More watches than that take turns: in its turn, the query of a watch blocks for 5 s; otherwise it
    /// reads every 5 s without blocking. So a change is seen within about 5 s instead of at once; above
    /// 500 watches, within a hundredth of a second for each watch. If the agent accepts fewer
    /// connections, the number of blocking queries follows that. One warning is logged in either case.
    #[must_use]
    pub fn max_blocking(mut self, queries: usize) -> Self {
        self.max_blocking = queries;
        self
    }

    pub(super) fn validate(&self) -> Result<(), ConfigError> {
        let waits = Duration::from_millis(100)..=Duration::from_secs(600);
        check_range("consul.wait", self.wait, waits)?;
        check_range("consul.max_blocking", self.max_blocking, 1..=10_000)?;
        let texts = [
            ("near", &self.near),
            ("filter", &self.filter),
            ("namespace", &self.namespace),
            ("partition", &self.partition),
            ("peer", &self.peer),
            ("tagged_address", &self.address),
        ];
        let empty = texts.iter().find(|(_, text)| text.as_deref() == Some(""));
        if let Some((field, _)) = empty {
            return Err(ConfigError::new(
                format!("consul.{field}"),
                "must not be empty",
            ));
        }
        if self.datacenters.iter().any(String::is_empty) {
            return Err(ConfigError::new(
                "consul.datacenter",
                "a datacenter's name must not be empty",
            ));
        }
        Ok(())
    }

    /// Adds the parameters that reads and writes share.
    pub(super) fn tenancy(&self, query: &mut Serializer<'_, String>) {
        for (name, value) in [("ns", &self.namespace), ("partition", &self.partition)] {
            if let Some(value) = value {
                query.append_pair(name, value);
            }
        }
    }
}
