//! The formats that are JSON objects.

use std::{collections::BTreeMap, sync::Arc};

use serde_json::{Map, Value};

use super::{address, error::RecordError, metadata::with_metadata};
use crate::{
    instance::{Address, Host, Instance, Key, Status, Weight},
    registry::text::excerpt,
};

type Fields = Map<String, Value>;

/// Reads an object that is stored under `name`, and of several endpoints the one of that name.
pub(super) fn decode(
    endpoint: Option<&str>,
    service: &Arc<str>,
    name: &str,
    text: &str,
) -> Result<Instance, RecordError> {
    let fields: Fields = serde_json::from_str(text)
        .map_err(|error| RecordError::new(format!("it is not JSON: {error}")))?;
    let has = |field: &str| fields.get(field).is_some_and(|value| !value.is_null());
    let mut instance = if has("serviceEndpoint") {
        serverset(endpoint, service, &fields)?
    } else if has("Addr") {
        grpc(service, &fields)?
    } else if has("network") && has("address") {
        kitex(service, &fields)?
    } else if has("nodes") {
        micro(service, &fields)?
    } else if has("address") {
        curator(service, &fields)?
    } else if has("endpoints") {
        kratos(endpoint, service, &fields)?
    } else if has("vector") {
        let why = "it sets the weights of a serverset, which are not used";
        return Err(RecordError::new(why));
    } else {
        return Err(RecordError::new("it has no address in any known format"));
    };
    if instance.id().trim().is_empty() {
        if name.trim().is_empty() {
            return Err(RecordError::new("it has no id"));
        }
        instance.key = Key::new(name, "");
    }
    Ok(instance)
}

/// The format of this crate, Curator, Spring Cloud and Dubbo by application.
fn curator(service: &Arc<str>, fields: &Fields) -> Result<Instance, RecordError> {
    let host = text(fields, "address")?.unwrap_or_default();
    let port = whole(fields, "port")?.or(whole(fields, "sslPort")?);
    let address = match port {
        Some(port) => Address::new(host.parse::<Host>().map_err(RecordError::new)?, port)
            .map_err(RecordError::new)?,
        None => address::parse(host)?,
    };
    let id = text(fields, "id")?.unwrap_or_default();
    let mut instance = Instance::new(Arc::clone(service), id, address);
    let payload = fields.get("payload").and_then(Value::as_object);
    let metadata = match (fields.get("metadata"), payload) {
        (Some(metadata), _) if !metadata.is_null() => texts(Some(metadata)),
        // Spring and Dubbo have an object of their own as payload; others store the metadata itself.
        (_, Some(payload)) if payload.contains_key("metadata") => texts(payload.get("metadata")),
        (_, Some(_)) => texts(fields.get("payload")),
        _ => BTreeMap::new(),
    };
    instance = with_metadata(instance, metadata);
    if let Some(weight) = whole(fields, "weight")? {
        instance.weight = Weight::clamped(weight);
    }
    // A record of this crate has these fields, even if they are null; its metadata has no meaning then.
    if fields.contains_key("zone") {
        instance = instance.zone(text(fields, "zone")?.unwrap_or_default());
    }
    instance.tags = tags(fields)?;
    if let Some(status) = text(fields, "status")? {
        instance.status = status_named(status)?;
    }
    if fields.get("enabled") == Some(&Value::Bool(false)) {
        instance.status = Status::Maintenance;
    }
    Ok(instance)
}

fn serverset(
    endpoint: Option<&str>,
    service: &Arc<str>,
    fields: &Fields,
) -> Result<Instance, RecordError> {
    let endpoint = match endpoint {
        None => fields.get("serviceEndpoint"),
        Some(name) => {
            let others = fields.get("additionalEndpoints");
            let named = others.and_then(|others| others.get(name));
            Some(named.ok_or_else(|| RecordError::new(format!("it has no endpoint {name:?}")))?)
        }
    };
    let endpoint = endpoint.and_then(Value::as_object);
    let endpoint = endpoint.ok_or_else(|| RecordError::new("its endpoint is no object"))?;
    let host = text(endpoint, "host")?.unwrap_or_default();
    let port = whole(endpoint, "port")?.unwrap_or_default();
    let host = host.parse::<Host>().map_err(RecordError::new)?;
    let address = Address::new(host, port).map_err(RecordError::new)?;
    let instance = address::by_address(service, address);
    let mut instance = with_metadata(instance, texts(fields.get("metadata")));
    // Finagle sends requests to no other status, also not to WARNING.
    if !matches!(text(fields, "status")?, None | Some("ALIVE")) {
        instance.status = Status::Critical;
    }
    Ok(instance)
}

fn grpc(service: &Arc<str>, fields: &Fields) -> Result<Instance, RecordError> {
    let address = address::of_url(text(fields, "Addr")?.unwrap_or_default())?;
    let instance = address::by_address(service, address);
    Ok(with_metadata(instance, texts(fields.get("Metadata"))))
}

fn kitex(service: &Arc<str>, fields: &Fields) -> Result<Instance, RecordError> {
    let network = text(fields, "network")?.unwrap_or_default();
    if !network.starts_with("tcp") {
        return Err(RecordError::new(format!(
            "its network is {:?}, not tcp",
            excerpt(network, 64)
        )));
    }
    let address = address::parse(text(fields, "address")?.unwrap_or_default())?;
    let instance = address::by_address(service, address);
    let mut instance = with_metadata(instance, texts(fields.get("tags")));
    if let Some(weight) = whole(fields, "weight")? {
        instance.weight = Weight::clamped(weight);
    }
    Ok(instance)
}

fn micro(service: &Arc<str>, fields: &Fields) -> Result<Instance, RecordError> {
    let nodes = fields.get("nodes").and_then(Value::as_array);
    let node = match nodes.map(Vec::as_slice) {
        Some([node]) => node.as_object(),
        _ => return Err(RecordError::new("it has not exactly one node")),
    };
    let node = node.ok_or_else(|| RecordError::new("its node is no object"))?;
    let host = text(node, "address")?.unwrap_or_default();
    let address = match whole(node, "port")? {
        Some(port) if port != 0 => {
            Address::new(host.parse::<Host>().map_err(RecordError::new)?, port)
                .map_err(RecordError::new)?
        }
        _ => address::parse(host)?,
    };
    let id = text(node, "id")?.unwrap_or_default();
    let instance = Instance::new(Arc::clone(service), id, address);
    let mut metadata = texts(fields.get("metadata"));
    metadata.extend(texts(node.get("metadata")));
    Ok(with_metadata(instance, versioned(fields, metadata)?))
}

fn kratos(
    endpoint: Option<&str>,
    service: &Arc<str>,
    fields: &Fields,
) -> Result<Instance, RecordError> {
    let endpoints = fields.get("endpoints").and_then(Value::as_array);
    let mut urls = endpoints.into_iter().flatten().filter_map(Value::as_str);
    let url = match endpoint {
        None => urls.next(),
        Some(name) => urls.find(|url| address::scheme(url) == name),
    };
    let url = url.ok_or_else(|| match endpoint {
        None => RecordError::new("it has no endpoint"),
        Some(name) => RecordError::new(format!("it has no endpoint {name:?}")),
    })?;
    let id = text(fields, "id")?.unwrap_or_default();
    let instance = Instance::new(Arc::clone(service), id, address::of_url(url)?);
    let metadata = versioned(fields, texts(fields.get("metadata")))?;
    Ok(with_metadata(instance, metadata))
}

/// Adds the version of a record to its metadata, where it has none.
fn versioned(
    fields: &Fields,
    mut metadata: BTreeMap<String, String>,
) -> Result<BTreeMap<String, String>, RecordError> {
    if let Some(version) = text(fields, "version")?.filter(|version| !version.is_empty()) {
        let known = metadata.entry("version".to_owned());
        known.or_insert_with(|| version.to_owned());
    }
    Ok(metadata)
}

fn wrong(field: &str, value: &Value, accepted: &str) -> RecordError {
    let value = value.to_string();
    RecordError::new(format!(
        "{field} is {}; it must be {accepted}",
        excerpt(&value, 64)
    ))
}

fn text<'a>(fields: &'a Fields, field: &str) -> Result<Option<&'a str>, RecordError> {
    match fields.get(field) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) => Ok(Some(text)),
        Some(value) => Err(wrong(field, value, "text")),
    }
}

/// Reads a whole number, also as text; some libraries write it so.
fn whole(fields: &Fields, field: &str) -> Result<Option<i64>, RecordError> {
    let value = match fields.get(field) {
        None | Some(Value::Null) => return Ok(None),
        Some(value) => value,
    };
    let number = match value {
        // A fraction is cut, and a number that is too large becomes the largest.
        Value::Number(number) => number.as_i64().or(number.as_f64().map(|n| n as i64)),
        Value::String(text) => text.trim().parse().ok(),
        _ => None,
    };
    number
        .map(Some)
        .ok_or_else(|| wrong(field, value, "a whole number"))
}

fn tags(fields: &Fields) -> Result<Vec<String>, RecordError> {
    let Some(Value::Array(tags)) = fields.get("tags") else {
        return Ok(Vec::new());
    };
    let text = |tag: &Value| match tag {
        Value::String(tag) => Ok(tag.clone()),
        tag => Err(wrong("a tag", tag, "text")),
    };
    tags.iter().map(text).collect()
}

/// Reads names and values of any object; a value that is no text, number or boolean is left out.
fn texts(value: Option<&Value>) -> BTreeMap<String, String> {
    let fields = value.and_then(Value::as_object);
    let pair = |(name, value): (&String, &Value)| {
        // The type of a Java object.
        if name == "@class" {
            return None;
        }
        let text = match value {
            Value::String(text) => text.clone(),
            Value::Number(_) | Value::Bool(_) => value.to_string(),
            _ => return None,
        };
        Some((name.clone(), text))
    };
    fields.into_iter().flatten().filter_map(pair).collect()
}

fn status_named(name: &str) -> Result<Status, RecordError> {
    let known = [
        Status::Passing,
        Status::Warning,
        Status::Critical,
        Status::Maintenance,
    ];
    let status = known.into_iter().find(|status| status.to_string() == name);
    status.ok_or_else(|| {
        let value = Value::String(excerpt(name, 64));
        wrong(
            "status",
            &value,
            "passing, warning, critical or maintenance",
        )
    })
}
