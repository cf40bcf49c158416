//! Polls the records of one name.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
    time::Duration,
};

use hickory_resolver::{
    lookup::Lookup,
    proto::rr::{Name, Record, RecordType},
};
use rand::rngs::SmallRng;
use tokio::{
    task::JoinSet,
    time::{Instant, sleep_until, timeout},
};

use super::{
    answer::{Target, addresses, hosts, targets},
    lookup::{Found, find},
    servers::{Server, Servers},
    settings::{DnsFamily, DnsSettings, LONGEST_POLL},
};
use crate::{
    backoff::{after, jittered},
    catalog::{Listing, Rejected, reject},
    error::{ErrorKind, RegistryError},
    instance::{Host, Instance},
    registry::{Answer, BoxFuture, Limit, Source},
    rng::small_rng,
};

/// The time limit for a poll, with all its questions (DN6).
const POLL_WITHIN: Duration = Duration::from_secs(10);

/// The number of targets whose addresses are asked for at the same time.
const TARGETS_AT_ONCE: usize = 32;

/// Reads the records of one name.
pub(super) struct DnsSource {
    settings: Arc<DnsSettings>,
    service: Arc<str>,
    name: Name,
    servers: Servers,
    /// The instances by their ids, each with the time of the last answer that had it.
    known: BTreeMap<String, (Arc<Instance>, Instant)>,
    next_poll: Option<Instant>,
    rng: SmallRng,
}

impl DnsSource {
    pub(super) fn new(settings: Arc<DnsSettings>, service: Arc<str>, name: Name) -> Self {
        Self {
            servers: Servers::new(Arc::clone(&settings)),
            settings,
            service,
            name,
            known: BTreeMap::new(),
            next_poll: None,
            rng: small_rng(None),
        }
    }

    async fn poll(&mut self) -> Result<Answer, RegistryError> {
        let polled = timeout(POLL_WITHIN, self.ask()).await;
        let late = || RegistryError::new(ErrorKind::Timeout, "no answer within 10 s");
        let (listing, ttl) = polled.map_err(|_| late())??;
        let wait = until_next(ttl, self.settings.poll, &mut self.rng);
        self.next_poll = Some(after(Instant::now(), wait));
        Ok(Answer::Listing(listing))
    }

    /// Asks for the records. Returns the list, and how long it holds.
    async fn ask(&mut self) -> Result<(Listing, Duration), RegistryError> {
        let mut servers = self.servers.current().await?.to_vec();
        // Each server gets its turn within a poll.
        let turns = u32::try_from(servers.len()).unwrap_or(u32::MAX - 1) + 1;
        let limit = self.settings.timeout.min(POLL_WITHIN / turns);
        let types = match self.settings.port {
            Some(_) => types(self.settings.family),
            None => &[RecordType::SRV],
        };
        let (found, by) = find(&servers, &self.name, types, limit).await?;
        let lookup = match found {
            Found::Records(lookup) => lookup,
            Found::Nothing { name, ttl } => return Ok((self.nothing(name), ttl)),
        };
        let mut ttl = ttl(&lookup);
        let mut rejected = Vec::new();
        let instances = match self.settings.port {
            Some(port) => {
                let found = addresses(lookup.answers());
                hosts(&self.service, found, port, &mut rejected)
            }
            None => match targets(lookup.answers(), &mut rejected) {
                Some(targets) => {
                    // The server that answered is asked for the targets first.
                    servers.rotate_left(by);
                    let resolved = self.resolve(&servers, limit, &lookup, targets, &mut rejected);
                    let (instances, shortest) = resolved.await?;
                    ttl = ttl.min(shortest);
                    instances
                }
                None => return Ok((self.nothing(true), ttl)),
            },
        };
        if instances.is_empty() && !rejected.is_empty() {
            let why = "none of the records can be used";
            return Err(RegistryError::new(ErrorKind::Malformed, why));
        }
        let listing = Listing {
            instances: self.remember(instances),
            exists: true,
            rejected,
            ..Listing::default()
        };
        Ok((listing, ttl))
    }

    /// An empty list. What was known is forgotten: the servers agree that it is gone.
    fn nothing(&mut self, exists: bool) -> Listing {
        self.known.clear();
        Listing {
            exists,
            ..Listing::default()
        }
    }

    /// Finds the addresses of the targets: in the same answer, or by further questions. Also returns how
    /// long they hold. A target that cannot be asked for keeps its former address, and one without an
    /// address is left out; if no target has one, the answer is an error (DN2).
    async fn resolve(
        &self,
        servers: &[Server],
        limit: Duration,
        lookup: &Lookup,
        targets: Vec<Target>,
        rejected: &mut Vec<Rejected>,
    ) -> Result<(Vec<Instance>, Duration), RegistryError> {
        let family = self.settings.family;
        let mut shortest = Duration::MAX;
        let mut found: BTreeMap<Name, Result<BTreeSet<IpAddr>, RegistryError>> = BTreeMap::new();
        let mut asked = JoinSet::new();
        for target in &targets {
            if found.contains_key(&target.name) {
                continue;
            }
            let additional = lookup.additionals().iter();
            let additional = additional.filter(|record| record.name == target.name);
            let given = of_family(addresses(additional.clone()), family);
            // An answer may have a part of the addresses; without IPv4 it does not settle the family.
            let settled = family != DnsFamily::Any || given.iter().any(IpAddr::is_ipv4);
            if settled && !given.is_empty() {
                shortest = shortest.min(shortest_ttl(additional));
                found.insert(target.name.clone(), Ok(given));
                continue;
            }
            // Unless an answer comes.
            let none = RegistryError::new(ErrorKind::Internal, "the question has no answer");
            found.insert(target.name.clone(), Err(none));
            if asked.len() >= TARGETS_AT_ONCE
                && let Some(Ok((name, answer))) = asked.join_next().await
            {
                found.insert(name, kept(answer, &mut shortest));
            }
            let name = target.name.clone();
            asked.spawn(addresses_of(servers.to_vec(), name, family, limit));
        }
        while let Some(answer) = asked.join_next().await {
            if let Ok((name, answer)) = answer {
                found.insert(name, kept(answer, &mut shortest));
            }
        }
        let mut instances = Vec::new();
        let mut failure = None;
        for target in &targets {
            let known = self.known.get(&target.id).map(|(instance, _)| instance);
            let former = known.map(|instance| instance.address.host());
            let addresses = match found.get(&target.name) {
                Some(Ok(addresses)) => addresses.clone(),
                Some(Err(error)) => {
                    failure = Some(error.clone());
                    // The target is still listed, only its address is not known now.
                    let kept = former.and_then(|host| match host {
                        Host::Ip(ip) => Some(*ip),
                        Host::Name(_) => None,
                    });
                    kept.into_iter().collect()
                }
                None => BTreeSet::new(),
            };
            match target.instance(&self.service, &addresses, former) {
                Ok(instance) => instances.push(instance),
                Err(why) => reject(rejected, || Rejected::new(target.id.as_str(), why)),
            }
        }
        if instances.is_empty() && !targets.is_empty() {
            let none = || RegistryError::new(ErrorKind::Unavailable, "no target has an address");
            return Err(failure.unwrap_or_else(none));
        }
        Ok((instances, shortest))
    }

    /// Adds the instances of this answer to those that are kept from earlier ones (DN5), and returns all.
    /// An instance that did not change keeps its `Arc`.
    fn remember(&mut self, instances: Vec<Instance>) -> Vec<Arc<Instance>> {
        let now = Instant::now();
        for instance in instances {
            let entry = self.known.entry(instance.id().to_owned());
            entry
                .and_modify(|(known, seen)| {
                    *seen = now;
                    if **known != instance {
                        *known = Arc::new(instance.clone());
                    }
                })
                .or_insert_with(|| (Arc::new(instance), now));
        }
        let kept = self.settings.accumulate;
        self.known.retain(|_, (_, seen)| now - *seen <= kept);
        let known = self.known.values();
        known.map(|(instance, _)| Arc::clone(instance)).collect()
    }
}

impl Source for DnsSource {
    fn read(&mut self) -> BoxFuture<'_, Result<Answer, RegistryError>> {
        Box::pin(self.poll())
    }

    fn next(&mut self) -> BoxFuture<'_, Result<Answer, RegistryError>> {
        Box::pin(async move {
            if let Some(at) = self.next_poll {
                sleep_until(at).await;
            }
            self.poll().await
        })
    }

    fn polls(&self) -> bool {
        true
    }

    /// The longest time between two polls, with its jitter, and the time that a poll may take.
    fn expires(&self) -> bool {
        // DNS knows no heartbeats.
        false
    }

    fn stale_after(&self) -> Duration {
        LONGEST_POLL.mul_f64(1.1) + POLL_WITHIN + Duration::from_secs(1)
    }

    fn limit(&self) -> Limit {
        // A server that fails is not asked more often than one that answers.
        Limit::new(2, self.settings.poll)
    }
}

/// The time until the next poll: when the records expire, spread by a tenth, so that the clients of a
/// service do not ask together (DN3).
fn until_next(ttl: Duration, least: Duration, rng: &mut SmallRng) -> Duration {
    jittered(ttl.clamp(least, LONGEST_POLL), 0.1, rng)
}

/// The types of records to ask for, in order.
fn types(family: DnsFamily) -> &'static [RecordType] {
    match family {
        DnsFamily::Any => &[RecordType::A, RecordType::AAAA],
        DnsFamily::Ipv4 => &[RecordType::A],
        DnsFamily::Ipv6 => &[RecordType::AAAA],
    }
}

/// The addresses of the family that counts.
fn of_family(addresses: BTreeSet<IpAddr>, family: DnsFamily) -> BTreeSet<IpAddr> {
    let fits = |ip: &IpAddr| match family {
        DnsFamily::Any => true,
        DnsFamily::Ipv4 => ip.is_ipv4(),
        DnsFamily::Ipv6 => ip.is_ipv6(),
    };
    addresses.into_iter().filter(fits).collect()
}

/// The shortest time that a record of the answer holds.
fn ttl(lookup: &Lookup) -> Duration {
    shortest_ttl(lookup.answers())
}

fn shortest_ttl<'a>(records: impl IntoIterator<Item = &'a Record>) -> Duration {
    let ttls = records.into_iter().map(|record| record.ttl);
    Duration::from_secs(ttls.min().unwrap_or_default().into())
}

type Addresses = Result<(BTreeSet<IpAddr>, Duration), RegistryError>;

/// The addresses of a target. How long they hold is noted in `shortest`.
fn kept(answer: Addresses, shortest: &mut Duration) -> Result<BTreeSet<IpAddr>, RegistryError> {
    answer.map(|(addresses, ttl)| {
        *shortest = ttl.min(*shortest);
        addresses
    })
}

/// Asks for the addresses of a target.
async fn addresses_of(
    servers: Vec<Server>,
    name: Name,
    family: DnsFamily,
    limit: Duration,
) -> (Name, Addresses) {
    let found = find(&servers, &name, types(family), limit).await;
    let found = found.map(|(found, _)| match found {
        Found::Records(lookup) => (addresses(lookup.answers()), ttl(&lookup)),
        Found::Nothing { ttl, .. } => (BTreeSet::new(), ttl),
    });
    (name, found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_poll_follows_the_ttl_within_bounds() {
        let mut rng = small_rng(Some(1));
        let seconds = Duration::from_secs;
        for (ttl, wait) in [
            (Duration::ZERO, seconds(5)),
            (seconds(20), seconds(20)),
            (seconds(86_400), seconds(60)),
            (Duration::MAX, seconds(60)),
        ] {
            for _ in 0..100 {
                let next = until_next(ttl, seconds(5), &mut rng);
                assert!(
                    next >= wait.mul_f64(0.9) && next <= wait.mul_f64(1.1),
                    "{next:?}"
                );
            }
        }
    }
}
