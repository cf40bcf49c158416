//! The JSON of a registration: the format of the REST server and of a saved state.
//!
//! It is parsed by hand, so that an error names the field, the value, and the accepted values;
//! [`written`](super::written) writes it with serde.

use std::{collections::BTreeMap, fmt, num::NonZeroU32, sync::Arc, time::Duration};

use serde_json::{Map, Value};

use super::record::{Beat, Defaults, NewRecord, RecordCheck};
use crate::{
    instance::{Address, Host, Instance, Status, Weight},
    registry::text::excerpt,
};

/// The heartbeat interval of a registration that sets neither an interval, a TTL nor a check.
pub(in crate::registry) const DEFAULT_INTERVAL: Duration = Duration::from_secs(10);
/// How long a critical instance is kept by default, as in an [`Announcement`](crate::registry::Announcement).
pub(in crate::registry) const DEFAULT_REAP_AFTER: Duration = Duration::from_secs(600);

/// The longest accepted time, a year; a longer one means "never".
pub(in crate::registry) const LONGEST: Duration = Duration::from_secs(31_536_000);
/// The longest name or id, in bytes. Arbitrary: Consul's limit for names is 253 bytes, and an id often
/// contains a name.
pub(in crate::registry) const LONGEST_NAME: usize = 512;

/// Converts a time to the milliseconds that the parser accepts. The result is at least 1, because 0
/// means "never".
pub(super) fn millis(time: Duration) -> u64 {
    u64::try_from(time.min(LONGEST).as_millis()).map_or(1, |ms| ms.max(1))
}

/// The error for a field that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::registry) struct FieldError(String);

impl FieldError {
    pub(super) fn of(message: String) -> Self {
        Self(message)
    }

    fn new(field: &str, value: &Value, accepted: &str) -> Self {
        // A client may send any text, so the message quotes at most 64 characters.
        let text = excerpt(&value.to_string(), 64);
        Self(match value {
            Value::Null => format!("{field} is missing; {accepted}"),
            _ => format!("{field} is {text}; {accepted}"),
        })
    }
}

impl fmt::Display for FieldError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for FieldError {}

/// A parsed registration.
#[derive(Clone, Debug)]
pub(in crate::registry) struct Parsed {
    pub(in crate::registry) record: NewRecord,
    /// From a saved record; 0 in a registration.
    pub(in crate::registry) last_heartbeat: u64,
}

/// Parses a registration or a saved record.
///
/// With `serviceName`, `serviceId` is the id of the instance. Without it, `serviceId` is the name of the
/// service, and the id consists of it, the host and the port.
pub(in crate::registry) fn parse(value: &Value, defaults: Defaults) -> Result<Parsed, FieldError> {
    let fields = object(value, "the registration")?;
    let field = |name: &str| fields.get(name).unwrap_or(&Value::Null);
    let first = name(field("serviceId"), "serviceId")?;
    let host = host(field("host"))?;
    let port = port(field("port"))?;
    let address = Address::new(host, port.into())
        .map_err(|error| FieldError(format!("host and port: {error}")))?;
    let (service, id) = match field("serviceName") {
        Value::Null => (
            first,
            format!("{first}-{}-{}", address.host(), address.port()),
        ),
        given => (name(given, "serviceName")?, first.to_owned()),
    };
    let mut instance = Instance::new(service, id, address);
    if let Some(weight) = whole(field("weight"), "weight", 0, 65_535)? {
        instance.weight = Weight::clamped(i64::try_from(weight).unwrap_or(i64::MAX));
    }
    instance.zone = match text(field("zone"), "zone")? {
        Some("") | None => None,
        Some(zone) => Some(zone.into()),
    };
    instance.status = status(field("status"))?;
    instance.tags = tags(field("tags"))?;
    instance.metadata = metadata(field("metadata"))?;
    // At most half of the range, so that it cannot overflow; the same holds for the index of a saved
    // state.
    let generation = whole(field("generation"), "generation", 0, u64::MAX / 2)?;
    instance.generation = generation.unwrap_or(0);
    let check = check(field("healthCheck"), defaults)?.map(Arc::new);
    let beat = beat(
        field("heartbeatInterval"),
        field("ttl"),
        check.is_some(),
        defaults.max_failures,
    )?;
    let session = text(field("session"), "session")?.map(Arc::from);
    Ok(Parsed {
        record: NewRecord {
            instance,
            beat,
            check,
            session,
        },
        last_heartbeat: field("lastHeartbeat").as_u64().unwrap_or(0),
    })
}

pub(in crate::registry) fn object<'a>(
    value: &'a Value,
    what: &str,
) -> Result<&'a Map<String, Value>, FieldError> {
    let object = value.as_object();
    object.ok_or_else(|| FieldError::new(what, value, "it must be a JSON object"))
}

/// Parses a name or an id.
pub(in crate::registry) fn name<'a>(value: &'a Value, field: &str) -> Result<&'a str, FieldError> {
    let name = value.as_str().filter(|name| is_name(name));
    name.ok_or_else(|| FieldError::new(field, value, &name_accepted()))
}

/// Says what [`is_name`] accepts.
pub(in crate::registry) fn name_accepted() -> String {
    format!(
        "it must be text of 1 to {LONGEST_NAME} bytes that is not blank and has no control characters"
    )
}

/// Whether a text can be a name or an id. A line end in a name would forge lines of logs and terminals.
pub(in crate::registry) fn is_name(text: &str) -> bool {
    !text.trim().is_empty() && text.len() <= LONGEST_NAME && !text.contains(char::is_control)
}

pub(in crate::registry) fn host(value: &Value) -> Result<Host, FieldError> {
    let accepted = "it must be an IP address or a host name of letters, digits, -, _ and . \
                    that other processes can connect to";
    let host = value.as_str().and_then(|host| host.parse::<Host>().ok());
    host.ok_or_else(|| FieldError::new("host", value, accepted))
}

pub(in crate::registry) fn port(value: &Value) -> Result<u16, FieldError> {
    let port = value.as_u64().and_then(|port| u16::try_from(port).ok());
    port.filter(|port| *port > 0)
        .ok_or_else(|| FieldError::new("port", value, "it must be a whole number in 1..=65535"))
}

fn text<'a>(value: &'a Value, field: &str) -> Result<Option<&'a str>, FieldError> {
    match value {
        Value::Null => Ok(None),
        Value::String(text) if text.len() <= LONGEST_NAME && !text.contains(char::is_control) => {
            Ok(Some(text))
        }
        _ => {
            let accepted = format!(
                "it must be text of at most {LONGEST_NAME} bytes without control characters"
            );
            Err(FieldError::new(field, value, &accepted))
        }
    }
}

pub(in crate::registry) fn whole(
    value: &Value,
    field: &str,
    least: u64,
    most: u64,
) -> Result<Option<u64>, FieldError> {
    match value {
        Value::Null => Ok(None),
        value => match value.as_u64() {
            Some(number) if (least..=most).contains(&number) => Ok(Some(number)),
            _ => {
                let accepted = format!("it must be a whole number in {least}..={most}");
                Err(FieldError::new(field, value, &accepted))
            }
        },
    }
}

/// Parses a time in milliseconds, at least 1.
fn time(value: &Value, field: &str) -> Result<Option<Duration>, FieldError> {
    let time = whole(value, field, 1, millis(LONGEST))?;
    Ok(time.map(Duration::from_millis))
}

fn status(value: &Value) -> Result<Status, FieldError> {
    let known = [
        Status::Passing,
        Status::Warning,
        Status::Critical,
        Status::Maintenance,
    ];
    match value {
        Value::Null => Ok(Status::Passing),
        value => known
            .into_iter()
            .find(|status| value.as_str() == Some(&status.to_string()))
            .ok_or_else(|| {
                let accepted = "it must be passing, warning, critical or maintenance";
                FieldError::new("status", value, accepted)
            }),
    }
}

fn tags(value: &Value) -> Result<Vec<String>, FieldError> {
    let wrong = || FieldError::new("tags", value, "they must be a list of texts");
    match value {
        Value::Null => Ok(Vec::new()),
        Value::Array(tags) => tags
            .iter()
            .map(|tag| tag.as_str().map(str::to_owned).ok_or_else(wrong))
            .collect(),
        _ => Err(wrong()),
    }
}

fn metadata(value: &Value) -> Result<BTreeMap<String, String>, FieldError> {
    let pairs = match value {
        Value::Null => return Ok(BTreeMap::new()),
        value => object(value, "metadata")?,
    };
    let pair = |(name, value): (&String, &Value)| match value {
        Value::String(text) => Ok((name.clone(), text.clone())),
        Value::Number(_) | Value::Bool(_) => Ok((name.clone(), value.to_string())),
        _ => Err(FieldError::new(
            &format!("metadata.{name}"),
            value,
            "it must be text, a number or a boolean",
        )),
    };
    pairs.iter().map(pair).collect()
}

fn beat(
    interval: &Value,
    ttl: &Value,
    checked: bool,
    max_failures: NonZeroU32,
) -> Result<Option<Beat>, FieldError> {
    let ttl_time = time(ttl, "ttl")?;
    let most = millis(LONGEST);
    match (
        whole(interval, "heartbeatInterval", 0, most)?.map(Duration::from_millis),
        ttl_time,
    ) {
        (Some(interval), Some(ttl)) if interval > ttl => Err(FieldError(format!(
            "ttl is {ttl:?}; it must not be below heartbeatInterval, {interval:?}"
        ))),
        (Some(interval), Some(ttl)) if !interval.is_zero() => Ok(Some(Beat { interval, ttl })),
        (_, Some(ttl)) => Ok(Some(Beat::within(ttl, max_failures))),
        (Some(interval), None) if interval.is_zero() => Ok(None),
        (Some(interval), None) => Ok(Some(Beat::every(interval, max_failures))),
        (None, None) if checked => Ok(None),
        (None, None) => Ok(Some(Beat::every(DEFAULT_INTERVAL, max_failures))),
    }
}

fn check(value: &Value, defaults: Defaults) -> Result<Option<RecordCheck>, FieldError> {
    if value.is_null() {
        return Ok(None);
    }
    let fields = object(value, "healthCheck")?;
    let field = |name: &str| fields.get(name).unwrap_or(&Value::Null);
    let path = text(field("path"), "healthCheck.path")?;
    if path.is_some_and(|path| !is_path(path)) {
        let accepted = "it must begin with / and hold neither spaces nor control characters";
        return Err(FieldError::new("healthCheck.path", field("path"), accepted));
    }
    let failures = field("maxFailures");
    let failures = whole(failures, "healthCheck.maxFailures", 1, u32::MAX.into())?;
    let failures = failures.and_then(|n| NonZeroU32::new(u32::try_from(n).ok()?));
    let reap = field("reapAfter");
    let reap = whole(reap, "healthCheck.reapAfter", 0, millis(LONGEST))?;
    Ok(Some(RecordCheck {
        path: path.map(str::to_owned),
        interval: time(field("interval"), "healthCheck.interval")?
            .unwrap_or(defaults.check_interval),
        timeout: time(field("timeout"), "healthCheck.timeout")?.unwrap_or(defaults.check_timeout),
        max_failures: failures.unwrap_or(defaults.max_failures),
        reap_after: match reap.map(Duration::from_millis) {
            None => Some(DEFAULT_REAP_AFTER),
            Some(Duration::ZERO) => None,
            some => some,
        },
        // In a saved record only: the server sets what it sees itself.
        registrant: field("registrant").as_str().and_then(|ip| ip.parse().ok()),
    }))
}

/// Whether the path can be requested without encoding.
pub(in crate::registry) fn is_path(path: &str) -> bool {
    path.starts_with('/') && path.bytes().all(|b| b.is_ascii_graphic())
}
