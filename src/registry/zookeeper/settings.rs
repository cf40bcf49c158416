//! The servers of an ensemble, and the settings of the session with them.

use std::{fmt, sync::Arc, time::Duration};

use super::{backend::Zookeeper, call::Options, client::ZkClient, lease::Held, wire::ZookeeperAcl};
use crate::{
    error::{ConfigError, check_range},
    instance::Address,
    registry::{record::RecordFormat, redact::shown, text::duration},
};

/// The timeout of the session that is asked for (ZD21): a node outlives its process for that long. Servers
/// grant from 2 to 20 of their ticks, 4 s to 40 s by default.
const SESSION_TIMEOUT: Duration = Duration::from_secs(10);

/// The time limit of a request. Below 2/5 of the timeout of the session, after which a silent connection
/// is given up (ZD19).
const TIMEOUT: Duration = Duration::from_secs(3);

/// The port for clients.
const PORT: i64 = 2_181;

/// The settings of a [`Zookeeper`] backend.
///
/// Its `Debug` shows no password.
#[derive(Clone, PartialEq, Eq)]
#[must_use = "settings do nothing until they are built"]
pub struct ZookeeperSettings {
    servers: Vec<Address>,
    user: Option<(String, String)>,
    chroot: String,
    prefix: String,
    session_timeout: Duration,
    timeout: Duration,
    acl: ZookeeperAcl,
    format: RecordFormat,
}

impl fmt::Debug for ZookeeperSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            servers,
            user,
            chroot,
            prefix,
            session_timeout,
            timeout,
            acl,
            format,
        } = self;
        f.debug_struct("ZookeeperSettings")
            .field("servers", servers)
            .field("user", &user.as_ref().map(|(name, _)| name))
            .field("chroot", chroot)
            .field("prefix", prefix)
            .field("session_timeout", session_timeout)
            .field("timeout", timeout)
            .field("acl", acl)
            .field("format", format)
            .finish()
    }
}

impl ZookeeperSettings {
    /// The defaults, for the ensemble of these servers, of which there must be at least one.
    pub fn new(servers: impl IntoIterator<Item = Address>) -> Self {
        Self {
            servers: servers.into_iter().collect(),
            user: None,
            chroot: String::new(),
            prefix: "/services".to_owned(),
            session_timeout: SESSION_TIMEOUT,
            timeout: TIMEOUT,
            acl: ZookeeperAcl::default(),
            format: RecordFormat::new(),
        }
    }

    /// Takes the settings from `zk://user:password@host:port,host:port/chroot?prefix=/services`.
    /// Everything but one host may be omitted; the port is 2181 then. User, password and chroot are
    /// percent-encoded.
    ///
    /// The parameters are `prefix`, `session_timeout`, `timeout`, `acl` (`open`, `readable` or
    /// `creator`), `endpoint` (of a record with several; see [`RecordFormat::endpoint`]) and `dubbo`
    /// (see [`RecordFormat::dubbo`]).
    ///
    /// # Errors
    /// When a part cannot be used, or a parameter is unknown. The message names it.
    pub fn from_url(url: &str) -> Result<Self, ConfigError> {
        let invalid =
            |why: String| ConfigError::new("registry.url", format!("{:?}: {why}", shown(url)));
        let Some(rest) = url.strip_prefix("zk://") else {
            return Err(invalid("write zk://host:port".to_owned()));
        };
        let (place, query) = rest.split_once('?').unwrap_or((rest, ""));
        let (user, place) = match place.rsplit_once('@') {
            Some((user, place)) => (Some(user), place),
            None => (None, place),
        };
        let (list, chroot) = place.split_once('/').unwrap_or((place, ""));
        let servers = list.split(',').map(|server| {
            let with_port = server.parse::<Address>();
            with_port.or_else(|error| {
                let host = server.parse().map_err(|_| invalid(error.to_string()))?;
                Address::new(host, PORT).map_err(|error| invalid(error.to_string()))
            })
        });
        let mut settings = Self::new(servers.collect::<Result<Vec<_>, _>>()?);
        let decode = |text: &str, what: &str| {
            let decoded = percent_encoding::percent_decode_str(text).decode_utf8();
            let decoded = decoded.map(|text| text.into_owned());
            decoded.map_err(|_| invalid(format!("the {what} is not UTF-8")))
        };
        settings = settings.chroot(decode(chroot, "chroot")?);
        if let Some(user) = user {
            let (name, password) = user.split_once(':').unwrap_or((user, ""));
            let what = "user or password";
            settings = settings.user(decode(name, what)?, decode(password, what)?);
        }
        let mut given = Vec::new();
        for (name, value) in form_urlencoded::parse(query.as_bytes()) {
            if given.contains(&name) {
                let why = "is given twice, and only one of them could be used";
                return Err(ConfigError::new(format!("zookeeper.{name}"), why));
            }
            settings = settings.parameter(&name, &value)?;
            given.push(name);
        }
        Ok(settings)
    }

    fn parameter(self, name: &str, value: &str) -> Result<Self, ConfigError> {
        let invalid = |why: String| ConfigError::new(format!("zookeeper.{name}"), why);
        let time = || {
            let wrong = || invalid(format!("{value:?} is no duration such as 500ms, 20s or 2m"));
            duration(value).ok_or_else(wrong)
        };
        let format = self.format.clone();
        Ok(match name {
            "prefix" => self.prefix(value),
            "session_timeout" => self.session_timeout(time()?),
            "timeout" => self.timeout(time()?),
            "acl" => self.acl(match value {
                "open" => ZookeeperAcl::Open,
                "readable" => ZookeeperAcl::Readable,
                "creator" => ZookeeperAcl::Creator,
                _ => {
                    let why = format!("{value:?} is none of open, readable and creator");
                    return Err(invalid(why));
                }
            }),
            "endpoint" => self.format(format.endpoint(value)),
            "dubbo" => match value {
                "" | "true" | "1" => self.format(format.dubbo(true)),
                "false" | "0" => self.format(format.dubbo(false)),
                _ => return Err(invalid(format!("{value:?} is neither true nor false"))),
            },
            _ => {
                let why = "unknown parameter of a ZooKeeper URL (known: prefix, session_timeout, \
                           timeout, acl, endpoint, dubbo, stale_after)";
                return Err(invalid(why.to_owned()));
            }
        })
    }

    /// Sets the user and the password; none by default. ZooKeeper compares them with the ACL of each node,
    /// and accepts any for a session: a wrong password shows only as a missing permission.
    pub fn user(mut self, name: impl Into<String>, password: impl Into<String>) -> Self {
        self.user = Some((name.into(), password.into()));
        self
    }

    /// Sets the path that precedes all others, as in other clients' connection strings; none by default.
    pub fn chroot(mut self, path: impl Into<String>) -> Self {
        self.chroot = path.into();
        self
    }

    /// Sets what precedes the names of services, below the chroot; `/services` by default. If it is empty
    /// or `/`, services are directly below the chroot.
    pub fn prefix(mut self, prefix: impl Into<String>) -> Self {
        self.prefix = prefix.into();
        self
    }

    /// Sets the timeout of the session that is asked for, from 1 s to an hour; 10 s by default. The
    /// servers may grant another. An instance whose process ended without deregistering stays listed for
    /// that long. A shorter one shortens the pause of this process that its instance survives.
    pub fn session_timeout(mut self, timeout: Duration) -> Self {
        self.session_timeout = timeout;
        self
    }

    /// Sets the time limit of a request, from 100 ms to 60 s; 3 s by default. It is at most 2/5 of the
    /// timeout of the session, after which a silent connection is given up.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// Sets who may do what with the nodes of registrations; [`ZookeeperAcl::Open`] by default. Others
    /// need a [`user`](Self::user).
    pub fn acl(mut self, acl: ZookeeperAcl) -> Self {
        self.acl = acl;
        self
    }

    /// Sets how records are read; [`RecordFormat::new`] by default.
    pub fn format(mut self, format: RecordFormat) -> Self {
        self.format = format;
        self
    }

    /// Makes the backend. It sends nothing yet.
    ///
    /// # Errors
    /// When there is no server, a setting is out of its range, the chroot or the prefix is no path of
    /// ZooKeeper, the user has a `:`, or an ACL needs a user and there is none.
    pub fn build(&self) -> Result<Zookeeper, ConfigError> {
        if self.servers.is_empty() {
            return Err(ConfigError::new("zookeeper.servers", "there is none"));
        }
        let sessions = Duration::from_secs(1)..=Duration::from_secs(3_600);
        check_range("zookeeper.session_timeout", self.session_timeout, sessions)?;
        let timeouts = Duration::from_millis(100)..=Duration::from_secs(60);
        check_range("zookeeper.timeout", self.timeout, timeouts)?;
        let chroot = path("zookeeper.chroot", &self.chroot)?;
        let prefix = path("zookeeper.prefix", &self.prefix)?;
        match &self.user {
            Some((name, _)) if name.is_empty() || name.contains(':') => {
                let why = "a name has at least one character, and no colon";
                return Err(ConfigError::new("zookeeper.user", why));
            }
            None if self.acl != ZookeeperAcl::Open => {
                let why = format!("{:?} needs a user", self.acl);
                return Err(ConfigError::new("zookeeper.acl", why));
            }
            _ => {}
        }
        let servers: Vec<_> = self.servers.iter().map(ToString::to_string).collect();
        Ok(Zookeeper {
            name: format!("zookeeper {}{chroot}", servers.join(",")).into(),
            address: self.servers.first().cloned(),
            client: ZkClient::new(Options {
                members: self.servers.clone(),
                login: self.user.clone(),
                session_timeout: self.session_timeout,
                within: self.timeout,
            }),
            held: Arc::new(Held::default()),
            root: format!("{chroot}{prefix}").into(),
            acl: self.acl,
            format: self.format.clone(),
        })
    }
}

/// Returns a path with a `/` at its beginning, and none at its end.
fn path(field: &str, given: &str) -> Result<String, ConfigError> {
    let bare = given.trim_matches('/');
    if bare.is_empty() {
        return Ok(String::new());
    }
    let usable =
        |part: &str| !matches!(part, "" | "." | "..") && !part.chars().any(|c| c.is_control());
    match bare.split('/').all(usable) {
        true => Ok(format!("/{bare}")),
        false => {
            let why = format!("{given:?} is no path such as /services");
            Err(ConfigError::new(field, why))
        }
    }
}

impl Zookeeper {
    /// Creates a backend for the ensemble of these servers, with default settings.
    ///
    /// # Errors
    /// When there is no server.
    pub fn new(servers: impl IntoIterator<Item = Address>) -> Result<Self, ConfigError> {
        ZookeeperSettings::new(servers).build()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_name_servers_and_settings() {
        let settings = ZookeeperSettings::from_url(
            "zk://us%40er:p%3Aw@10.0.0.1:2182,zk-2,[::1]/a/b?prefix=/discovery/&session_timeout=20s\
             &timeout=500ms&acl=readable&endpoint=admin&dubbo",
        )
        .unwrap();
        let servers = ["10.0.0.1:2182", "zk-2:2181", "[::1]:2181"];
        let expected = ZookeeperSettings::new(servers.map(|server| server.parse().unwrap()))
            .user("us@er", "p:w")
            .chroot("a/b")
            .prefix("/discovery/")
            .session_timeout(Duration::from_secs(20))
            .timeout(Duration::from_millis(500))
            .acl(ZookeeperAcl::Readable)
            .format(RecordFormat::new().endpoint("admin").dubbo(true));
        assert_eq!(settings, expected);
        let built = settings.build().unwrap();
        let name = "zookeeper 10.0.0.1:2182,zk-2:2181,[::1]:2181/a/b";
        assert_eq!((&*built.name, &*built.root), (name, "/a/b/discovery"));
        for (url, root) in [
            ("zk://h", "/services"),
            ("zk://h/", "/services"),
            ("zk://h?prefix=", ""),
            ("zk://h/x?prefix=/", "/x"),
        ] {
            let settings = ZookeeperSettings::from_url(url).unwrap();
            assert_eq!(&*settings.build().unwrap().root, root, "{url}");
        }
    }

    #[test]
    fn unusable_urls_name_the_part_and_no_password() {
        for (url, part) in [
            ("zk:h", "zk://host:port"),
            ("zk://", "host"),
            ("zk://u:secret@h:0", "port 0"),
            ("zk://h:2181,,h", "no port"),
            ("zk://h?prefx=/a", "zookeeper.prefx"),
            ("zk://h?session_timeout=5", "zookeeper.session_timeout"),
            ("zk://h?session_timeout=5ms", "zookeeper.session_timeout"),
            ("zk://h?session_timeout=2h", "zookeeper.session_timeout"),
            ("zk://h?timeout=1ms", "zookeeper.timeout"),
            ("zk://h?timeout=2s&timeout=3s", "twice"),
            ("zk://h?prefix=a%00b", "zookeeper.prefix"),
            ("zk://h?prefix=/a/../b", "zookeeper.prefix"),
            ("zk://h/a//b", "zookeeper.chroot"),
            ("zk://h/%ff", "chroot is not UTF-8"),
            ("zk://h?dubbo=maybe", "zookeeper.dubbo"),
            ("zk://h?acl=mine", "zookeeper.acl"),
            ("zk://h?acl=creator", "needs a user"),
            ("zk://:secret@h", "zookeeper.user"),
            ("zk://u:secret@h?token=secret", "zookeeper.token"),
            ("zk://%ff:secret@h", "not UTF-8"),
        ] {
            let built = ZookeeperSettings::from_url(url).and_then(|settings| settings.build());
            let error = built.expect_err(url).to_string();
            assert!(error.contains(part), "{url}: {error} does not say {part:?}");
            assert!(!error.contains("secret"), "{error}");
        }
        let settings = ZookeeperSettings::from_url("zk://u:secret@h").unwrap();
        let built = settings.build().unwrap();
        let shown = format!("{settings:?} {built:?} {:?}", built.client);
        assert!(!shown.contains("secret"), "{shown}");
    }
}
