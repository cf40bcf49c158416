//! The backend, and how its settings make it.

use std::{fmt, net::SocketAddr, sync::Arc, time::Duration};

use super::{
    lookup::absolute,
    settings::{DnsSettings, LONGEST_POLL},
    source::DnsSource,
};
use crate::{
    error::{ConfigError, ErrorKind, RegistryError, check_range},
    registry::{Announcement, Backend, Lease, Query, Source},
};

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
    pub(super) name: Arc<str>,
    settings: Arc<DnsSettings>,
}

impl DnsSettings {
    /// Makes the backend. It sends nothing yet.
    ///
    /// # Errors
    /// When there is no name, or a setting is out of its range.
    pub fn build(&self) -> Result<Dns, ConfigError> {
        if self.name.trim_matches('.').is_empty() {
            return Err(ConfigError::new("dns.name", "there is none"));
        }
        if !self.name.contains("{service}") {
            let wrong = |why| ConfigError::new("dns.name", format!("{:?}: {why}", self.name));
            absolute(&self.name, self.search).map_err(wrong)?;
        }
        if let Some(port) = self.port {
            check_range("dns.port", port, 1..)?;
        }
        let polls = Duration::from_secs(1)..=LONGEST_POLL;
        check_range("dns.poll", self.poll, polls)?;
        let hour = Duration::from_secs(3_600);
        check_range("dns.accumulate", self.accumulate, ..=hour)?;
        let timeouts = Duration::from_millis(10)..=Duration::from_secs(10);
        check_range("dns.timeout", self.timeout, timeouts)?;
        let servers: Vec<_> = self.servers.iter().map(SocketAddr::to_string).collect();
        let servers = match servers.is_empty() {
            true => self.resolv_conf.display().to_string(),
            false => servers.join(","),
        };
        Ok(Dns {
            name: format!("dns {servers}").into(),
            settings: Arc::new(self.clone()),
        })
    }
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
