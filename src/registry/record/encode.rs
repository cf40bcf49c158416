//! The format that this crate writes.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::instance::Instance;

/// Curator's `ServiceInstance`, and after it the fields of this crate, which Curator ignores.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Stored<'a> {
    name: &'a str,
    id: &'a str,
    address: String,
    port: u16,
    ssl_port: Option<u16>,
    payload: Option<()>,
    #[serde(rename = "registrationTimeUTC")]
    registration_time: u64,
    service_type: &'static str,
    uri_spec: UriSpec,
    weight: u32,
    zone: Option<&'a str>,
    tags: &'a [String],
    metadata: &'a BTreeMap<String, String>,
    status: String,
}

/// How a Java client makes a URL of the instance: `{scheme}://{address}:{port}`, as Curator itself
/// writes it.
#[derive(Serialize)]
struct UriSpec {
    parts: [Part; 5],
}

#[derive(Serialize)]
struct Part {
    value: &'static str,
    variable: bool,
}

impl UriSpec {
    fn usual() -> Self {
        let variable = |value| Part {
            value,
            variable: true,
        };
        let literal = |value| Part {
            value,
            variable: false,
        };
        Self {
            parts: [
                variable("scheme"),
                literal("://"),
                variable("address"),
                literal(":"),
                variable("port"),
            ],
        }
    }
}

/// Writes an instance, as registered at this Unix time in milliseconds. [`RecordFormat::decode`] of the
/// result gives all fields but the generation.
///
/// [`RecordFormat::decode`]: super::RecordFormat::decode
pub fn encode(instance: &Instance, registered_at: u64) -> Vec<u8> {
    let Instance {
        key,
        service,
        address,
        weight,
        zone,
        status,
        tags,
        metadata,
        generation: _,
    } = instance;
    let stored = Stored {
        name: service,
        id: key.id(),
        address: address.host().to_string(),
        port: address.port(),
        ssl_port: None,
        payload: None,
        registration_time: registered_at,
        service_type: "DYNAMIC",
        uri_spec: UriSpec::usual(),
        weight: weight.get(),
        zone: zone.as_deref(),
        tags,
        metadata,
        status: status.to_string(),
    };
    // Cannot fail: the values are text, numbers, and maps with text keys.
    serde_json::to_vec(&stored).unwrap_or_default()
}
