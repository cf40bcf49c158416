//! The paths of the requests of one query.

use std::{sync::Arc, time::Duration};

use super::{
    options::{Consistency, ConsulOptions},
    path::segment,
};
use crate::registry::Query;
use form_urlencoded::Serializer;

/// The longest path of a query, in bytes. A URI may have 64 KiB; the rest is for the agent's address and
/// for the filter of a probe.
pub(super) const LONGEST_PATH: usize = 48 << 10;

/// A query for the instances of a service in one datacenter.
pub(super) struct HealthRequest {
    pub(super) options: Arc<ConsulOptions>,
    pub(super) service: Arc<str>,
    tags: Vec<String>,
    datacenter: Option<String>,
}

/// What a request returns.
#[derive(Clone, Copy, Debug)]
pub(super) enum Wanted<'a> {
    /// The list of instances.
    List,
    /// The index of the list, and only those instances that satisfy this expression.
    Index(&'a str),
}

impl HealthRequest {
    pub(super) fn new(
        options: Arc<ConsulOptions>,
        query: &Query,
        datacenter: Option<String>,
    ) -> Self {
        Self {
            options,
            service: Arc::clone(query.service()),
            tags: query.tags().to_vec(),
            datacenter,
        }
    }

    /// With `blocks`, an index and a time, Consul may hold the request that long until there is a newer
    /// index. With `leader`, the leader responds where any server could.
    pub(super) fn path(
        &self,
        wanted: Wanted<'_>,
        blocks: Option<(u64, Duration)>,
        leader: bool,
    ) -> String {
        let ConsulOptions {
            near,
            filter,
            passing,
            connect,
            ..
        } = &*self.options;
        let mut query = self.query(leader);
        if let Some(near) = near {
            query.append_pair("near", near);
        }
        match (filter, wanted) {
            (Some(filter), Wanted::List) => _ = query.append_pair("filter", filter),
            (None, Wanted::Index(only)) => _ = query.append_pair("filter", only),
            (Some(filter), Wanted::Index(only)) => {
                query.append_pair("filter", &format!("({filter}) and {only}"));
            }
            (None, Wanted::List) => {}
        }
        for tag in &self.tags {
            query.append_pair("tag", tag);
        }
        if *passing {
            query.append_key_only("passing");
        }
        if let Some((index, wait)) = blocks {
            query.append_pair("index", &index.to_string());
            query.append_pair("wait", &format!("{}ms", wait.as_millis()));
        }
        let endpoint = if *connect { "connect" } else { "service" };
        let query = query.finish();
        format!("/v1/health/{endpoint}/{}?{query}", segment(&self.service))
    }

    /// The length of the longest path, without the filter of a probe.
    pub(super) fn longest(&self) -> usize {
        let blocks = Some((u64::MAX, self.options.wait));
        self.path(Wanted::List, blocks, true).len()
    }

    /// Asks for the names of all services.
    pub(super) fn catalog_path(&self, leader: bool) -> String {
        format!("/v1/catalog/services?{}", self.query(leader).finish())
    }

    /// The parameters of every request: where it goes, and which servers may answer.
    fn query(&self, leader: bool) -> Serializer<'static, String> {
        let mut query = Serializer::new(String::new());
        self.options.tenancy(&mut query);
        let pairs = [("dc", &self.datacenter), ("peer", &self.options.peer)];
        for (name, value) in pairs {
            if let Some(value) = value {
                query.append_pair(name, value);
            }
        }
        let mode = match self.options.consistency {
            Consistency::Default => return query,
            // Not the default mode, because an operator can make that stale too.
            Consistency::Stale(_) if leader => "leader",
            Consistency::Stale(_) => "stale",
            Consistency::Consistent => "consistent",
            Consistency::Cached => "cached",
        };
        query.append_key_only(mode);
        query
    }

    /// Whether the list may be empty although the service has instances.
    pub(super) fn is_filtered(&self) -> bool {
        let ConsulOptions {
            filter,
            passing,
            connect,
            ..
        } = &*self.options;
        !self.tags.is_empty() || filter.is_some() || *passing || *connect
    }
}
