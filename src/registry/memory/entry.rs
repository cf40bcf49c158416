//! Converts an announcement into a record, for this registry and for the REST client.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, Weak},
    time::Duration,
};

use rand::RngExt;

use super::{
    record::{Beat, Defaults, NewRecord, RecordCheck},
    wire,
};
use crate::{
    error::{ErrorKind, RegistryError},
    instance::Host,
    registry::{Announcement, Health},
    sync::lock,
};

/// The longest interval between heartbeats, so that a lost registration is noticed soon. A heartbeat
/// costs one look-up.
const RENEW_EVERY: Duration = Duration::from_secs(1);

/// Returns the interval between heartbeats of a registration: a third of its TTL, so that two may be
/// lost.
pub(in crate::registry) fn renew_every(new: &NewRecord) -> Duration {
    new.beat
        .map_or(RENEW_EVERY, |beat| (beat.ttl / 3).min(RENEW_EVERY))
}

/// Assigns a session to each registration of one client. Registrations of one id that follow each other
/// without a gap (an update) share a session; after a deregistration a new one begins.
#[derive(Debug, Default)]
pub(in crate::registry) struct Sessions(Mutex<HashMap<Arc<str>, Weak<str>>>);

impl Sessions {
    pub(in crate::registry) fn of(&self, id: &str) -> Arc<str> {
        // The map is consistent wherever the holder of the lock could panic.
        let mut sessions = lock(&self.0);
        if let Some(session) = sessions.get(id).and_then(Weak::upgrade) {
            return session;
        }
        sessions.retain(|_, session| session.strong_count() > 0);
        let session: Arc<str> = format!("{:016x}", rand::rng().random::<u64>()).into();
        sessions.insert(id.into(), Arc::downgrade(&session));
        session
    }
}

/// Converts an announcement into a record.
///
/// # Errors
/// When the registry cannot hold the instance or its check.
pub(in crate::registry) fn new_record(
    announcement: &Announcement,
    defaults: Defaults,
    session: Option<Arc<str>>,
) -> Result<NewRecord, RegistryError> {
    let instance = announcement.instance().clone();
    let invalid = |message: String| RegistryError::new(ErrorKind::Invalid, message);
    let longest = wire::LONGEST_NAME;
    let zone = instance.zone.as_deref().unwrap_or_default();
    if [&*instance.service, instance.id(), zone]
        .iter()
        .any(|text| text.len() > longest || text.contains(char::is_control))
    {
        let message = format!(
            "service, id and zone must have at most {longest} bytes and no control characters"
        );
        return Err(invalid(message));
    }
    // A `Host` can be created without parsing, so it is checked here.
    let host = instance.address.host().to_string();
    if let Err(error) = host.parse::<Host>() {
        return Err(invalid(error.to_string()));
    }
    let check = |path: Option<String>, interval: Duration, timeout: Duration| {
        Some(Arc::new(RecordCheck {
            path,
            interval: interval.min(wire::LONGEST),
            timeout: timeout.min(wire::LONGEST),
            max_failures: defaults.max_failures,
            reap_after: announcement
                .reaped_after()
                .map(|time| time.min(wire::LONGEST)),
            registrant: None,
        }))
    };
    let (beat, check) = match announcement.health_check() {
        Health::Ttl(ttl) => {
            let beat = Beat::within((*ttl).min(wire::LONGEST), defaults.max_failures);
            (Some(beat), None)
        }
        Health::Http { .. } if cfg!(not(feature = "_hyper")) => {
            let message = "a check over HTTP needs the feature \"http\" or \"rest\"";
            return Err(invalid(message.to_owned()));
        }
        Health::Http {
            target,
            interval,
            timeout,
        } => {
            if !wire::is_path(target) || target.len() > longest {
                let message = format!(
                    "{target:?} cannot be checked: this registry requests a path of the instance, \
                     which begins with / and is at most {longest} bytes of visible ASCII"
                );
                return Err(invalid(message));
            }
            (None, check(Some(target.clone()), *interval, *timeout))
        }
        Health::Tcp { interval, timeout } => (None, check(None, *interval, *timeout)),
        Health::Grpc { .. } => {
            let message = "this registry makes no gRPC checks; use a TTL, HTTP or TCP";
            return Err(invalid(message.to_owned()));
        }
        Health::Unchecked => (None, None),
    };
    Ok(NewRecord {
        instance,
        beat,
        check,
        session,
    })
}
