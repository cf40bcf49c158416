//! The backend for DNS: the addresses of a name, or its SRV records.
//!
//! DNS pushes no changes and takes no registrations, so a watch asks again when the records expire. So it
//! notices changes later than the other registries: after the TTL of the record and of every cache on the
//! way. It suits services that something else keeps in DNS: Kubernetes, Nomad, Consul, a cloud.
//!
//! # Names
//! A [`DnsSettings`] holds one name for all services, or one with `{service}` in it, which the name of the
//! watched service replaces. A name is absolute unless [`search`](DnsSettings::search) is set.
//!
//! | records | instances | identity |
//! |---|---|---|
//! | A, or AAAA if there is none | one for each address, all with the port of the settings and weight 1 | `address:port` |
//! | SRV | one for each target and port, with its weight | `target:port` |
//!
//! The weight 0 of an SRV record counts as 1: RFC 2782 gives such a target little traffic, and this crate
//! would drain it. The priority becomes the metadata `priority`, as
//! [`Priority::by_metadata`](crate::balance::topology::Priority::by_metadata) reads it: the lowest comes
//! first. An instance has one address. If its target has several, it keeps the one that it has, or else gets
//! the lowest, an IPv4 address before an IPv6 address.
//!
//! # What an answer means
//! - *No such name* is [`Missing`](crate::registry::ViewState::Missing), and a name without such records is
//!   [`Empty`](crate::registry::ViewState::Empty). Both are believed only after a second look, at another
//!   server or a second later: a server that is behind, or just started, gives such answers too. An SRV
//!   record with the target `.` says that there is no such service (*empty*).
//! - Every other answer without records is an error, and the last good set stays: a failure of the server
//!   (`SERVFAIL`), a refusal (`REFUSED`), silence, a mere referral to other servers, an answer that stays
//!   truncated over TCP, or records of which none can be used.
//! - A target of an SRV record that cannot be asked for keeps its former address. One that has no address
//!   is left out, unless none has one: that is an error.
//! - An alias (`CNAME`) of a name with addresses is followed, up to eight of them; a longer chain looks like a
//!   name without records. An alias of SRV records is an error.
//! - The order of records means nothing. Many servers rotate it.
//! - Some servers return a part of the records, at random: Consul over UDP, and clouds that return eight of
//!   many. A set from such answers changes at each poll. Ask over TCP, or set
//!   [`accumulate`](DnsSettings::accumulate).

mod answer;
mod lookup;
mod servers;
mod settings;
mod source;

pub use self::settings::{DnsFamily, DnsSettings};

use std::{fmt, sync::Arc};

use self::{lookup::absolute, source::DnsSource};
use super::{Announcement, Backend, Lease, Query, Source};
use crate::error::{ErrorKind, RegistryError};

/// The backend for DNS.
///
/// # Examples
/// ```
/// use tower_roster::{Registry, registry::dns::DnsSettings};
///
/// // The servers of /etc/resolv.conf, and the name `{service}.svc.test`.
/// let settings = DnsSettings::addresses("{service}.svc.test", 8080);
/// let registry = Registry::new(settings.build()?);
///
/// let settings = DnsSettings::srv("_http._tcp.web.svc.test").server("127.0.0.1:53".parse()?);
/// let registry = Registry::new(settings.build()?);
/// # Ok::<_, Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone)]
pub struct Dns {
    name: Arc<str>,
    settings: Arc<DnsSettings>,
}

impl fmt::Debug for Dns {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Dns").field(&self.settings).finish()
    }
}

impl Backend for Dns {
    fn name(&self) -> Arc<str> {
        Arc::clone(&self.name)
    }

    fn watch(&self, query: &Query) -> Result<Vec<Box<dyn Source>>, RegistryError> {
        if !query.tags().is_empty() {
            return Err(invalid("DNS has no tags, so none can be required"));
        }
        let text = self.settings.name_of(query.service());
        let name = absolute(&text, self.settings.search)
            .map_err(|why| invalid(format!("{text:?} is no DNS name: {why}")))?;
        let (settings, service) = (Arc::clone(&self.settings), Arc::clone(query.service()));
        Ok(vec![Box::new(DnsSource::new(settings, service, name))])
    }

    fn register(&self, _: &Announcement) -> Result<Box<dyn Lease>, RegistryError> {
        Err(invalid(
            "nothing can be registered in DNS; register where its records come from",
        ))
    }
}

fn invalid(why: impl Into<Arc<str>>) -> RegistryError {
    RegistryError::new(ErrorKind::Invalid, why)
}
