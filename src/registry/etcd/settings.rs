//! The members of a cluster, and the settings of requests to them.

#[cfg(feature = "tls")]
use std::path::PathBuf;
use std::{fmt, sync::Arc, time::Duration};

use super::{backend::Etcd, client::Cluster, lease::Held};
#[cfg(feature = "tls")]
use crate::registry::tls::{TlsFiles, client_config};
use crate::{
    connect::{Connector, Target},
    error::{ConfigError, check_range},
    instance::Address,
    registry::{
        http::{CONNECT_WITHIN, RegistryHttp},
        record::RecordFormat,
        redact::shown,
        text::duration,
    },
};

/// The time limit for a read. A server without a leader gives up after 7 s; a shorter limit would hide
/// its reason (ED12).
const TIMEOUT: Duration = Duration::from_secs(9);

/// The least time that a key outlives its process (ER10): a keepalive each 5 s, of which two may fail.
const TTL: Duration = Duration::from_secs(15);

/// The longest TTL. Arbitrary: after a day without its process, an instance is no instance.
const LONGEST_TTL: Duration = Duration::from_secs(86_400);

/// The longest reply: a page of 1,000 keys of 64 KiB.
const MAX_BODY: usize = 64 << 20;

/// The port for clients.
const PORT: i64 = 2_379;

/// The settings of an [`Etcd`] backend.
///
/// Its `Debug` shows no password.
#[derive(Clone, PartialEq, Eq)]
#[must_use = "settings do nothing until they are built"]
pub struct EtcdSettings {
    members: Vec<Address>,
    user: Option<(String, String)>,
    prefix: String,
    ttl: Duration,
    timeout: Duration,
    format: RecordFormat,
    #[cfg(feature = "tls")]
    secure: bool,
    #[cfg(feature = "tls")]
    tls: TlsFiles,
}

impl fmt::Debug for EtcdSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            members,
            user,
            prefix,
            ttl,
            timeout,
            format,
            #[cfg(feature = "tls")]
            secure,
            #[cfg(feature = "tls")]
            tls,
        } = self;
        let mut shown = f.debug_struct("EtcdSettings");
        #[cfg(feature = "tls")]
        shown.field("secure", secure).field("tls", tls);
        shown
            .field("members", members)
            .field("user", &user.as_ref().map(|(name, _)| name))
            .field("prefix", prefix)
            .field("ttl", ttl)
            .field("timeout", timeout)
            .field("format", format)
            .finish()
    }
}

impl EtcdSettings {
    /// The defaults, for the cluster with these members, of which there must be at least one.
    pub fn new(members: impl IntoIterator<Item = Address>) -> Self {
        Self {
            members: members.into_iter().collect(),
            user: None,
            prefix: "/services/".to_owned(),
            ttl: TTL,
            timeout: TIMEOUT,
            format: RecordFormat::new(),
            #[cfg(feature = "tls")]
            secure: false,
            #[cfg(feature = "tls")]
            tls: TlsFiles::default(),
        }
    }

    /// Takes the settings from `etcd://user:password@host:port,host:port?prefix=/services`, or from
    /// `etcd+https://…` for TLS (feature `tls`). Everything but one host may be omitted; the port is 2379
    /// then. User and password are percent-encoded.
    ///
    /// The parameters are `prefix`, `ttl`, `timeout`, `endpoint` (of a record with several; see
    /// [`RecordFormat::endpoint`]), `dubbo` (see [`RecordFormat::dubbo`]), and for TLS `ca_file`,
    /// `cert_file` and `key_file`.
    ///
    /// # Errors
    /// When a part cannot be used, or a parameter is unknown. The message names it.
    pub fn from_url(url: &str) -> Result<Self, ConfigError> {
        let invalid =
            |why: String| ConfigError::new("registry.url", format!("{:?}: {why}", shown(url)));
        let (scheme, rest) = url.split_once("://").unwrap_or_default();
        let secure = scheme == "etcd+https";
        if !secure && scheme != "etcd" {
            return Err(invalid("write etcd://host:port".to_owned()));
        }
        if secure && cfg!(not(feature = "tls")) {
            return Err(invalid("TLS needs the feature \"tls\"".to_owned()));
        }
        let (place, query) = rest.split_once('?').unwrap_or((rest, ""));
        let (user, place) = match place.rsplit_once('@') {
            Some((user, place)) => (Some(user), place),
            None => (None, place),
        };
        let (list, path) = place.split_once('/').unwrap_or((place, ""));
        if !path.is_empty() {
            let why = "a path cannot be given; write ?prefix=/services";
            return Err(invalid(why.to_owned()));
        }
        let members = list.split(',').map(|member| {
            let with_port = member.parse::<Address>();
            with_port.or_else(|error| {
                let host = member.parse().map_err(|_| invalid(error.to_string()))?;
                Address::new(host, PORT).map_err(|error| invalid(error.to_string()))
            })
        });
        let mut settings = Self::new(members.collect::<Result<Vec<_>, _>>()?);
        #[cfg(feature = "tls")]
        {
            settings.secure = secure;
        }
        if let Some(user) = user {
            let (name, password) = user.split_once(':').unwrap_or((user, ""));
            let decode = |text: &str| {
                let decoded = percent_encoding::percent_decode_str(text).decode_utf8();
                let decoded = decoded.map(|text| text.into_owned());
                decoded.map_err(|_| invalid("the user or password is not UTF-8".to_owned()))
            };
            settings = settings.user(decode(name)?, decode(password)?);
        }
        let mut given = Vec::new();
        for (name, value) in form_urlencoded::parse(query.as_bytes()) {
            if given.contains(&name) {
                let why = "is given twice, and only one of them could be used";
                return Err(ConfigError::new(format!("etcd.{name}"), why));
            }
            settings = settings.parameter(&name, &value)?;
            given.push(name);
        }
        Ok(settings)
    }

    fn parameter(self, name: &str, value: &str) -> Result<Self, ConfigError> {
        let invalid = |why: String| ConfigError::new(format!("etcd.{name}"), why);
        let time = || {
            let wrong = || invalid(format!("{value:?} is no duration such as 500ms, 20s or 2m"));
            duration(value).ok_or_else(wrong)
        };
        let switch = || match value {
            "" | "true" | "1" => Ok(true),
            "false" | "0" => Ok(false),
            _ => Err(invalid(format!("{value:?} is neither true nor false"))),
        };
        Ok(match name {
            "prefix" => self.prefix(value),
            "ttl" => self.ttl(time()?),
            "timeout" => self.timeout(time()?),
            "endpoint" => {
                let format = self.format.clone().endpoint(value);
                self.format(format)
            }
            "dubbo" => {
                let format = self.format.clone().dubbo(switch()?);
                self.format(format)
            }
            #[cfg(feature = "tls")]
            "ca_file" => self.ca_file(value),
            #[cfg(feature = "tls")]
            "cert_file" => Self {
                tls: TlsFiles {
                    cert: Some(value.into()),
                    ..self.tls
                },
                ..self
            },
            #[cfg(feature = "tls")]
            "key_file" => Self {
                tls: TlsFiles {
                    key: Some(value.into()),
                    ..self.tls
                },
                ..self
            },
            _ => {
                let why = "unknown parameter of an etcd URL (known: prefix, ttl, timeout, endpoint, \
                           dubbo, stale_after, and for TLS ca_file, cert_file and key_file)";
                return Err(invalid(why.to_owned()));
            }
        })
    }

    /// Sets the user and the password; none by default. They are exchanged for a token, and again when
    /// etcd no longer accepts it. A cluster without authentication ignores them.
    pub fn user(mut self, name: impl Into<String>, password: impl Into<String>) -> Self {
        self.user = Some((name.into(), password.into()));
        self
    }

    /// Sets what precedes the names of services in keys; `/services/` by default. It ends in `/`, which
    /// is added if it does not, unless it is empty: a service `web` then has the keys `web/…`.
    pub fn prefix(mut self, prefix: impl Into<String>) -> Self {
        self.prefix = prefix.into();
        if !self.prefix.is_empty() && !self.prefix.ends_with('/') {
            self.prefix.push('/');
        }
        self
    }

    /// Sets the least TTL of a registration, from 2 s to a day; 15 s by default. An instance whose process
    /// ended without deregistering stays listed for that long, or for the TTL of its
    /// [`Health::Ttl`](crate::registry::Health::Ttl) if that is longer. A shorter one shortens the outage
    /// of the registry that an instance survives.
    pub fn ttl(mut self, ttl: Duration) -> Self {
        self.ttl = ttl;
        self
    }

    /// Sets the time limit of a request, from 100 ms to 60 s; 9 s by default. A server that has no leader
    /// responds after 7 s.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// Sets how records are read; [`RecordFormat::new`] by default.
    pub fn format(mut self, format: RecordFormat) -> Self {
        self.format = format;
        self
    }

    /// Sets whether the connections use TLS; false by default.
    #[cfg(feature = "tls")]
    pub fn tls(mut self, tls: bool) -> Self {
        self.secure = tls;
        self
    }

    /// Sets the PEM file of the certificate authorities to trust; those of the system by default. It is an
    /// error without TLS.
    #[cfg(feature = "tls")]
    pub fn ca_file(mut self, path: impl Into<PathBuf>) -> Self {
        self.tls.ca_file = Some(path.into());
        self
    }

    /// Sets the client certificate and its key, both PEM files; none by default. It is an error without
    /// TLS. The gateway of etcd does not take the user from a certificate: it needs
    /// [`user`](Self::user) too, where the cluster has users.
    #[cfg(feature = "tls")]
    pub fn client_cert(mut self, cert: impl Into<PathBuf>, key: impl Into<PathBuf>) -> Self {
        self.tls.cert = Some(cert.into());
        self.tls.key = Some(key.into());
        self
    }

    /// Makes the backend. It sends nothing yet.
    ///
    /// # Errors
    /// When there is no member, a setting is out of its range, the prefix has a control character, or a
    /// file for TLS cannot be used.
    pub fn build(&self) -> Result<Etcd, ConfigError> {
        if self.members.is_empty() {
            return Err(ConfigError::new("etcd.members", "there is none"));
        }
        check_range("etcd.ttl", self.ttl, Duration::from_secs(2)..=LONGEST_TTL)?;
        let timeouts = Duration::from_millis(100)..=Duration::from_secs(60);
        check_range("etcd.timeout", self.timeout, timeouts)?;
        if self.prefix.chars().any(char::is_control) {
            let why = format!("{:?} has a control character", self.prefix);
            return Err(ConfigError::new("etcd.prefix", why));
        }
        #[cfg(feature = "tls")]
        let tls = self.client_config()?;
        #[cfg(feature = "tls")]
        let scheme = if self.secure { "https" } else { "http" };
        #[cfg(not(feature = "tls"))]
        let scheme = "http";
        let origins: Vec<_> = self
            .members
            .iter()
            .map(|member| format!("{scheme}://{member}"))
            .collect();
        let members = self.members.iter().zip(&origins).map(|(member, origin)| {
            let connector = Connector::new(Target::Tcp(member.clone()), CONNECT_WITHIN);
            #[cfg(feature = "tls")]
            let connector = match &tls {
                Some(tls) => connector.tls(Arc::clone(tls)),
                None => connector,
            };
            // etcd compresses nothing.
            (origin.clone(), false, connector)
        });
        let http = RegistryHttp::new(members, MAX_BODY);
        Ok(Etcd {
            name: format!("etcd {}", origins.join(",")).into(),
            address: self.members.first().cloned(),
            cluster: Arc::new(Cluster::new(http, self.user.clone(), self.timeout)),
            held: Arc::new(Held::default()),
            prefix: self.prefix.as_str().into(),
            ttl: self.ttl,
            format: self.format.clone(),
        })
    }

    #[cfg(feature = "tls")]
    fn client_config(&self) -> Result<Option<Arc<rustls::ClientConfig>>, ConfigError> {
        if self.secure {
            // Over HTTP/1.1 only, as the gateway was measured.
            return client_config("etcd", &self.tls, false).map(Some);
        }
        let TlsFiles {
            ca_file, cert, key, ..
        } = &self.tls;
        let files = [
            ("etcd.ca_file", ca_file),
            ("etcd.client_cert", cert),
            ("etcd.client_key", key),
        ];
        match files.into_iter().find(|(_, file)| file.is_some()) {
            None => Ok(None),
            Some((field, _)) => {
                let why = "is set without TLS: write etcd+https://";
                Err(ConfigError::new(field, why))
            }
        }
    }
}

impl Etcd {
    /// Creates a backend for the cluster with these members, with default settings.
    ///
    /// # Errors
    /// When there is no member.
    pub fn new(members: impl IntoIterator<Item = Address>) -> Result<Self, ConfigError> {
        EtcdSettings::new(members).build()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_name_members_and_settings() {
        let settings = EtcdSettings::from_url(
            "etcd://ro%40ot:p%3Aw@10.0.0.1:2379,etcd-2,[::1]?prefix=/micro/registry&ttl=20s\
             &timeout=500ms&endpoint=grpc&dubbo",
        )
        .unwrap();
        let members = ["10.0.0.1:2379", "etcd-2:2379", "[::1]:2379"];
        let expected = EtcdSettings::new(members.map(|member| member.parse().unwrap()))
            .user("ro@ot", "p:w")
            .prefix("/micro/registry/")
            .ttl(Duration::from_secs(20))
            .timeout(Duration::from_millis(500))
            .format(RecordFormat::new().endpoint("grpc").dubbo(true));
        assert_eq!(settings, expected);
        let name = settings.build().unwrap().name;
        assert_eq!(
            &*name,
            "etcd http://10.0.0.1:2379,http://etcd-2:2379,http://[::1]:2379"
        );
        assert_eq!(
            EtcdSettings::from_url("etcd://h/?prefix=").unwrap().prefix,
            ""
        );
    }

    #[test]
    fn unusable_urls_name_the_part_and_no_password() {
        for (url, part) in [
            ("etcd:h", "etcd://host:port"),
            ("etcd://", "host"),
            ("etcd://u:secret@h:0", "port 0"),
            ("etcd://h:2379,,h", "no port"),
            ("etcd://h/services", "?prefix=/services"),
            ("etcd://h?prefx=/a", "etcd.prefx"),
            ("etcd://h?ttl=5", "etcd.ttl"),
            ("etcd://h?ttl=1s", "etcd.ttl"),
            ("etcd://h?ttl=48h", "etcd.ttl"),
            ("etcd://h?timeout=1ms", "etcd.timeout"),
            ("etcd://h?timeout=2s&timeout=3s", "twice"),
            ("etcd://h?prefix=a%00b", "control character"),
            ("etcd://h?dubbo=maybe", "etcd.dubbo"),
            ("etcd://u:secret@h?token=secret", "etcd.token"),
            ("etcd://%ff:secret@h", "not UTF-8"),
        ] {
            let built = EtcdSettings::from_url(url).and_then(|settings| settings.build());
            let error = built.expect_err(url).to_string();
            assert!(error.contains(part), "{url}: {error} does not say {part:?}");
            assert!(!error.contains("secret"), "{error}");
        }
        let settings = EtcdSettings::from_url("etcd://u:secret@h").unwrap();
        let shown = format!("{settings:?} {:?}", settings.build().unwrap());
        assert!(!shown.contains("secret"), "{shown}");
    }
}
