//! The blocking query loop of one service in one datacenter.
//!
//! An index is valid only for the agent that returned it. An agent that was restarted between two
//! requests may count from any number; a query with an index above its own blocks for a whole wait. So
//! the index is dropped when the connection that it came on is lost, before or during a request. A
//! server that closes the connection after each response costs one plain read per response.

use std::{pin::pin, sync::Arc, time::Duration};

use http::Method;
use tokio::time::Instant;

use super::{
    options::{Consistency, ConsulOptions},
    probe::{NOBODY, Probe},
    transport::Transport,
    turns::{Place, Turns},
    wire,
};
use crate::{
    catalog::{Listing, Rejected},
    connect::Link,
    error::{ErrorKind, RegistryError},
    registry::{
        Answer, BoxFuture, Query, Source,
        http::{Reply, Request},
    },
};

/// The deadline of a request that does not block. It is above the 7 s for which a server waits for a
/// leader.
const READ_WITHIN: Duration = Duration::from_secs(15);

/// How long a blocking query may take beyond its wait and Consul's jitter of a sixteenth; also above
/// those 7 s.
const MARGIN: Duration = Duration::from_secs(10);

/// How long a query may continue after the connection that gave its index was lost. The query may be on
/// that connection, and then its own error gives a better reason. The runtime sees both in the same
/// turn. Arbitrary: longer than a turn, and much shorter than a wait.
const ENDS_WITHIN: Duration = Duration::from_millis(100);

/// The first wait after a change, if the transport hides its connections. An agent that was restarted
/// during the pause before the request returns its lower index at the end of this wait.
const FIRST_WAIT: Duration = Duration::from_secs(1);

/// The pause before a read that was refused a connection is sent again. Arbitrary: with so many blocking
/// queries, one ends every few milliseconds.
const REFUSED_PAUSE: Duration = Duration::from_millis(100);

/// Versions below these ignore `partition` and `peer`, and would return other instances.
const KNOWS_PARTITIONS: (u32, u32) = (1, 11);
const KNOWS_PEERS: (u32, u32) = (1, 13);

/// Reads the instances of a service.
pub(super) struct HealthQuery {
    transport: Arc<dyn Transport>,
    turns: Arc<Turns>,
    options: Arc<ConsulOptions>,
    service: Arc<str>,
    decoder: wire::Decoder,
    tags: Vec<String>,
    datacenter: Option<String>,
    /// The agent to use, modulo their number. An index is valid for one agent only.
    agent: usize,
    /// The index of the last response; `None` after an error or a regression, until the next response.
    index: Option<u64>,
    /// The connection that gave the index, if the transport exposes it.
    link: Option<Link>,
    /// Whether the last read dropped the index because its connection was lost. If the next connection
    /// is lost too, the server closes the connection after each response, and the index is kept.
    anew: bool,
    /// Whether the last response had a new index, so that the next request may come after a pause.
    news: bool,
    /// The index of the last good response, and whether it listed instances. Kept after errors, to judge
    /// an empty response that follows.
    last: Option<(u64, bool)>,
    /// The number of successive early responses with the requested index.
    early: u32,
    /// Decides whether to probe for changes.
    probe: Probe,
    /// Until when requests go to the leader, because a stale response was too old.
    leader_until: Option<Instant>,
    /// Whether the version of this agent supports the options.
    suitable: bool,
}

/// What a query requests.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Asked {
    List,
    /// The index only.
    Probe,
}

/// The parameters of a blocking query.
struct Hold<'a> {
    place: &'a Place<'a>,
    index: u64,
    wait: Duration,
    /// The connection that gave the index; `None` if it is lost or unknown.
    link: Option<Link>,
}

impl HealthQuery {
    pub(super) fn new(
        transport: Arc<dyn Transport>,
        turns: Arc<Turns>,
        options: Arc<ConsulOptions>,
        query: &Query,
        datacenter: Option<String>,
    ) -> Self {
        let service = Arc::clone(query.service());
        Self {
            decoder: wire::Decoder::new(Arc::clone(&service), options.address.clone()),
            transport,
            turns,
            options,
            service,
            tags: query.tags().to_vec(),
            datacenter,
            agent: 0,
            index: None,
            link: None,
            anew: false,
            news: false,
            last: None,
            early: 0,
            probe: Probe::default(),
            leader_until: None,
            suitable: false,
        }
    }

    async fn ask(&mut self, index: Option<u64>) -> Result<Answer, RegistryError> {
        let answer = self.exchange(index).await;
        if let Err(error) = &answer {
            self.index = None;
            let kind = error.kind();
            if error.is_unreachable() || matches!(kind, ErrorKind::Limited | ErrorKind::Malformed) {
                self.agent = self.agent.wrapping_add(1);
                self.suitable = false;
            }
        }
        answer
    }

    async fn exchange(&mut self, mut index: Option<u64>) -> Result<Answer, RegistryError> {
        self.check_version().await?;
        if self.leader_until.is_some_and(|at| at <= Instant::now()) {
            self.leader_until = None;
            // The indexes of two consistency modes are not comparable.
            index = None;
        }
        let turns = Arc::clone(&self.turns);
        let place = match index {
            Some(_) => turns.place().await,
            None => None,
        };
        let link = self.link.take();
        let lost = link.as_ref().is_some_and(Link::is_lost);
        self.anew = index.is_some() && lost && !self.anew;
        if self.anew {
            tracing::debug!(service = %self.service, "the connection that gave the index was lost");
            index = None;
        }
        let hold = place.as_ref().zip(index).map(|(place, index)| Hold {
            place,
            index,
            wait: match (&link, self.news) {
                (None, true) => self.options.wait.min(FIRST_WAIT),
                _ => self.options.wait,
            },
            link: link.filter(|_| !lost),
        });
        let mut probed = None;
        if let Some(known) = index.filter(|_| self.probe.is_used(self.options.consistency)) {
            // The first probe after a list does not block: it checks that the probe has the index of the
            // list.
            let mut blocks = hold.as_ref().filter(|_| self.probe.agrees(known));
            loop {
                let Some((reply, new)) = self.query(Asked::Probe, blocks).await? else {
                    return Ok(Answer::Resync);
                };
                let same = self.probe.compare(known, new);
                if same && blocks.is_none() && hold.is_some() {
                    blocks = hold.as_ref();
                    continue;
                }
                if same {
                    self.probe.confirm();
                    (self.link, self.news) = (reply.link, false);
                    return Ok(Answer::Unchanged);
                }
                probed = Some(new);
                break;
            }
        }
        let blocks = hold.as_ref().filter(|_| probed.is_none());
        let Some((reply, new)) = self.query(Asked::List, blocks).await? else {
            return Ok(Answer::Resync);
        };
        if probed.is_some_and(|probed| new < probed) {
            self.index = None;
            return Ok(Answer::Resync);
        }
        // At the end of a wait the list should not have changed. It is read anyway: if a proxy returns
        // an index that never changes, this is the only way to see changes.
        let listing = self.listing(&reply, new).await?;
        self.probe.listed(new, reply.body.len(), probed);
        self.last = Some((new, !listing.instances.is_empty()));
        self.index = Some(new);
        self.link = reply.link;
        self.news = index != Some(new);
        Ok(Answer::Listing(listing))
    }

    /// Sends one query, and checks the index of the response. Returns `None` if the known position in
    /// the registry's history is void.
    async fn query(
        &mut self,
        what: Asked,
        hold: Option<&Hold<'_>>,
    ) -> Result<Option<(Reply, u64)>, RegistryError> {
        let Some(hold) = hold else {
            let reply = self.get(self.path(what, None), READ_WITHIN).await?;
            let new = self.index_of(&reply)?;
            return Ok(self.is_recent(&reply).then_some((reply, new)));
        };
        let wait = hold.place.wait(hold.wait);
        let within = wait + wait / 16 + MARGIN;
        let began = Instant::now();
        let reply = self.send(self.path(what, Some((hold.index, wait))), within);
        let Some(reply) = while_linked(reply, hold.link.clone()).await else {
            tracing::debug!(service = %self.service, "the index went to another connection");
            self.index = None;
            return Ok(None);
        };
        if let Err(error) = &reply {
            if self.turns.is_refused(error, began, true) {
                tracing::debug!(service = %self.service, "no connection for a blocking query");
                return Ok(None);
            }
        }
        let reply = reply?;
        let new = self.index_of(&reply)?;
        if !self.is_recent(&reply) {
            return Ok(None);
        }
        if new < hold.index {
            let asked = hold.index;
            tracing::debug!(asked, new, service = %self.service, "the index went backwards");
            self.index = None;
            return Ok(None);
        }
        if new == hold.index && began.elapsed() < wait {
            // The sign of a restored snapshot, or of an agent that is shutting down: read again without
            // an index. The pause grows, for an agent that never holds a query.
            self.early = self.early.saturating_add(1);
            let pause = Duration::from_millis(100) * (self.early - 1).min(10);
            tokio::time::sleep(pause).await;
            self.index = None;
            return Ok(None);
        }
        self.early = 0;
        Ok(Some((reply, new)))
    }

    /// Whether a response is recent enough; if not, the next request goes to the leader. Checked before
    /// the index, because without a quorum an idle query ends like a successful one.
    fn is_recent(&mut self, reply: &Reply) -> bool {
        let too_stale = self.too_stale(reply);
        if too_stale {
            self.leader_until = Some(Instant::now() + self.options.wait);
            self.index = None;
        }
        !too_stale
    }

    /// Sends a request that does not block. If a connection is refused, it waits and sends it again:
    /// blocking queries return their connections within a round.
    async fn get(&self, path: String, within: Duration) -> Result<Reply, RegistryError> {
        let _lane = self.turns.lane().await;
        let until = Instant::now() + within;
        loop {
            let began = Instant::now();
            match self.send(path.clone(), within).await {
                Err(error) if began < until && self.turns.is_refused(&error, began, false) => {
                    tokio::time::sleep(REFUSED_PAUSE).await;
                }
                reply => return reply,
            }
        }
    }

    async fn send(&self, path: String, within: Duration) -> Result<Reply, RegistryError> {
        let request = Request::new(Method::GET, path, within);
        let reply = self
            .transport
            .send(self.agent, &self.service, request)
            .await?;
        reply
            .success(&self.transport.name(), &self.service)
            .map_err(|error| {
                // Old agents return 500 for a bad expression, although repeating the request never
                // succeeds.
                let text = error.to_string();
                let asked_wrongly = text.contains("Failed to create boolean expression evaluator");
                if asked_wrongly {
                    let (backend, service) = (self.transport.name(), Arc::clone(&self.service));
                    RegistryError::new(
                        ErrorKind::Refused,
                        backend,
                        service,
                        "the filter is no valid expression",
                    )
                    .with_source(error)
                } else {
                    error
                }
            })
    }

    /// Returns the index of a successful response. Error responses have one too, which means nothing.
    fn index_of(&self, reply: &Reply) -> Result<u64, RegistryError> {
        let malformed = |what: String| self.error(ErrorKind::Malformed, what);
        let text = reply
            .header("x-consul-index")
            .ok_or_else(|| malformed("an answer has no X-Consul-Index".to_owned()))?;
        let index: u64 = text.trim().parse().map_err(|_| {
            let shown: String = text.chars().take(40).collect();
            malformed(format!("X-Consul-Index is {shown:?}, not a number"))
        })?;
        // A query with index 0 would never block.
        Ok(index.max(1))
    }

    fn too_stale(&self, reply: &Reply) -> bool {
        let Consistency::Stale(most) = self.options.consistency else {
            return false;
        };
        if self.leader_until.is_some() {
            return false;
        }
        let contact = reply.header("x-consul-lastcontact");
        let millis = contact.and_then(|text| text.trim().parse().ok());
        millis.is_some_and(|millis| Duration::from_millis(millis) > most)
    }

    async fn listing(&mut self, reply: &Reply, index: u64) -> Result<Listing, RegistryError> {
        let decoded = self.decoder.decode(&reply.body).map_err(|error| {
            let what = format!("an answer is no list of instances: {}", reply.excerpt());
            self.error(ErrorKind::Malformed, what).with_source(error)
        })?;
        let empty = decoded.instances.is_empty() && decoded.rejected.is_empty();
        let exists = if empty && self.is_filtered() {
            self.is_in_catalog().await
        } else {
            !empty
        };
        let doubt = match decoded.rejected.first() {
            Some(first) if decoded.instances.is_empty() => {
                Some(format!("none of its records can be used: {first}"))
            }
            None if empty => self.doubt(reply, index),
            _ => self.regressed(index),
        };
        let mut rejected = decoded.rejected;
        if !empty && is_cut(reply) {
            rejected.push(Rejected::new("?", "the token may not see some instances"));
        }
        Ok(Listing {
            instances: decoded.instances,
            exists,
            doubt,
            rejected,
        })
    }

    /// Returns why an empty list may be wrong, which the list itself does not show.
    fn doubt(&self, reply: &Reply, index: u64) -> Option<String> {
        if is_cut(reply) {
            return Some("access rules cut the list".to_owned());
        }
        if index <= 1 {
            return Some("its index is 1".to_owned());
        }
        match self.last {
            Some((last, true)) if index == last => {
                Some(format!("there were instances at the same index, {last}"))
            }
            _ => self.regressed(index),
        }
    }

    /// Returns a reason if the index went back: the registry lost its state, and the list may be
    /// incomplete.
    fn regressed(&self, index: u64) -> Option<String> {
        let (last, _) = self.last?;
        (index < last).then(|| format!("its index went back from {last} to {index}"))
    }

    /// Whether the list may be empty although the service has instances.
    fn is_filtered(&self) -> bool {
        let ConsulOptions {
            filter,
            passing,
            connect,
            ..
        } = &*self.options;
        !self.tags.is_empty() || filter.is_some() || *passing || *connect
    }

    /// Whether the service exists, if no instance satisfies the query.
    async fn is_in_catalog(&self) -> bool {
        let Ok(reply) = self.get(self.catalog_path(), READ_WITHIN).await else {
            return true;
        };
        type Services = std::collections::HashMap<String, serde::de::IgnoredAny>;
        let Ok(services) = serde_json::from_slice::<Services>(&reply.body) else {
            return true;
        };
        services
            .keys()
            .any(|name| name.eq_ignore_ascii_case(&self.service))
    }

    fn catalog_path(&self) -> String {
        let mut query = form_urlencoded::Serializer::new(String::new());
        self.options.tenancy(&mut query);
        let pairs = [("dc", &self.datacenter), ("peer", &self.options.peer)];
        for (name, value) in pairs {
            if let Some(value) = value {
                query.append_pair(name, value);
            }
        }
        self.consistency(&mut query);
        format!("/v1/catalog/services?{}", query.finish())
    }

    fn path(&self, what: Asked, blocks: Option<(u64, Duration)>) -> String {
        let ConsulOptions {
            near,
            filter,
            peer,
            passing,
            connect,
            ..
        } = &*self.options;
        let mut query = form_urlencoded::Serializer::new(String::new());
        self.options.tenancy(&mut query);
        let pairs = [("dc", &self.datacenter), ("near", near), ("peer", peer)];
        for (name, value) in pairs {
            if let Some(value) = value {
                query.append_pair(name, value);
            }
        }
        match (filter, what == Asked::Probe) {
            (Some(filter), false) => _ = query.append_pair("filter", filter),
            (Some(filter), true) => {
                query.append_pair("filter", &format!("({filter}) and {NOBODY}"));
            }
            (None, true) => _ = query.append_pair("filter", NOBODY),
            (None, false) => {}
        }
        for tag in &self.tags {
            query.append_pair("tag", tag);
        }
        if *passing {
            query.append_key_only("passing");
        }
        self.consistency(&mut query);
        if let Some((index, wait)) = blocks {
            query.append_pair("index", &index.to_string());
            query.append_pair("wait", &format!("{}ms", wait.as_millis()));
        }
        let endpoint = if *connect { "connect" } else { "service" };
        let query = query.finish();
        format!("/v1/health/{endpoint}/{}?{query}", segment(&self.service))
    }

    fn consistency(&self, query: &mut form_urlencoded::Serializer<'_, String>) {
        let mode = match self.options.consistency {
            Consistency::Default => return,
            // Not the default mode, because an operator can make that stale too.
            Consistency::Stale(_) if self.leader_until.is_some() => "leader",
            Consistency::Stale(_) => "stale",
            Consistency::Consistent => "consistent",
            Consistency::Cached => "cached",
        };
        query.append_key_only(mode);
    }

    /// Checks that the agent's version supports the options. An older agent would return other instances
    /// instead of an error.
    async fn check_version(&mut self) -> Result<(), RegistryError> {
        let needs = match (&self.options.peer, &self.options.partition) {
            (Some(_), _) => ("peer", KNOWS_PEERS),
            (None, Some(_)) => ("partition", KNOWS_PARTITIONS),
            (None, None) => return Ok(()),
        };
        if self.suitable {
            return Ok(());
        }
        #[derive(serde::Deserialize)]
        #[serde(rename_all = "PascalCase")]
        struct Agent {
            config: Version,
        }
        #[derive(serde::Deserialize)]
        #[serde(rename_all = "PascalCase")]
        struct Version {
            version: String,
        }
        let reply = self.get("/v1/agent/self".to_owned(), READ_WITHIN).await?;
        let agent: Agent = serde_json::from_slice(&reply.body).map_err(|error| {
            let what = "the agent does not tell its version".to_owned();
            self.error(ErrorKind::Malformed, what).with_source(error)
        })?;
        let mut numbers = agent.config.version.split(['.', '-', '+']);
        let mut number = || {
            numbers
                .next()
                .and_then(|n| n.parse::<u32>().ok())
                .unwrap_or(0)
        };
        let (field, least) = needs;
        if (number(), number()) < least {
            return Err(self.error(
                ErrorKind::Refused,
                format!(
                    "Consul {} ignores {field:?} and would answer with other instances; {}.{} \
                     is needed",
                    agent.config.version, least.0, least.1
                ),
            ));
        }
        self.suitable = true;
        Ok(())
    }

    fn error(&self, kind: ErrorKind, message: String) -> RegistryError {
        RegistryError::new(
            kind,
            self.transport.name(),
            Arc::clone(&self.service),
            message,
        )
    }
}

impl Source for HealthQuery {
    fn read(&mut self) -> BoxFuture<'_, Result<Answer, RegistryError>> {
        self.index = None;
        Box::pin(self.ask(None))
    }

    fn next(&mut self) -> BoxFuture<'_, Result<Answer, RegistryError>> {
        let index = self.index;
        Box::pin(self.ask(index))
    }
}

/// Waits for a reply for as long as it can come from the agent that gave the index.
async fn while_linked<T>(reply: impl Future<Output = T>, link: Option<Link>) -> Option<T> {
    let Some(link) = link else {
        return Some(reply.await);
    };
    let mut reply = pin!(reply);
    tokio::select! {
        biased;
        reply = &mut reply => Some(reply),
        () = link.lost() => tokio::time::timeout(ENDS_WITHIN, reply).await.ok(),
    }
}

/// Whether access rules removed instances from the list. Only newer agents report that.
fn is_cut(reply: &Reply) -> bool {
    reply.header("x-consul-results-filtered-by-acls") == Some("true")
}

/// Encodes a name as one path segment.
pub(super) fn segment(name: &str) -> percent_encoding::PercentEncode<'_> {
    const ALL_BUT_PLAIN: &percent_encoding::AsciiSet = &percent_encoding::NON_ALPHANUMERIC
        .remove(b'-')
        .remove(b'_')
        .remove(b'.')
        .remove(b'~');
    percent_encoding::utf8_percent_encode(name, ALL_BUT_PLAIN)
}
