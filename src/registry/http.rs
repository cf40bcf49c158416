//! HTTP requests to a registry. Each is bounded in time and size, whatever the server does.

#[cfg(feature = "etcd")]
mod lines;
mod too_large;

#[cfg(feature = "etcd")]
pub(super) use self::lines::{LineError, Lines, Opened};
use self::too_large::{are_trailers_too_large, is_head_too_large, too_large};

use std::{fmt, sync::Arc, time::Duration};

use bytes::{Buf, Bytes};
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use http_body::Body as _;
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper_util::{
    client::legacy,
    rt::{TokioExecutor, TokioTimer},
};

use super::{
    decoding::{GunzipError, decoded, gunzip},
    redact::Secrets,
};
#[cfg(feature = "consul")]
use crate::connect::Link;
use crate::{
    classify::retry_after,
    connect::{
        Connector, Whole,
        limits::{HEADER_FIELDS, HEADER_SIZE},
    },
    error::{BoxError, ErrorKind, RegistryError},
};

/// The time limit for connecting to a registry.
pub(super) const CONNECT_WITHIN: Duration = Duration::from_secs(5);

/// The time limit for the body of a response once its head has arrived. The limit of the whole request
/// includes the wait for a change, and is too long for a body that arrives slowly.
const BODY_WITHIN: Duration = Duration::from_secs(15);

/// The longest response that is no list, in bytes. An agent's description of itself has up to 100 KiB.
const SHORT: usize = 1 << 20;

/// The interval between probes of an HTTP/2 connection in use, and the time limit for a response to
/// them. A dead connection is found before the deadline of a blocking query, and the probes cost almost
/// nothing.
#[cfg(feature = "http2")]
const PING_EVERY: Duration = Duration::from_secs(10);

/// A request. Its path is relative to the root of the registry.
#[derive(Clone)]
pub(super) struct Request {
    pub(super) method: Method,
    /// Path and query, percent-encoded.
    pub(super) path: String,
    pub(super) headers: Vec<(HeaderName, HeaderValue)>,
    pub(super) body: Bytes,
    /// The time limit for the whole exchange.
    pub(super) within: Duration,
    /// Whether the response is a list, which may be long.
    pub(super) lists: bool,
    /// The secrets of the body; those of the headers are known.
    hidden: Vec<String>,
}

impl Request {
    pub(super) fn new(method: Method, path: impl Into<String>, within: Duration) -> Self {
        Self {
            method,
            path: path.into(),
            headers: Vec::new(),
            body: Bytes::new(),
            within,
            lists: false,
            hidden: Vec::new(),
        }
    }

    /// Lets the response be as long as the configuration permits.
    pub(super) fn listing(mut self) -> Self {
        self.lists = true;
        self
    }

    /// Hides a text of the body in messages about the response.
    #[cfg(feature = "etcd")]
    pub(super) fn hiding(mut self, secret: impl Into<String>) -> Self {
        self.hidden.push(secret.into());
        self
    }

    /// What no message about the response may contain.
    fn secrets(&self) -> Secrets {
        let mut secrets = Secrets::of(self.headers.iter().map(|(_, value)| value));
        self.hidden.iter().for_each(|secret| secrets.add(secret));
        secrets
    }

    /// Sets the body.
    pub(super) fn json(mut self, body: impl Into<Bytes>) -> Self {
        self.body = body.into();
        let json = HeaderValue::from_static("application/json");
        self.headers.push((header::CONTENT_TYPE, json));
        self
    }
}

/// A complete response.
pub(super) struct Reply {
    pub(super) status: StatusCode,
    pub(super) headers: HeaderMap,
    pub(super) body: Bytes,
    /// What no message about the response may contain.
    pub(super) secrets: Secrets,
    /// The connection of the response, if the connector creates links.
    #[cfg(feature = "consul")]
    pub(super) link: Option<Link>,
}

impl Reply {
    /// Returns the value of a header, if it exists and is text.
    #[cfg(any(feature = "consul", feature = "rest"))]
    pub(super) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    /// Returns the beginning of the body as one line of text, for messages.
    pub(super) fn excerpt(&self) -> String {
        self.secrets.shown_bytes(&self.body)
    }

    /// Returns how long `Retry-After` asks to wait. Gateways before a registry send dates, too.
    pub(super) fn retry_after(&self) -> Option<Duration> {
        retry_after(&self.headers)
    }

    /// Turns every status but success into an error. That includes redirects, because a token must not
    /// be sent to another host.
    pub(super) fn success(self) -> Result<Self, RegistryError> {
        let kind = match self.status.as_u16() {
            200..=299 => return Ok(self),
            401 | 403 => ErrorKind::Denied,
            429 => ErrorKind::Limited,
            300..=499 => ErrorKind::Refused,
            _ => ErrorKind::Unavailable,
        };
        let mut message = format!("answered {}", self.status);
        if self.status.is_redirection() {
            message.push_str(", and redirects are not followed");
        }
        let excerpt = self.excerpt();
        if !excerpt.is_empty() {
            message = format!("{message}: {excerpt}");
        }
        let error = RegistryError::new(kind, message);
        Err(match self.retry_after() {
            Some(delay) => error.with_retry_after(delay),
            None => error,
        })
    }
}

/// The clients for the addresses of one registry, each with its own connections.
#[derive(Clone)]
pub(super) struct RegistryHttp {
    origins: Arc<[Origin]>,
    max_body: usize,
}

struct Origin {
    /// Scheme and authority.
    origin: String,
    gzip: bool,
    client: legacy::Client<Connector, Full<Bytes>>,
}

impl RegistryHttp {
    /// Returns how many addresses there are.
    #[cfg(feature = "etcd")]
    pub(super) fn members(&self) -> usize {
        self.origins.len()
    }

    /// Creates a client for each origin, such as `http://127.0.0.1:8500`.
    pub(super) fn new(
        agents: impl IntoIterator<Item = (String, bool, Connector)>,
        max_body: usize,
    ) -> Self {
        let agents = agents.into_iter().map(|(origin, gzip, connector)| {
            let mut client = legacy::Client::builder(TokioExecutor::new());
            client
                // Idle connections count against a registry's limit per client.
                .pool_max_idle_per_host(2)
                .pool_idle_timeout(Duration::from_secs(20))
                .pool_timer(TokioTimer::new())
                .http1_max_headers(HEADER_FIELDS)
                .http1_max_buf_size(HEADER_SIZE as usize);
            // In HTTP/1, a request that times out closes its connection. In HTTP/2 it does not, and a
            // dead connection would be used again.
            #[cfg(feature = "http2")]
            client
                .timer(TokioTimer::new())
                .http2_max_header_list_size(crate::connect::limits::http2_reads(HEADER_SIZE))
                .http2_keep_alive_interval(PING_EVERY)
                .http2_keep_alive_timeout(PING_EVERY);
            Origin {
                origin,
                gzip,
                client: client.build(connector),
            }
        });
        Self {
            origins: agents.collect(),
            max_body,
        }
    }

    /// Sends a request to the address at index `agent`, modulo their number.
    ///
    /// Dropping the future closes the connection of an open HTTP/1 request.
    pub(super) async fn send(
        &self,
        agent: usize,
        request: Request,
    ) -> Result<Reply, RegistryError> {
        let agent = &self.origins[agent % self.origins.len()];
        let (within, secrets) = (request.within, request.secrets());
        let lists = request.lists;
        let exchange = async {
            let response = self.begin(agent, request, &secrets).await?;
            self.finish(agent, response, lists, &secrets).await
        };
        let reply = in_time(agent, within, exchange).await?;
        Ok(Reply { secrets, ..reply })
    }

    /// Sends a request, and waits for the head of the response.
    async fn begin(
        &self,
        agent: &Origin,
        request: Request,
        secrets: &Secrets,
    ) -> Result<http::Response<hyper::body::Incoming>, RegistryError> {
        let built = self.build(agent, request).map_err(|error| {
            RegistryError::new(ErrorKind::Invalid, "the request cannot be built").with_source(error)
        })?;
        let response = agent.client.request(built).await.map_err(|error| {
            if is_head_too_large(&error) {
                return too_large("the head").with_source(error);
            }
            let message = if error.is_connect() {
                format!("cannot connect to {}", agent.origin)
            } else {
                format!("the connection to {} broke", agent.origin)
            };
            let cause = secrets.cause(error);
            RegistryError::new(ErrorKind::Unreachable, message).with_source(cause)
        })?;
        #[cfg(feature = "http2")]
        if response.version() == http::Version::HTTP_2
            && crate::connect::limits::size(response.headers()) > HEADER_SIZE as usize
        {
            return Err(too_large("the head"));
        }
        Ok(response)
    }

    /// Reads the body of a response.
    async fn finish(
        &self,
        agent: &Origin,
        response: http::Response<hyper::body::Incoming>,
        lists: bool,
        secrets: &Secrets,
    ) -> Result<Reply, RegistryError> {
        let longest = match lists {
            true => self.max_body,
            false => self.max_body.min(SHORT),
        };
        let body = tokio::time::timeout(BODY_WITHIN, self.read(agent, response, longest, secrets));
        body.await.map_err(|_| {
            let message = format!("the body of an answer took longer than {BODY_WITHIN:?}");
            RegistryError::new(ErrorKind::Timeout, message)
        })?
    }

    fn build(
        &self,
        agent: &Origin,
        request: Request,
    ) -> Result<http::Request<Full<Bytes>>, BoxError> {
        let mut built = http::Request::builder()
            .method(request.method)
            .uri(format!("{}{}", agent.origin, request.path))
            .body(Full::new(request.body))?;
        let headers = built.headers_mut();
        headers.insert(
            header::USER_AGENT,
            HeaderValue::from_static(concat!("tower-roster/", env!("CARGO_PKG_VERSION"))),
        );
        if agent.gzip {
            headers.insert(header::ACCEPT_ENCODING, HeaderValue::from_static("gzip"));
        }
        headers.extend(
            request
                .headers
                .into_iter()
                .map(|(name, value)| (Some(name), value)),
        );
        Ok(built)
    }

    async fn read(
        &self,
        agent: &Origin,
        response: http::Response<hyper::body::Incoming>,
        longest: usize,
        secrets: &Secrets,
    ) -> Result<Reply, RegistryError> {
        let (head, body) = Whole::wrap(response).into_parts();
        let too_long = || {
            let text = format!("an answer is longer than {longest} bytes");
            RegistryError::new(ErrorKind::Malformed, text)
        };
        if body.size_hint().lower() > longest as u64 {
            return Err(too_long());
        }
        let gzip = is_gzip(&head.headers, agent.gzip)?;
        let collected = Limited::new(body, longest)
            .collect()
            .await
            .map_err(|error| {
                if error.is::<LengthLimitError>() {
                    return too_long();
                }
                if are_trailers_too_large(&*error) {
                    return too_large("the trailers").with_source(secrets.cause(error));
                }
                let text = format!("an answer of {} broke off", agent.origin);
                let cause = secrets.cause(error).after_head();
                RegistryError::new(ErrorKind::Unreachable, text).with_source(cause)
            })?;
        // Joining the parts of a long body takes as long as decoding a small one.
        let mut parts = collected.aggregate();
        let received = parts.remaining();
        let work = if gzip { 16 * received } else { received };
        let whole = decoded(work, move || {
            let body = parts.copy_to_bytes(received);
            match gzip {
                true => gunzip(&body, longest),
                false => Ok(body),
            }
        });
        let body = whole.await.map_err(|error| match error {
            GunzipError::Invalid(error) => {
                let text = "an answer is not valid gzip";
                RegistryError::new(ErrorKind::Malformed, text).with_source(secrets.cause(error))
            }
            GunzipError::TooLong => too_long(),
            GunzipError::Expands => {
                let text = "a compressed answer expands too much";
                RegistryError::new(ErrorKind::Malformed, text)
            }
        })?;
        Ok(Reply {
            status: head.status,
            #[cfg(feature = "consul")]
            link: head.extensions.get().cloned(),
            headers: head.headers,
            body,
            secrets: Secrets::default(),
        })
    }
}

/// Whether a body is compressed with gzip.
///
/// # Errors
/// When it is and gzip was not `asked` for, or when it has another coding.
pub(super) fn is_gzip(headers: &HeaderMap, asked: bool) -> Result<bool, RegistryError> {
    let mut codings = headers.get_all(header::CONTENT_ENCODING).iter();
    let malformed = |text: &str| Err(RegistryError::new(ErrorKind::Malformed, text));
    match (codings.next(), codings.next()) {
        (None, _) => Ok(false),
        (Some(one), None) if one.as_bytes().eq_ignore_ascii_case(b"identity") => Ok(false),
        (Some(one), None) if one.as_bytes().eq_ignore_ascii_case(b"gzip") => match asked {
            true => Ok(true),
            false => malformed("an answer is compressed, which was not asked for"),
        },
        _ => malformed("an answer has a coding that was not asked for"),
    }
}

/// Bounds an exchange by the time of its request.
async fn in_time<T>(
    agent: &Origin,
    within: Duration,
    exchange: impl Future<Output = Result<T, RegistryError>>,
) -> Result<T, RegistryError> {
    let done = tokio::time::timeout(within, exchange).await;
    done.map_err(|_| {
        let message = format!("no answer from {} within {within:?}", agent.origin);
        RegistryError::new(ErrorKind::Timeout, message)
    })?
}

impl fmt::Debug for RegistryHttp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let origins = self.origins.iter().map(|agent| &agent.origin);
        f.debug_list().entries(origins).finish()
    }
}

/// Whether traffic to this host stays on this machine; then compression only costs time.
#[cfg(any(feature = "consul", feature = "rest"))]
pub(super) fn is_local(host: &crate::instance::Host) -> bool {
    match host {
        crate::instance::Host::Ip(ip) => ip.is_loopback(),
        crate::instance::Host::Name(name) => &**name == "localhost",
    }
}
