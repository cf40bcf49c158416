//! Parses requests. Every part is bounded in size and time; an error states the reason.

use std::{borrow::Cow, collections::BTreeSet, pin::pin, time::Duration};

use bytes::Buf;
use http::StatusCode;
use http_body::Body;
use http_body_util::BodyExt;
use percent_encoding::percent_decode_str;
use serde_json::Value;
use tokio::{sync::Semaphore, time::timeout};

use super::answer::RestFailure;
use crate::{
    instance::Host,
    registry::{memory::wire, text},
};

/// The largest body: 64 KiB. A registration with generous metadata is below 4 KiB.
const MAX_BODY: usize = 64 << 10;

/// How many bytes of a too large body are read and dropped, so that the client reads the response.
/// Arbitrary, well above the size of an accidental mistake.
const MAX_DISCARDED: usize = 4 << 20;

/// The largest body that is always read. Larger ones take turns, so that bodies which never end hold little.
const SMALL_BODY: usize = 4 << 10;

/// How many larger bodies are read at once: 16 MiB.
pub(super) const LARGE_BODIES: usize = 256;

/// The time limit for reading a body.
const BODY_WITHIN: Duration = Duration::from_secs(10);

/// The wait of a request that sets none, and the longest wait; both as in Consul.
const WAIT: Duration = Duration::from_secs(300);
const LONGEST_WAIT: Duration = Duration::from_secs(600);

/// Reads a JSON body. `turns` are those of large bodies.
pub(super) async fn json<B: Body>(body: B, turns: &Semaphore) -> Result<Value, RestFailure> {
    let bytes = timeout(BODY_WITHIN, read(body, turns))
        .await
        .map_err(|_| {
            let message = format!("the body took longer than {BODY_WITHIN:?}");
            RestFailure::new(StatusCode::REQUEST_TIMEOUT, message)
        })??;
    serde_json::from_slice(&bytes)
        .map_err(|error| RestFailure::bad(format!("the body is not JSON: {error}")))
}

async fn read<B: Body>(body: B, turns: &Semaphore) -> Result<Vec<u8>, RestFailure> {
    let too_large = || {
        let message = format!("the body is larger than {MAX_BODY} bytes");
        RestFailure::new(StatusCode::PAYLOAD_TOO_LARGE, message)
    };
    if body.size_hint().lower() > MAX_DISCARDED as u64 {
        return Err(too_large());
    }
    let mut body = pin!(body);
    let (mut bytes, mut total, mut turn) = (Vec::new(), 0_usize, None);
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|_| RestFailure::bad("the body broke off"))?;
        let Ok(mut data) = frame.into_data() else {
            continue;
        };
        total = total.saturating_add(data.remaining());
        if total > MAX_DISCARDED {
            break;
        }
        if total > SMALL_BODY && turn.is_none() {
            turn = turns.acquire().await.ok();
        }
        if total <= MAX_BODY {
            while data.has_remaining() {
                let chunk = data.chunk();
                bytes.extend_from_slice(chunk);
                let read = chunk.len();
                data.advance(read);
            }
        }
    }
    if total > MAX_BODY {
        return Err(too_large());
    }
    Ok(bytes)
}

/// Decodes a name or an id in a path.
pub(super) fn segment<'a>(encoded: &'a str, what: &str) -> Result<Cow<'a, str>, RestFailure> {
    let text = percent_decode_str(encoded)
        .decode_utf8()
        .map_err(|_| RestFailure::bad(format!("{what} is not UTF-8")))?;
    if wire::is_name(&text) {
        return Ok(text);
    }
    Err(RestFailure::bad(format!(
        "{what}: {}",
        wire::name_accepted()
    )))
}

/// The parameters of a request. Unknown parameters are ignored, as in Consul.
#[derive(Debug, Default)]
pub(super) struct Params {
    pub(super) index: Option<u64>,
    pub(super) epoch: Option<u64>,
    pub(super) wait: Option<Duration>,
    /// In an order that does not depend on the request.
    pub(super) tags: BTreeSet<String>,
    pub(super) host: Option<Host>,
    pub(super) port: Option<u16>,
    pub(super) generation: Option<u64>,
}

impl Params {
    /// Parses a query with at most `most_tags` different tags.
    pub(super) fn parse(query: Option<&str>, most_tags: usize) -> Result<Self, RestFailure> {
        let mut params = Self::default();
        for (name, value) in form_urlencoded::parse(query.unwrap_or_default().as_bytes()) {
            match &*name {
                "index" => params.index = Some(number("index", &value)?),
                "epoch" => params.epoch = Some(number("epoch", &value)?),
                "generation" => params.generation = Some(number("generation", &value)?),
                "wait" => params.wait = Some(duration("wait", &value)?),
                "tag" if params.tags.contains(&*value) => {}
                "tag" if params.tags.len() >= most_tags => {
                    let message = format!("the query has more than {most_tags} different tags");
                    return Err(RestFailure::bad(message));
                }
                "tag" => drop(params.tags.insert(value.into_owned())),
                "host" => params.host = Some(host(&Value::from(&*value))?),
                "port" => {
                    // Text that is not a number is refused by `port`.
                    let value = serde_json::from_str(&value).unwrap_or(Value::from(&*value));
                    params.port = Some(port(&value)?);
                }
                _ => {}
            }
        }
        Ok(params)
    }

    /// Returns the longest time to wait for a change.
    pub(super) fn wait(&self) -> Duration {
        self.wait.unwrap_or(WAIT).min(LONGEST_WAIT)
    }
}

/// The fields of a body that identify an instance.
#[derive(Debug)]
pub(super) struct NamedInstance {
    /// An id, or the name of a service.
    pub(super) name: String,
    pub(super) host: Option<Host>,
    pub(super) port: Option<u16>,
    pub(super) generation: Option<u64>,
}

pub(super) fn named(value: &Value) -> Result<NamedInstance, RestFailure> {
    let fields = wire::object(value, "the body").map_err(field)?;
    let given = |name| fields.get(name).filter(|value| !value.is_null());
    let name = fields.get("serviceId").unwrap_or(&Value::Null);
    let name = wire::name(name, "serviceId").map_err(field)?;
    let generation = fields.get("generation").unwrap_or(&Value::Null);
    let generation = wire::whole(generation, "generation", 0, u64::MAX).map_err(field)?;
    Ok(NamedInstance {
        name: name.to_owned(),
        host: given("host").map(host).transpose()?,
        port: given("port").map(port).transpose()?,
        generation,
    })
}

fn host(value: &Value) -> Result<Host, RestFailure> {
    wire::host(value).map_err(field)
}

fn port(value: &Value) -> Result<u16, RestFailure> {
    wire::port(value).map_err(field)
}

pub(super) fn field(error: wire::FieldError) -> RestFailure {
    RestFailure::bad(error.to_string())
}

fn number(name: &str, value: &str) -> Result<u64, RestFailure> {
    value.parse().map_err(|_| {
        let value = text::excerpt(value, 64);
        let most = u64::MAX;
        RestFailure::bad(format!(
            "{name} is {value:?}; it must be a whole number in 0..={most}"
        ))
    })
}

/// Parses a duration in Go's format (`1m30s`, `1.5s`, `500ms`), which Consul uses.
fn duration(name: &str, value: &str) -> Result<Duration, RestFailure> {
    text::duration(value).ok_or_else(|| {
        let value = text::excerpt(value, 64);
        RestFailure::bad(format!(
            "{name} is {value:?}; it must be a time with its unit: 500ms, 30s, 1.5s, 2m (at most 10m)"
        ))
    })
}
