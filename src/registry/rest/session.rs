//! The watches and registrations of the REST client.

use std::{fmt::Write as _, sync::Arc, time::Duration};

use http::{Method, StatusCode};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde::Deserialize;
use serde_json::{Value, json, value::RawValue};

use super::{EPOCH, INDEX};
use crate::{
    catalog::{Listing, Rejected, reject},
    error::{ErrorKind, RegistryError},
    instance::Instance,
    registry::{
        Answer, BoxFuture, Lease, Query, Renewal, Source,
        contract::STALE_AFTER,
        decoding::{LONGEST_RECORD, decoded, elements},
        http::{RegistryHttp, Reply, Request},
        memory::{Defaults, NewRecord, Position, renew_every, wire, written},
        redact::Secrets,
    },
};

/// The time limit for a response that does not wait for a change.
const ANSWER_WITHIN: Duration = Duration::from_secs(10);

/// How late a response that waits for a change may be, beyond the wait and its sixteenth.
const WAIT_MARGIN: Duration = Duration::from_secs(5);

/// The time limit for a heartbeat, a registration or a deregistration; below the 5 s for deregistering
/// in all.
const REGISTER_WITHIN: Duration = Duration::from_secs(4);

fn encode(text: &str) -> impl std::fmt::Display + '_ {
    utf8_percent_encode(text, NON_ALPHANUMERIC)
}

/// One watch.
pub(super) struct RestSource {
    http: RegistryHttp,
    query: Query,
    path: String,
    wait: Duration,
    max_records: usize,
    agent: usize,
    /// The position of the last response. It is kept after errors, to compare the epoch.
    seen: Option<Position>,
}

impl RestSource {
    pub(super) fn new(
        http: RegistryHttp,
        query: Query,
        wait: Duration,
        max_records: usize,
    ) -> Self {
        let mut path = format!("/registry/services/{}?", encode(query.service()));
        for tag in query.tags() {
            // Writing to a String cannot fail.
            let _ = write!(path, "tag={}&", encode(tag));
        }
        Self {
            http,
            query,
            path,
            wait,
            max_records,
            agent: 0,
            seen: None,
        }
    }

    async fn get(
        &mut self,
        path: String,
        within: Duration,
    ) -> Result<(Position, Reply), RegistryError> {
        let request = Request::new(Method::GET, path, within).listing();
        let outcome = async {
            let reply = self.http.send(self.agent, request).await?.success()?;
            let position = Position {
                epoch: number(&reply, EPOCH)?,
                index: number(&reply, INDEX)?,
            };
            Ok((position, reply))
        };
        let outcome = outcome.await;
        if outcome.is_err() {
            self.agent = self.agent.wrapping_add(1);
        }
        outcome
    }

    async fn listing(&self, reply: Reply, doubt: bool) -> Result<Answer, RegistryError> {
        let (service, most) = (Arc::clone(self.query.service()), self.max_records);
        let Reply { body, secrets, .. } = reply;
        let length = body.len();
        let hidden = secrets.clone();
        let work = move || listing(&body, &service, most, &hidden);
        let listing = decoded(length, work).await;
        let mut listing = listing.map_err(|error| {
            let message = "the answer is not a list of instances";
            RegistryError::new(ErrorKind::Malformed, message).with_source(secrets.cause(error))
        })?;
        if doubt && listing.instances.is_empty() {
            let doubt = "the registry started anew and lists nothing";
            listing.doubt = Some(doubt.to_owned());
        }
        Ok(Answer::Listing(listing))
    }
}

/// Decodes a list of at most `most` instances of a service. They are in the order of their keys.
fn listing(
    body: &[u8],
    service: &Arc<str>,
    most: usize,
    secrets: &Secrets,
) -> Result<Listing, serde_json::Error> {
    #[derive(Deserialize)]
    struct ListingReply<'a> {
        exists: bool,
        #[serde(borrow)]
        instances: &'a RawValue,
    }
    let body: ListingReply<'_> = serde_json::from_slice(body)?;
    let mut listing = Listing {
        exists: body.exists,
        ..Listing::default()
    };
    let records = elements(body.instances.get().as_bytes(), most)?;
    for (place, record) in records.into_iter().enumerate() {
        match instance(record.get(), service) {
            Ok(instance) => listing.instances.push(Arc::new(instance)),
            Err((id, reason)) => {
                reject(&mut listing.rejected, || {
                    let id = id.unwrap_or_else(|| format!("#{place}"));
                    Rejected::new(secrets.shown(&id), secrets.shown(&reason))
                });
            }
        }
    }
    listing.instances.sort_by(|a, b| a.key.cmp(&b.key));
    Ok(listing)
}

/// Decodes a record. The error is its id, if it has one, and the reason.
fn instance(text: &str, service: &Arc<str>) -> Result<Instance, (Option<String>, String)> {
    if text.len() > LONGEST_RECORD {
        return Err((None, format!("more than {LONGEST_RECORD} bytes")));
    }
    let value: Value = serde_json::from_str(text).map_err(|error| (None, error.to_string()))?;
    let id = || {
        let ids = [value.get("id"), value.get("serviceId")].into_iter();
        let id = ids
            .flatten()
            .filter_map(Value::as_str)
            .find(|id| !id.trim().is_empty());
        Some(id?.to_owned())
    };
    let parsed = wire::parse(&value, Defaults::default());
    let instance = parsed
        .map_err(|error| (id(), error.to_string()))?
        .record
        .instance;
    if instance.service != *service {
        return Err((id(), format!("it belongs to {:?}", instance.service)));
    }
    Ok(instance)
}

impl Source for RestSource {
    fn read(&mut self) -> BoxFuture<'_, Result<Answer, RegistryError>> {
        Box::pin(async {
            let path = self.path.trim_end_matches(['?', '&']).to_owned();
            let (position, reply) = self.get(path, ANSWER_WITHIN).await?;
            let anew = self.seen.is_some_and(|seen| seen.epoch != position.epoch);
            let answer = self.listing(reply, anew).await?;
            self.seen = Some(position);
            Ok(answer)
        })
    }

    /// A wait may be longer than usual, and the registry adds up to a sixteenth.
    fn stale_after(&self) -> Duration {
        STALE_AFTER.max(self.wait + self.wait / 16 + WAIT_MARGIN)
    }

    fn next(&mut self) -> BoxFuture<'_, Result<Answer, RegistryError>> {
        Box::pin(async {
            let Some(seen) = self.seen else {
                return Ok(Answer::Resync);
            };
            let Position { epoch, index } = seen;
            let wait = self.wait.as_millis();
            let path = format!("{}index={index}&epoch={epoch}&wait={wait}ms", self.path);
            let within = self.wait + self.wait / 16 + WAIT_MARGIN;
            let (position, reply) = self.get(path, within).await?;
            if position.epoch != epoch || position.index < index {
                return Ok(Answer::Resync);
            }
            if position == seen {
                return Ok(Answer::Unchanged);
            }
            let answer = self.listing(reply, false).await?;
            self.seen = Some(position);
            Ok(answer)
        })
    }
}

/// One registration.
pub(super) struct RestLease {
    http: RegistryHttp,
    record: NewRecord,
    agent: usize,
    generation: Option<u64>,
}

impl RestLease {
    pub(super) fn new(http: RegistryHttp, record: NewRecord) -> Self {
        Self {
            http,
            record,
            agent: 0,
            generation: None,
        }
    }

    async fn send(
        &mut self,
        method: Method,
        path: &str,
        body: Option<Vec<u8>>,
    ) -> Result<Option<Reply>, RegistryError> {
        let mut request = Request::new(method, path, REGISTER_WITHIN);
        if let Some(body) = body {
            request = request.json(body);
        }
        let outcome = match self.http.send(self.agent, request).await {
            Ok(reply) if reply.status == StatusCode::NOT_FOUND => Ok(None),
            Ok(reply) => reply.success().map(Some),
            Err(error) => Err(error),
        };
        if outcome.is_err() {
            self.agent = self.agent.wrapping_add(1);
        }
        outcome
    }
}

fn body(value: &impl serde::Serialize) -> Result<Vec<u8>, RegistryError> {
    serde_json::to_vec(value).map_err(|error| {
        RegistryError::new(ErrorKind::Internal, "the request cannot be written").with_source(error)
    })
}

/// Parses a header that holds a number above 0.
fn number(reply: &Reply, name: &str) -> Result<u64, RegistryError> {
    let number = reply.header(name).and_then(|text| text.trim().parse().ok());
    number.filter(|number| *number > 0).ok_or_else(|| {
        let what = match reply.header(name) {
            Some(text) => format!("is {:?}", reply.secrets.shown(text)),
            None => "is missing".to_owned(),
        };
        let message = format!("header {name} {what}: this is not a registry");
        RegistryError::new(ErrorKind::Malformed, message)
    })
}

impl Lease for RestLease {
    fn register(&mut self) -> BoxFuture<'_, Result<(), RegistryError>> {
        Box::pin(async {
            let body = body(&written::announced(&self.record))?;
            let reply = self.send(Method::PUT, "/registry/register", Some(body));
            let reply = reply.await?.ok_or_else(|| {
                let message = "answered 404 Not Found: this is not a registry";
                RegistryError::new(ErrorKind::Refused, message)
            })?;
            #[derive(Deserialize)]
            struct Held {
                generation: u64,
            }
            let held = serde_json::from_slice(&reply.body);
            self.generation = held.ok().map(|Held { generation }| generation);
            if self.generation.is_none() {
                let message = "the answer to a registration has no generation";
                return Err(RegistryError::new(ErrorKind::Malformed, message));
            }
            Ok(())
        })
    }

    fn renew(&mut self) -> BoxFuture<'_, Result<Renewal, RegistryError>> {
        Box::pin(async {
            let body = body(&json!({"serviceId": self.record.instance.id()}))?;
            let reply = self.send(Method::POST, "/registry/heartbeat", Some(body));
            Ok(match reply.await? {
                Some(_) => Renewal::Kept,
                None => Renewal::Lost,
            })
        })
    }

    fn deregister(&mut self) -> BoxFuture<'_, Result<(), RegistryError>> {
        Box::pin(async {
            let mut path = format!("/registry/{}", encode(self.record.instance.id()));
            if let Some(generation) = self.generation {
                // Without the generation, it could remove a registration by another process.
                let _ = write!(path, "?generation={generation}");
            }
            // 404 means that the instance is already removed.
            self.send(Method::DELETE, &path, None).await.map(drop)
        })
    }

    fn renew_every(&self) -> Duration {
        renew_every(&self.record)
    }
}
