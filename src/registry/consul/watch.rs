//! The blocking query loop of one service in one datacenter.
//!
//! An index is valid only for the agent that returned it. An agent that was restarted between two
//! requests may count from any number; a query with an index above its own blocks for a whole wait. So
//! the index is dropped when the connection that it came on is lost, before or during a request. A
//! server that closes the connection after each response costs one plain read per response.

use std::{pin::pin, sync::Arc, time::Duration};

use tokio::time::{Instant, sleep, timeout};

use super::{
    client::AgentClient,
    options::Consistency,
    probe::Probe,
    reply::{self, LastList},
    request::{HealthRequest, Wanted},
    transport::Transport,
    turns::{QueryPlace, Turns},
    wire::{self, Witness},
};
use crate::{
    catalog::{Listing, Rejected},
    connect::Link,
    error::{ErrorKind, RegistryError},
    registry::{Answer, BoxFuture, Source, contract::STALE_AFTER, decoding::decoded, http::Reply},
};

/// How long a blocking query may take beyond its wait and Consul's jitter of a sixteenth: above the 7 s
/// that a server waits for a leader.
const MARGIN: Duration = Duration::from_secs(10);

/// How long a query may continue after the connection that gave its index was lost. The query may be on
/// that connection, and then its own error gives a better reason. The runtime sees both in the same
/// turn. Arbitrary: longer than a turn, and much shorter than a wait.
const ENDS_WITHIN: Duration = Duration::from_millis(100);

/// The first wait after a change, if the transport hides its connections. An agent that was restarted
/// during the pause before the request returns its lower index at the end of this wait.
const FIRST_WAIT: Duration = Duration::from_secs(1);

/// Reads the instances of a service.
pub(super) struct HealthQuery {
    client: AgentClient,
    request: HealthRequest,
    /// `None` before the first list, and if a read was given up while it decoded.
    decoder: Option<wire::Decoder>,
    max_records: usize,
    /// The index of the last response; `None` after an error or a regression, until the next response.
    index: Option<u64>,
    /// The connection that gave the index, if the transport exposes it.
    link: Option<Link>,
    /// Whether the last read dropped the index because its connection was lost. If the next connection
    /// is lost too, the server closes the connection after each response, and the index is kept.
    anew: bool,
    /// Whether the last response had a new index, so that the next request may come after a pause.
    news: bool,
    last: LastList,
    /// The number of successive early responses with the requested index.
    early: u32,
    /// Decides whether to probe for changes.
    probe: Probe,
    /// Until when requests go to the leader, because a stale response was too old.
    leader_until: Option<Instant>,
}

/// The parameters of a blocking query.
struct Hold<'a> {
    place: &'a QueryPlace<'a>,
    index: u64,
    wait: Duration,
    /// The connection that gave the index; `None` if it is lost or unknown.
    link: Option<Link>,
}

impl HealthQuery {
    pub(super) fn new(
        transport: Arc<dyn Transport>,
        turns: Arc<Turns>,
        request: HealthRequest,
        max_records: usize,
    ) -> Self {
        Self {
            client: AgentClient::new(transport, turns),
            decoder: None,
            max_records,
            request,
            index: None,
            link: None,
            anew: false,
            news: false,
            last: LastList::default(),
            early: 0,
            probe: Probe::default(),
            leader_until: None,
        }
    }

    async fn ask(&mut self, index: Option<u64>) -> Result<Answer, RegistryError> {
        let answer = self.exchange(index).await;
        if let Err(error) = &answer {
            // An index is valid for one agent only, and the next request may go to another.
            self.index = None;
            self.client.failed(error);
        }
        answer
    }

    async fn exchange(&mut self, mut index: Option<u64>) -> Result<Answer, RegistryError> {
        self.client.check_version(&self.request.options).await?;
        if self.leader_until.is_some_and(|at| at <= Instant::now()) {
            self.leader_until = None;
            // The indexes of two consistency modes are not comparable.
            index = None;
        }
        let turns = Arc::clone(&self.client.turns);
        let place = match index {
            Some(_) => turns.place().await,
            None => None,
        };
        let link = self.link.take();
        let lost = link.as_ref().is_some_and(Link::is_lost);
        self.anew = index.is_some() && lost && !self.anew;
        if self.anew {
            tracing::debug!("the connection that gave the index was lost");
            index = None;
        }
        let wait = self.request.options.wait;
        let hold = place.as_ref().zip(index).map(|(place, index)| Hold {
            place,
            index,
            wait: match (&link, self.news) {
                (None, true) => wait.min(FIRST_WAIT),
                _ => wait,
            },
            link: link.filter(|_| !lost),
        });
        let mut probed = None;
        // While the list changes, it is watched itself: a probe would only delay each change.
        if let Some(known) = index.filter(|_| !self.news) {
            match self.confirm(known, hold.as_ref()).await? {
                Some(Confirmed::Same) => return Ok(Answer::Unchanged),
                Some(Confirmed::Resync) => return Ok(Answer::Resync),
                Some(Confirmed::Changed(index)) => probed = Some(index),
                None => {}
            }
        }
        let blocks = hold.as_ref().filter(|_| probed.is_none());
        let Some((reply, new)) = self.query(Wanted::List, blocks).await? else {
            return Ok(Answer::Resync);
        };
        if probed.is_some_and(|probed| new < probed) {
            self.index = None;
            return Ok(Answer::Resync);
        }
        // At the end of a wait the list should not have changed. It is read anyway: if a proxy returns
        // an index that never changes, this is the only way to see changes.
        let (listing, witness) = self.listing(&reply, new).await?;
        let bytes = reply.body.len();
        self.probe
            .listed(new, bytes, probed, witness, Instant::now());
        self.last.note(new, !listing.instances.is_empty());
        self.index = Some(new);
        self.link = reply.link;
        self.news = index != Some(new);
        Ok(Answer::Listing(listing))
    }

    /// Asks for the index of a long list in place of the list. `None` where the list is not probed.
    async fn confirm(
        &mut self,
        known: u64,
        hold: Option<&Hold<'_>>,
    ) -> Result<Option<Confirmed>, RegistryError> {
        let end = Instant::now() + hold.map_or(Duration::ZERO, |hold| hold.wait);
        let Some(only) = self.probe.expression(self.request.options.consistency, end) else {
            return Ok(None);
        };
        // The first probe after a list does not block: it checks that the probe has the index of the
        // list.
        let mut blocks = hold.filter(|_| self.probe.agrees(known));
        loop {
            let Some((reply, new)) = self.query(Wanted::Index(&only), blocks).await? else {
                return Ok(Some(Confirmed::Resync));
            };
            if !self.probe.compare(known, new, &reply.body) {
                return Ok(Some(Confirmed::Changed(new)));
            }
            if blocks.is_none() && hold.is_some() {
                blocks = hold;
                continue;
            }
            (self.link, self.news) = (reply.link, false);
            return Ok(Some(Confirmed::Same));
        }
    }

    /// Sends one query, and checks the index of the response. Returns `None` if the known position in
    /// the registry's history is void.
    async fn query(
        &mut self,
        wanted: Wanted<'_>,
        hold: Option<&Hold<'_>>,
    ) -> Result<Option<(Reply, u64)>, RegistryError> {
        let leader = self.leader_until.is_some();
        let Some(hold) = hold else {
            let path = self.request.path(wanted, None, leader);
            let reply = self.client.get(path).await?;
            let new = self.index_of(&reply)?;
            return Ok(self.is_recent(&reply).then_some((reply, new)));
        };
        let wait = hold.place.wait(hold.wait);
        let within = wait + wait / 16 + MARGIN;
        let began = Instant::now();
        let path = self.request.path(wanted, Some((hold.index, wait)), leader);
        let reply = self.client.send(path, within);
        let Some(reply) = while_linked(reply, hold.link.clone()).await else {
            tracing::debug!("the agent that gave the index is gone");
            self.index = None;
            return Ok(None);
        };
        if let Err(error) = &reply
            && self.client.turns.is_refused(error, began, true)
        {
            tracing::debug!("no connection for a blocking query");
            return Ok(None);
        }
        let reply = reply?;
        let new = self.index_of(&reply)?;
        if !self.is_recent(&reply) {
            return Ok(None);
        }
        if new < hold.index {
            tracing::debug!(asked = hold.index, new, "the index went backwards");
            self.index = None;
            return Ok(None);
        }
        if new == hold.index && began.elapsed() < wait {
            // The sign of a restored snapshot, or of an agent that is shutting down: read again without
            // an index. The pause grows, for an agent that never holds a query.
            self.early = self.early.saturating_add(1);
            sleep(Duration::from_millis(100) * (self.early - 1).min(10)).await;
            self.index = None;
            return Ok(None);
        }
        self.early = 0;
        Ok(Some((reply, new)))
    }

    fn index_of(&self, reply: &Reply) -> Result<u64, RegistryError> {
        reply::index(reply).map_err(|what| RegistryError::new(ErrorKind::Malformed, what))
    }

    /// Whether a response is recent enough; if not, the next request goes to the leader. Checked before
    /// the index, because without a quorum an idle query ends like a successful one.
    fn is_recent(&mut self, reply: &Reply) -> bool {
        let Consistency::Stale(most) = self.request.options.consistency else {
            return true;
        };
        let age = reply::last_contact(reply);
        if self.leader_until.is_some() || age.is_none_or(|age| age <= most) {
            return true;
        }
        self.leader_until = Some(Instant::now() + self.request.options.wait);
        self.index = None;
        false
    }

    async fn listing(
        &mut self,
        reply: &Reply,
        index: u64,
    ) -> Result<(Listing, Option<Witness>), RegistryError> {
        let decoded = self.decode(reply).await.map_err(|error| {
            let what = format!("an answer is no list of instances: {}", reply.excerpt());
            let cause = reply.secrets.cause(error);
            RegistryError::new(ErrorKind::Malformed, what).with_source(cause)
        })?;
        let empty = decoded.instances.is_empty() && decoded.rejected.is_empty();
        let exists = if empty && self.request.is_filtered() {
            self.is_in_catalog().await
        } else {
            !empty
        };
        let doubt = match decoded.rejected.first() {
            Some(first) if decoded.instances.is_empty() => {
                Some(format!("none of its records can be used: {first}"))
            }
            None if empty => self.last.doubt(reply, index),
            _ => self.last.regressed(index),
        };
        let mut rejected = decoded.rejected;
        if !empty && reply::is_cut(reply) {
            rejected.push(Rejected::new("?", "the token may not see some instances"));
        }
        let listing = Listing {
            instances: decoded.instances,
            exists,
            doubt,
            rejected,
        };
        Ok((listing, decoded.witness))
    }

    async fn decode(&mut self, reply: &Reply) -> Result<wire::Decoded, serde_json::Error> {
        let (body, secrets) = (reply.body.clone(), reply.secrets.clone());
        let mut decoder = self.decoder.take().unwrap_or_else(|| {
            let HealthRequest {
                service, options, ..
            } = &self.request;
            let decoder = wire::Decoder::new(Arc::clone(service), options.address.clone());
            decoder.most_records(self.max_records)
        });
        let work = decoded(body.len(), move || {
            (decoder.decode_hiding(&body, &secrets), decoder)
        });
        let (decoded, decoder) = work.await;
        self.decoder = Some(decoder);
        decoded
    }

    /// Whether the service exists, if no instance satisfies the query.
    async fn is_in_catalog(&self) -> bool {
        let path = self.request.catalog_path(self.leader_until.is_some());
        let Ok(reply) = self.client.get(path).await else {
            return true;
        };
        let wanted = Arc::clone(&self.request.service);
        let body = reply.body;
        decoded(body.len(), move || {
            wire::names(&body, &wanted).unwrap_or(true)
        })
        .await
    }
}

/// What a probe found.
enum Confirmed {
    Same,
    /// The list changed; the index of the probe.
    Changed(u64),
    /// What was known of the registry's position does not hold any more.
    Resync,
}

impl Source for HealthQuery {
    fn read(&mut self) -> BoxFuture<'_, Result<Answer, RegistryError>> {
        self.index = None;
        Box::pin(self.ask(None))
    }

    /// A wait may be longer than usual, and Consul adds up to a sixteenth.
    fn stale_after(&self) -> Duration {
        let wait = self.request.options.wait;
        STALE_AFTER.max(wait + wait / 16 + MARGIN / 2)
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
        () = link.lost() => timeout(ENDS_WITHIN, reply).await.ok(),
    }
}
