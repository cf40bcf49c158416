//! The settings of a [`Dns`] backend. `backend` builds it.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

#[cfg(doc)]
use super::Dns;
use crate::{
    error::ConfigError,
    instance::{Address, Host},
    registry::{redact::shown, text},
};

/// The port of a DNS server.
const PORT: u16 = 53;

/// The port of Consul's DNS, which returns a random part of the records over UDP.
const CONSUL_PORT: u16 = 8_600;

/// The time limit for one question to one server.
const TIMEOUT: Duration = Duration::from_secs(3);

/// The least time between polls. It holds for records with a TTL of 0 too.
const POLL: Duration = Duration::from_secs(5);

/// The longest time between polls, so that a record with a TTL of days does not hide a change for days.
pub(super) const LONGEST_POLL: Duration = Duration::from_secs(60);

/// Which addresses of a name are used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum DnsFamily {
    /// The IPv4 addresses; the IPv6 addresses if there are none.
    #[default]
    Any,
    /// The IPv4 addresses only.
    Ipv4,
    /// The IPv6 addresses only.
    Ipv6,
}

/// The settings of a [`Dns`] backend.
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use = "settings do nothing until they are built"]
pub struct DnsSettings {
    pub(super) name: String,
    /// The port of the instances; `None` for SRV records, which have ports.
    pub(super) port: Option<u16>,
    /// The servers to ask; those of `resolv_conf` if there are none.
    pub(super) servers: Vec<SocketAddr>,
    pub(super) resolv_conf: PathBuf,
    pub(super) tcp: bool,
    pub(super) search: bool,
    pub(super) family: DnsFamily,
    pub(super) poll: Duration,
    pub(super) accumulate: Duration,
    pub(super) timeout: Duration,
}

impl DnsSettings {
    /// The defaults, for the addresses of a name, all with this port. `{service}` in the name stands for
    /// the name of the watched service.
    pub fn addresses(name: impl Into<String>, port: u16) -> Self {
        Self::of(name.into(), Some(port))
    }

    /// The defaults, for the SRV records of a name, such as `_http._tcp.{service}.svc.test`.
    pub fn srv(name: impl Into<String>) -> Self {
        Self::of(name.into(), None)
    }

    fn of(name: String, port: Option<u16>) -> Self {
        Self {
            name,
            port,
            servers: Vec::new(),
            resolv_conf: "/etc/resolv.conf".into(),
            tcp: false,
            search: false,
            family: DnsFamily::Any,
            poll: POLL,
            accumulate: Duration::ZERO,
            timeout: TIMEOUT,
        }
    }

    /// Takes the settings from a URL: `dns://server:port/name:port` for the addresses of a name, and
    /// `dns+srv://server:port/name` for SRV records. There may be several servers, as
    /// `10.0.0.2,10.0.0.3:53`, or none (`dns:///name:port`), for those of `/etc/resolv.conf`. The port
    /// of a server is 53 unless it is given. `dns+tcp` and `dns+srv+tcp` ask over TCP only, and so does
    /// a server with port 8600, Consul's, which would return a part of the records over UDP.
    ///
    /// The parameters are `tcp`, `search`, `family` (`4` or `6`), `poll`, `accumulate` and `timeout`, as
    /// the setters of these names.
    ///
    /// # Errors
    /// When a part cannot be used, or a parameter is unknown. The message names it.
    pub fn from_url(url: &str) -> Result<Self, ConfigError> {
        let invalid =
            |why: String| ConfigError::new("registry.url", format!("{:?}: {why}", shown(url)));
        let (scheme, rest) = url
            .split_once("://")
            .ok_or_else(|| invalid("write dns://server/name:port".to_owned()))?;
        if !matches!(scheme, "dns" | "dns+tcp" | "dns+srv" | "dns+srv+tcp") {
            return Err(invalid("write dns://server/name:port".to_owned()));
        }
        let (place, query) = rest.split_once('?').unwrap_or((rest, ""));
        if rest.contains('@') {
            return Err(invalid("a user or password cannot be given".to_owned()));
        }
        let (list, path) = place.split_once('/').unwrap_or((place, ""));
        let path = percent_encoding::percent_decode_str(path).decode_utf8();
        let path = path.map_err(|_| invalid("the name is not UTF-8".to_owned()))?;
        let mut settings = if scheme.starts_with("dns+srv") {
            Self::srv(path)
        } else {
            let (name, port) = path
                .rsplit_once(':')
                .ok_or_else(|| invalid(format!("{path:?} has no port: write name:port")))?;
            let port = port
                .parse()
                .map_err(|_| invalid(format!("{port:?} is no port")))?;
            Self::addresses(name, port)
        };
        for server in list.split(',').filter(|_| !list.is_empty()) {
            let server = socket(server).map_err(&invalid)?;
            settings = settings.server(server);
        }
        let consul = settings.servers.iter().any(|s| s.port() == CONSUL_PORT);
        settings.tcp = scheme.ends_with("+tcp") || consul;
        let mut given = Vec::new();
        for (name, value) in form_urlencoded::parse(query.as_bytes()) {
            if given.contains(&name) {
                let why = "is given twice, and only one of them could be used";
                return Err(ConfigError::new(format!("dns.{name}"), why));
            }
            settings = settings.parameter(&name, &value)?;
            given.push(name);
        }
        Ok(settings)
    }

    fn parameter(mut self, name: &str, value: &str) -> Result<Self, ConfigError> {
        let invalid = |why: String| ConfigError::new(format!("dns.{name}"), why);
        let switch = || match value {
            "" | "true" | "1" => Ok(true),
            "false" | "0" => Ok(false),
            _ => Err(invalid(format!("{value:?} is neither true nor false"))),
        };
        let duration = || {
            let wrong = || invalid(format!("{value:?} is no duration such as 500ms, 20s or 2m"));
            text::duration(value).ok_or_else(wrong)
        };
        match name {
            "tcp" => self.tcp = switch()?,
            "search" => self.search = switch()?,
            "poll" => self.poll = duration()?,
            "accumulate" => self.accumulate = duration()?,
            "timeout" => self.timeout = duration()?,
            "family" => {
                self.family = match value {
                    "4" => DnsFamily::Ipv4,
                    "6" => DnsFamily::Ipv6,
                    _ => return Err(invalid(format!("{value:?} is neither 4 nor 6"))),
                }
            }
            _ => {
                let why = "unknown parameter of a DNS URL (known: tcp, search, family, poll, \
                           accumulate, timeout, and stale_after)";
                return Err(invalid(why.to_owned()));
            }
        }
        Ok(self)
    }

    /// Adds a server to ask. They are asked in this order, each when the one before gave no answer; by
    /// default the servers of [`resolv_conf`](Self::resolv_conf).
    pub fn server(mut self, server: SocketAddr) -> Self {
        self.servers.push(server);
        self
    }

    /// Sets the file that lists the servers, if [`server`](Self::server) names none; `/etc/resolv.conf` by
    /// default. It is read at each poll, so a change of it counts at once. Its options for timeouts are not
    /// used.
    pub fn resolv_conf(mut self, path: impl Into<PathBuf>) -> Self {
        self.resolv_conf = path.into();
        self
    }

    /// Asks over TCP only; off by default. Otherwise a question goes over UDP with EDNS, and again over TCP
    /// if the answer says that it is truncated. Consul's does not say so.
    pub fn tcp(mut self, tcp: bool) -> Self {
        self.tcp = tcp;
        self
    }

    /// Takes the name as relative, and tries it with the domains of the search list of
    /// [`resolv_conf`](Self::resolv_conf); off by default, because a name on Kubernetes costs up to eight
    /// questions then.
    pub fn search(mut self, search: bool) -> Self {
        self.search = search;
        self
    }

    /// Sets which addresses are used, also of the targets of SRV records; [`DnsFamily::Any`] by default.
    pub fn family(mut self, family: DnsFamily) -> Self {
        self.family = family;
        self
    }

    /// Sets the least time between polls, from 1 s to 60 s; 5 s by default. A poll follows when the first
    /// record expires, not earlier than this, and at most 60 s later, each ± 10 %.
    pub fn poll(mut self, poll: Duration) -> Self {
        self.poll = poll;
        self
    }

    /// Sets how long an instance stays in the set without being in an answer, up to an hour; zero by
    /// default. It is for servers that return a part of the records. In exchange, an instance that is gone
    /// gets requests for longer.
    pub fn accumulate(mut self, time: Duration) -> Self {
        self.accumulate = time;
        self
    }

    /// Sets the time limit for one question to one server, from 10 ms to 10 s; 3 s by default. A poll may
    /// take 10 s in all, so with many servers the limit is shorter: each gets its turn.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// The DNS name of a service.
    pub(super) fn name_of(&self, service: &str) -> String {
        self.name.replace("{service}", service)
    }
}

/// Parses the address of a server, with or without a port.
fn socket(text: &str) -> Result<SocketAddr, String> {
    let named = |name: &str| Err(format!("the server {name:?} is no IP address"));
    match text.parse() {
        Ok(Host::Ip(ip)) => return Ok(SocketAddr::new(ip, PORT)),
        Ok(Host::Name(name)) => return named(&name),
        Err(_) => {}
    }
    let address: Address = text.parse().map_err(|error| format!("{error}"))?;
    match address.host() {
        Host::Ip(ip) => Ok(SocketAddr::new(*ip, address.port())),
        Host::Name(name) => named(name),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_name_servers_records_and_settings() {
        let url = "dns://10.0.0.2,[::1]:54/{service}.svc.test:8080?family=6&search&poll=2s\
                   &accumulate=1m&timeout=500ms";
        let expected = DnsSettings::addresses("{service}.svc.test", 8_080)
            .server("10.0.0.2:53".parse().unwrap())
            .server("[::1]:54".parse().unwrap())
            .family(DnsFamily::Ipv6)
            .search(true)
            .poll(Duration::from_secs(2))
            .accumulate(Duration::from_secs(60))
            .timeout(Duration::from_millis(500));
        assert_eq!(DnsSettings::from_url(url), Ok(expected.clone()));
        assert_eq!(expected.name_of("web"), "web.svc.test");
        assert_eq!(&*expected.build().unwrap().name, "dns 10.0.0.2:53,[::1]:54");
        let url = "dns+srv://127.0.0.1:8600/_http._tcp.web.service.consul";
        let srv = DnsSettings::from_url(url).unwrap();
        assert!(srv.tcp, "Consul returns a part of the records over UDP");
        assert_eq!(srv.port, None);
        let tcp = DnsSettings::from_url("dns+tcp:///web.test:80").unwrap();
        assert_eq!(tcp, DnsSettings::addresses("web.test", 80).tcp(true));
        assert_eq!(&*tcp.build().unwrap().name, "dns /etc/resolv.conf");
    }

    #[test]
    fn unusable_urls_name_the_part() {
        for (url, part) in [
            ("dns:web", "dns://server/name:port"),
            ("dns://127.0.0.1/web.test", "no port"),
            ("dns://127.0.0.1/web.test:http", "\"http\" is no port"),
            ("dns://127.0.0.1/web.test:0", "dns.port"),
            ("dns://127.0.0.1/:80", "dns.name"),
            ("dns+srv://127.0.0.1", "dns.name"),
            ("dns://ns.test/web.test:80", "no IP address"),
            ("dns://127.0.0.1:0/web.test:80", "port 0"),
            ("dns://user:secret@127.0.0.1/web.test:80", "password"),
            ("http://127.0.0.1/web.test:80", "dns://server/name:port"),
            ("dns+srv://user:se?cret@127.0.0.1/web", "password"),
            ("dns:///user service:80", "dns.name"),
            ("dns:///web.test:80?pol=5s", "dns.pol"),
            ("dns:///web.test:80?poll=500ms", "dns.poll"),
            ("dns:///web.test:80?poll=5", "dns.poll"),
            ("dns:///web.test:80?accumulate=2h", "dns.accumulate"),
            ("dns:///web.test:80?timeout=1h", "dns.timeout"),
            ("dns:///web.test:80?family=5", "neither 4 nor 6"),
            ("dns:///web.test:80?tcp=1&tcp=0", "twice"),
        ] {
            let built = DnsSettings::from_url(url).and_then(|settings| settings.build());
            let error = built.expect_err(url).to_string();
            assert!(error.contains(part), "{url}: {error} does not say {part:?}");
            assert!(
                !error.contains("secret") && !error.contains("cret@"),
                "{error}"
            );
        }
    }
}
