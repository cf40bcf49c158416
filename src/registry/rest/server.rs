//! The HTTP server of the embedded registry, as a tower `Service`.

use std::{
    collections::BTreeMap,
    convert::Infallible,
    sync::Arc,
    task::{Context, Poll},
};

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body::Body;
use http_body_util::Full;
use rand::RngExt;
use serde::Serialize;
use tokio::{
    sync::watch as cell,
    time::{Instant, sleep_until},
};
use tower::Service;

use super::{
    answer::{RestFailure, json, positioned},
    input::{self, Params},
};
use crate::{
    instance::Host,
    registry::{
        BoxFuture, Query, Renewal,
        memory::{Lookup, Memory, MemoryShared, Unresolved, wire},
    },
};

type RestAnswer = Response<Full<Bytes>>;

/// Serves a [`Memory`] over HTTP; the [module](super) lists its requests.
///
/// Any server that takes a tower `Service` can run it; [`serve`](Self::serve) is one. It is cheap to
/// clone.
#[derive(Clone, Debug)]
pub struct RestServer {
    memory: Memory,
    /// True once the server shuts down; requests that wait for a change then get their response.
    pub(super) closing: Option<cell::Receiver<bool>>,
}

impl RestServer {
    /// Creates a server for this registry.
    pub fn new(memory: Memory) -> Self {
        Self {
            memory,
            closing: None,
        }
    }

    /// Returns the registry that it serves.
    pub fn memory(&self) -> &Memory {
        &self.memory
    }

    fn shared(&self) -> &MemoryShared {
        &self.memory.shared
    }

    async fn answer<B: Body>(self, request: Request<B>) -> Result<RestAnswer, RestFailure> {
        let (head, body) = request.into_parts();
        let mut path = head.uri.path().strip_prefix("/registry/");
        let mut segments = path.take().into_iter().flat_map(|rest| rest.split('/'));
        let place = (segments.next(), segments.next(), segments.next());
        let method = &head.method;
        let allowed = match place {
            (Some("services"), Some(_), None) => "GET",
            (Some("register"), None, None) => "PUT, DELETE",
            (Some("heartbeat"), None, None) => "POST, DELETE",
            (Some("services" | "health"), None, None) => "GET, DELETE",
            (Some(id), None, None) if !id.is_empty() => "DELETE",
            _ => {
                let message = "no such path; see PUT /registry/register, POST /registry/heartbeat, \
                               DELETE /registry/{id}, GET /registry/services/{name}";
                return Err(RestFailure::new(StatusCode::NOT_FOUND, message));
            }
        };
        if !allowed.split(", ").any(|name| name == method.as_str()) {
            return Err(RestFailure::method(allowed));
        }
        let params = Params::parse(head.uri.query())?;
        let admitted = self.shared().faults.admit().await;
        admitted.map_err(|_| RestFailure::injected())?;
        match place {
            (Some(id), None, _) if method == Method::DELETE => {
                self.deregister(&input::segment(id, "the id")?, &params)
                    .await
            }
            (Some("services"), Some(name), _) => {
                let name = input::segment(name, "the name of the service")?;
                self.instances(&name, params).await
            }
            (Some("register"), ..) => self.register(body).await,
            (Some("heartbeat"), ..) => self.heartbeat(body).await,
            (Some("health"), ..) => Ok(self.health()),
            _ => Ok(self.services()),
        }
    }

    async fn register<B: Body>(&self, body: B) -> Result<RestAnswer, RestFailure> {
        let body = input::json(body).await?;
        let shared = self.shared();
        let parsed = wire::parse(&body, shared.defaults).map_err(input::field)?;
        let (record, position) = shared.register(parsed.record);
        shared.saved(position).await;
        Ok(positioned(
            json(StatusCode::OK, &wire::shown(&record)),
            position,
        ))
    }

    async fn heartbeat<B: Body>(&self, body: B) -> Result<RestAnswer, RestFailure> {
        #[derive(Serialize)]
        #[serde(rename_all = "camelCase")]
        struct HeartbeatBody<'a> {
            id: &'a str,
            service_name: &'a str,
            last_heartbeat: u64,
        }
        let body = input::json(body).await?;
        let input::NamedInstance {
            name,
            host,
            port,
            generation,
        } = input::named(&body)?;
        let id = self.resolve(&name, host.as_ref(), port)?;
        let shared = self.shared();
        let held = shared.get(&id);
        let held = held.filter(|r| generation.is_none_or(|g| r.instance.generation == g));
        if held.is_none() || shared.heartbeat(&id) == Renewal::Lost {
            return Err(unknown(&name));
        }
        let record = shared.get(&id).ok_or_else(|| unknown(&name))?;
        let kept = HeartbeatBody {
            id: &id,
            service_name: &record.instance.service,
            last_heartbeat: record.last_heartbeat,
        };
        Ok(json(StatusCode::OK, &kept))
    }

    async fn deregister(&self, name: &str, params: &Params) -> Result<RestAnswer, RestFailure> {
        let shared = self.shared();
        let id = self.resolve(name, params.host.as_ref(), params.port)?;
        let removed = shared.deregister(&id, params.generation);
        let (record, position) = removed.ok_or_else(|| unknown(name))?;
        shared.saved(position).await;
        Ok(positioned(
            json(StatusCode::OK, &wire::shown(&record)),
            position,
        ))
    }

    async fn instances(&self, name: &str, params: Params) -> Result<RestAnswer, RestFailure> {
        let wait = params.wait();
        let spread: f64 = rand::rng().random();
        let until = Instant::now() + wait + wait.mul_f64(spread / 16.0);
        let service: Arc<str> = name.into();
        let query = params
            .tags
            .into_iter()
            .fold(Query::new(Arc::clone(&service)), Query::tag);
        let mut look = self.shared().look(&query);
        // A different index is older, or from another start of the registry.
        let waits = params.index == Some(look.position.index)
            && params
                .epoch
                .is_none_or(|epoch| epoch == look.position.epoch);
        if waits {
            let left = self.shared().left(&service, look.position);
            tokio::select! {
                left = left => left.map_err(|_| RestFailure::injected())?,
                () = sleep_until(until) => {}
                () = self.closes() => {}
            }
            self.shared().faults.open().await;
            look = self.shared().look(&query);
        }
        Ok(listing(name, &look))
    }

    async fn closes(&self) {
        match self.closing.clone() {
            // The sender belongs to the server. If it is dropped, the server is shutting down.
            Some(mut closing) => drop(closing.wait_for(|closing| *closing).await),
            None => std::future::pending().await,
        }
    }

    fn services(&self) -> RestAnswer {
        #[derive(Serialize)]
        struct ServicesBody<'a> {
            services: BTreeMap<&'a str, usize>,
        }
        let (position, counts) = self.shared().services();
        let services = counts.iter().map(|(name, n)| (&**name, *n)).collect();
        positioned(json(StatusCode::OK, &ServicesBody { services }), position)
    }

    fn health(&self) -> RestAnswer {
        #[derive(Serialize)]
        struct HealthBody {
            status: &'static str,
            services: usize,
            instances: usize,
        }
        let (position, counts) = self.shared().services();
        let health = HealthBody {
            status: "passing",
            services: counts.len(),
            instances: counts.iter().map(|(_, instances)| instances).sum(),
        };
        positioned(json(StatusCode::OK, &health), position)
    }

    fn resolve(
        &self,
        name: &str,
        host: Option<&Host>,
        port: Option<u16>,
    ) -> Result<Arc<str>, RestFailure> {
        let resolved = self.shared().resolve(name, host, port);
        resolved.map_err(|unresolved| match unresolved {
            Unresolved::Unknown => unknown(name),
            Unresolved::Several => RestFailure::new(
                StatusCode::CONFLICT,
                format!("{name:?} has several instances: give the id, or host and port"),
            ),
        })
    }
}

fn unknown(name: &str) -> RestFailure {
    let message = format!("{name:?} is unknown: it never registered, left, or expired");
    RestFailure::new(StatusCode::NOT_FOUND, message)
}

fn listing(name: &str, look: &Lookup) -> RestAnswer {
    #[derive(Serialize)]
    #[serde(rename_all = "camelCase")]
    struct ListingBody<'a, T> {
        service_name: &'a str,
        exists: bool,
        instances: Vec<T>,
    }
    let body = ListingBody {
        service_name: name,
        exists: look.exists,
        instances: look.records.iter().map(wire::shown).collect(),
    };
    positioned(json(StatusCode::OK, &body), look.position)
}

impl<B> Service<Request<B>> for RestServer
where
    B: Body + Send + 'static,
    B::Data: Send,
    B::Error: Send,
{
    type Response = Response<Full<Bytes>>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let server = self.clone();
        Box::pin(async move {
            let answer = server.answer(request).await;
            Ok(answer.unwrap_or_else(RestFailure::into_response))
        })
    }
}
