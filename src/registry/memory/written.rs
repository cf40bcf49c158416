//! Writes the JSON of a registration: for clients, for the registry, and for a saved state.

use std::{collections::BTreeMap, net::IpAddr};

use serde::Serialize;

#[cfg(feature = "rest")]
use super::record::NewRecord;
use super::{
    record::{Beat, Record, RecordCheck},
    wire::millis,
};
use crate::instance::{Instance, Status};

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Shown<'a> {
    id: &'a str,
    service_id: &'a str,
    service_name: &'a str,
    host: String,
    port: u16,
    weight: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    zone: Option<&'a str>,
    tags: &'a [String],
    metadata: &'a BTreeMap<String, String>,
    status: String,
    #[serde(skip_serializing_if = "is_zero")]
    generation: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    heartbeat_interval: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    ttl: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    health_check: Option<ShownCheck<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    last_heartbeat: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    session: Option<&'a str>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct ShownCheck<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    path: Option<&'a str>,
    interval: u64,
    timeout: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    max_failures: Option<u32>,
    reap_after: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    registrant: Option<IpAddr>,
}

fn is_zero(number: &u64) -> bool {
    *number == 0
}

fn show<'a>(
    instance: &'a Instance,
    status: Status,
    beat: Option<Beat>,
    check: Option<&'a RecordCheck>,
) -> Shown<'a> {
    Shown {
        id: instance.id(),
        service_id: instance.id(),
        service_name: &instance.service,
        host: instance.address.host().to_string(),
        port: instance.address.port(),
        weight: instance.weight.get(),
        zone: instance.zone.as_deref(),
        tags: &instance.tags,
        metadata: &instance.metadata,
        status: status.to_string(),
        generation: instance.generation,
        heartbeat_interval: match (beat, check) {
            (Some(beat), _) => Some(millis(beat.interval)),
            // Without the field, the default interval would apply.
            (None, None) => Some(0),
            (None, Some(_)) => None,
        },
        ttl: beat.map(|beat| millis(beat.ttl)),
        health_check: check.map(|check| ShownCheck {
            path: check.path.as_deref(),
            interval: millis(check.interval),
            timeout: millis(check.timeout),
            max_failures: Some(check.max_failures.get()),
            reap_after: check.reap_after.map_or(0, millis),
            registrant: None,
        }),
        last_heartbeat: None,
        session: None,
    }
}

/// The JSON of a record for clients.
#[cfg(feature = "rest")]
pub(in crate::registry) fn shown(record: &Record) -> impl Serialize + '_ {
    let instance = &record.instance;
    let check = record.check.as_deref();
    let mut shown = show(instance, instance.status, record.beat, check);
    shown.last_heartbeat = Some(record.last_heartbeat);
    shown
}

/// The JSON of a record in a saved state: with the registered status and the session.
pub(super) fn saved(record: &Record) -> impl Serialize + '_ {
    let check = record.check.as_deref();
    let mut shown = show(&record.instance, record.announced, record.beat, check);
    shown.last_heartbeat = Some(record.last_heartbeat);
    shown.session = record.session.as_deref();
    if let (Some(shown), Some(check)) = (&mut shown.health_check, check) {
        shown.registrant = check.registrant;
    }
    shown
}

/// The JSON of a registration that a client sends.
#[cfg(feature = "rest")]
pub(in crate::registry) fn announced(new: &NewRecord) -> impl Serialize + '_ {
    let instance = &new.instance;
    let check = new.check.as_deref();
    let mut shown = show(instance, instance.status, new.beat, check);
    shown.session = new.session.as_deref();
    // The registry decides how many failures are allowed.
    if new.beat.is_some() {
        shown.heartbeat_interval = None;
    }
    if let Some(check) = &mut shown.health_check {
        check.max_failures = None;
    }
    shown
}
