//! Registers a service and its check on an agent.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use bytes::Bytes;
use http::Method;
use serde::Serialize;
use tokio::time::Instant;

use super::{
    options::ConsulOptions,
    path::{self, segment},
    transport::Transport,
    turns::Turns,
};
use crate::{
    error::{ErrorKind, RegistryError},
    instance::Instance,
    registry::{
        Announcement, BoxFuture, Health, Lease, Renewal,
        http::{Reply, Request},
        text::excerpt,
    },
};

/// The deadline of a request for a registration. The agent responds from its own state.
const WRITE_WITHIN: Duration = Duration::from_secs(5);

/// The longest interval between confirmations, which detect that the agent lost its state. A repeated
/// status changes nothing in the catalog, so it costs one local request.
const CONFIRM_EVERY: Duration = Duration::from_secs(1);

/// Registers one service on the first agent of the configuration.
pub(super) struct AgentService {
    transport: Arc<dyn Transport>,
    /// Records refused connections, so that fewer queries of watches block.
    turns: Arc<Turns>,
    id: String,
    /// The tenancy parameters, such as `ns=…`; may be empty.
    tenancy: String,
    check_id: String,
    ttl: Option<Duration>,
    body: Bytes,
}

/// The registration. Fields that are not set are omitted, because an agent refuses unknown fields.
#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Definition<'a> {
    #[serde(rename = "ID")]
    id: &'a str,
    name: &'a str,
    address: String,
    port: u16,
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    tags: &'a [String],
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    meta: BTreeMap<&'a str, &'a str>,
    weights: Weights,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    checks: Vec<Check>,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Weights {
    passing: u32,
    warning: u32,
}

#[derive(Default, Serialize)]
#[serde(rename_all = "PascalCase")]
struct Check {
    #[serde(rename = "CheckID")]
    check_id: String,
    name: String,
    #[serde(rename = "TTL", skip_serializing_if = "Option::is_none")]
    ttl: Option<String>,
    #[serde(rename = "HTTP", skip_serializing_if = "Option::is_none")]
    http: Option<String>,
    #[serde(rename = "TCP", skip_serializing_if = "Option::is_none")]
    tcp: Option<String>,
    #[serde(rename = "GRPC", skip_serializing_if = "Option::is_none")]
    grpc: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    interval: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    timeout: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    status: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    deregister_critical_service_after: Option<String>,
}

impl Check {
    fn every(&mut self, interval: Duration, timeout: Duration) {
        self.interval = Some(millis(interval));
        self.timeout = Some(millis(timeout));
    }
}

impl AgentService {
    pub(super) fn new(
        transport: Arc<dyn Transport>,
        turns: Arc<Turns>,
        options: &ConsulOptions,
        announcement: &Announcement,
    ) -> Result<Self, RegistryError> {
        let instance = announcement.instance();
        let check_id = check_id(instance.id(), kind(announcement.health_check()));
        let definition = Definition {
            id: instance.id(),
            name: &instance.service,
            address: instance.address.host().to_string(),
            port: instance.address.port(),
            tags: &instance.tags,
            meta: meta(instance),
            weights: Weights {
                passing: instance.weight.get(),
                // Consul's default: a warning instance keeps the smallest share.
                warning: 1,
            },
            checks: check(announcement, &check_id).into_iter().collect(),
        };
        let invalid = |message: String| RegistryError::new(ErrorKind::Invalid, message);
        path::check(&instance.service).map_err(|why| invalid(format!("its name {why}")))?;
        path::check(instance.id()).map_err(|why| {
            let id = excerpt(instance.id(), 64);
            invalid(format!("the instance id {id:?} {why}"))
        })?;
        if definition.weights.passing == 0 {
            let what = "Consul takes weights from 1 to 65535; to drain an instance, use its maintenance mode";
            return Err(invalid(what.to_owned()));
        }
        let body = serde_json::to_vec(&definition).map_err(|error| {
            invalid("it cannot be written as JSON".to_owned()).with_source(error)
        })?;
        let mut tenancy = form_urlencoded::Serializer::new(String::new());
        options.tenancy(&mut tenancy);
        Ok(Self {
            id: instance.id().to_owned(),
            tenancy: tenancy.finish(),
            check_id,
            ttl: match announcement.health_check() {
                Health::Ttl(ttl) => Some(*ttl),
                _ => None,
            },
            body: body.into(),
            transport,
            turns,
        })
    }

    async fn send(&self, mut request: Request) -> Result<Reply, RegistryError> {
        if !self.tenancy.is_empty() {
            let path = &mut request.path;
            path.push(if path.contains('?') { '&' } else { '?' });
            path.push_str(&self.tenancy);
        }
        let began = Instant::now();
        let reply = self.transport.send(0, request).await;
        if let Err(error) = &reply {
            self.turns.is_refused(error, began, false);
        }
        reply
    }

    async fn announce(&self) -> Result<(), RegistryError> {
        // Without the parameter, checks of an earlier registration would stay. With it, an operator's
        // maintenance would end, because maintenance is a check too.
        let maintained = self.is_maintained().await?;
        let path = match maintained {
            true => "/v1/agent/service/register",
            false => "/v1/agent/service/register?replace-existing-checks=true",
        };
        self.send(put(path).json(self.body.clone()))
            .await?
            .success()?;
        if maintained {
            let ids = KINDS.map(|kind| check_id(&self.id, kind));
            for former in ids.iter().filter(|id| **id != self.check_id) {
                let path = format!("/v1/agent/check/deregister/{}", segment(former));
                // Usually there is no such check. Versions of Consul respond to that in different ways.
                self.send(put(path)).await?;
            }
        }
        Ok(())
    }

    /// Whether the instance, or its whole node, is in maintenance.
    async fn is_maintained(&self) -> Result<bool, RegistryError> {
        let reply = self.ask_health().await?;
        // Any other error is reported by the registration that follows.
        Ok(reply.body.trim_ascii() == b"maintenance")
    }

    /// Asks for the health of the instance, as one word of text.
    ///
    /// Not by `/v1/agent/service/:id`: under that path, some ids name another request, such as
    /// `register` and `deregister/…`.
    async fn ask_health(&self) -> Result<Reply, RegistryError> {
        let path = format!(
            "/v1/agent/health/service/id/{}?format=text",
            segment(&self.id)
        );
        let request = Request::new(Method::GET, path, WRITE_WITHIN);
        self.send(request).await
    }

    async fn pass(&self, ttl: Duration) -> Result<Renewal, RegistryError> {
        let path = format!("/v1/agent/check/pass/{}", segment(&self.check_id));
        let mut request = put(path);
        request.within = (ttl / 3).clamp(Duration::from_millis(100), WRITE_WITHIN);
        let reply = self.send(request).await?;
        // An agent that lost the check responds with 404; versions before 1.11 respond with 500 and one
        // of two texts.
        let lost = match reply.status.as_u16() {
            404 => true,
            500 => {
                // The whole body is searched, because an id of any length precedes the text.
                let text = String::from_utf8_lossy(&reply.body);
                text.contains("does not have associated TTL") || text.contains("Unknown check")
            }
            _ => false,
        };
        if lost {
            return Ok(Renewal::Lost);
        }
        reply.success().map(|_| Renewal::Kept)
    }

    async fn look(&self) -> Result<Renewal, RegistryError> {
        let reply = self.ask_health().await?;
        if reply.status.as_u16() == 404 {
            return Ok(Renewal::Lost);
        }
        // The status of the response is the health of the instance: 429 for a warning, 503 when critical.
        let known: [&[u8]; 4] = [b"passing", b"warning", b"critical", b"maintenance"];
        if known.contains(&reply.body.trim_ascii()) {
            return Ok(Renewal::Kept);
        }
        reply.success().map(|_| Renewal::Kept)
    }

    async fn remove(&self) -> Result<(), RegistryError> {
        let path = format!("/v1/agent/service/deregister/{}", segment(&self.id));
        let reply = self.send(put(path)).await?;
        match reply.status.as_u16() {
            404 => Ok(()),
            _ => reply.success().map(drop),
        }
    }
}

fn put(path: impl Into<String>) -> Request {
    Request::new(Method::PUT, path, WRITE_WITHIN)
}

impl Lease for AgentService {
    fn register(&mut self) -> BoxFuture<'_, Result<(), RegistryError>> {
        Box::pin(self.announce())
    }

    fn renew(&mut self) -> BoxFuture<'_, Result<Renewal, RegistryError>> {
        Box::pin(async {
            match self.ttl {
                Some(ttl) => self.pass(ttl).await,
                // Without heartbeats, only a request can detect that the agent lost its state.
                None => self.look().await,
            }
        })
    }

    fn deregister(&mut self) -> BoxFuture<'_, Result<(), RegistryError>> {
        Box::pin(self.remove())
    }

    fn renew_every(&self) -> Duration {
        self.ttl
            .map_or(CONFIRM_EVERY, |ttl| (ttl / 3).min(CONFIRM_EVERY))
    }
}

/// The metadata, including the zone: on this path, versions with localities refuse them.
fn meta(instance: &Instance) -> BTreeMap<&str, &str> {
    let pairs = instance.metadata.iter();
    let mut meta: BTreeMap<_, _> = pairs.map(|(name, value)| (&**name, &**value)).collect();
    let zone = instance.zone.as_deref();
    if let Some(zone) = zone.filter(|zone| !zone.trim().is_empty()) {
        meta.insert("zone", zone);
    }
    meta
}

const KINDS: [&str; 4] = ["ttl", "http", "tcp", "grpc"];

fn kind(health: &Health) -> &'static str {
    match health {
        Health::Ttl(_) => KINDS[0],
        Health::Http { .. } => KINDS[1],
        Health::Tcp { .. } => KINDS[2],
        Health::Grpc { .. } => KINDS[3],
        Health::Unchecked => "none",
    }
}

/// The id of a check contains its kind. If an agent gets a check of another kind with a known id, it
/// continues to run the old check, and the old check's timer turns the new one critical.
fn check_id(id: &str, kind: &str) -> String {
    format!("{id}:{kind}")
}

fn check(announcement: &Announcement, check_id: &str) -> Option<Check> {
    let address = &announcement.instance().address;
    let mut check = Check {
        check_id: check_id.to_owned(),
        name: format!("{} health", announcement.instance().id()),
        deregister_critical_service_after: announcement.reaped_after().map(millis),
        ..Check::default()
    };
    match announcement.health_check() {
        Health::Ttl(ttl) => {
            check.ttl = Some(millis(*ttl));
            // The process is running, so the check starts as passing. The first heartbeat follows at
            // once.
            check.status = Some("passing");
        }
        Health::Http {
            target,
            interval,
            timeout,
        } => {
            check.http = Some(match target.starts_with('/') {
                true => format!("http://{address}{target}"),
                false => target.clone(),
            });
            check.every(*interval, *timeout);
        }
        Health::Tcp { interval, timeout } => {
            check.tcp = Some(address.to_string());
            check.every(*interval, *timeout);
        }
        Health::Grpc {
            service,
            interval,
            timeout,
        } => {
            check.grpc = Some(match service.is_empty() {
                true => address.to_string(),
                false => format!("{address}/{service}"),
            });
            check.every(*interval, *timeout);
        }
        Health::Unchecked => return None,
    }
    if announcement.is_passing_at_start() {
        check.status = Some("passing");
    }
    Some(check)
}

/// Formats a duration for Go's parser.
fn millis(duration: Duration) -> String {
    format!("{}ms", duration.as_millis())
}
