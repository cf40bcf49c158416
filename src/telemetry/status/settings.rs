//! The settings of a status page.

use std::{fmt, sync::Arc, time::Duration};

use crate::error::{ConfigError, check_range};

/// The settings of a status page. They are plain data.
///
/// # Examples
/// ```
/// use std::time::Duration;
/// use tower_roster::telemetry::status::StatusSettings;
///
/// let settings = StatusSettings::new()
///     .title("checkout on web-7")
///     .host("status.example")
///     .interval(Duration::from_secs(2));
/// ```
#[derive(Clone, PartialEq, Eq)]
#[must_use = "settings do nothing until a page uses them"]
pub struct StatusSettings {
    pub(super) title: Arc<str>,
    pub(super) at: Arc<str>,
    pub(super) hosts: Vec<Arc<str>>,
    pub(super) interval: Duration,
    pub(super) streams: usize,
    pub(super) token: Option<Arc<str>>,
}

impl StatusSettings {
    /// The defaults.
    pub fn new() -> Self {
        Self {
            title: "tower-roster".into(),
            at: "".into(),
            hosts: Vec::new(),
            interval: Duration::from_secs(1),
            streams: 32,
            token: None,
        }
    }

    /// Sets the title of the page, at most 200 bytes; `tower-roster` by default. Name the process and its
    /// machine.
    pub fn title(mut self, title: impl Into<Arc<str>>) -> Self {
        self.title = title.into();
        self
    }

    /// Sets the path below which the page is mounted, such as `/status`, for a server that does not remove
    /// it from the path of a request; empty by default.
    pub fn at(mut self, path: impl Into<Arc<str>>) -> Self {
        self.at = path.into();
        self
    }

    /// Allows requests for a host name, without port. Without any, requests must be for an IP address or
    /// `localhost`: a name can be made to lead to any address, by those who want to read this page.
    pub fn host(mut self, name: impl Into<Arc<str>>) -> Self {
        self.hosts.push(name.into());
        self
    }

    /// Sets the time between two samples while somebody looks, from 250 ms to 60 s; 1 s by default. A sample
    /// of 1,000 endpoints takes about a millisecond.
    pub fn interval(mut self, interval: Duration) -> Self {
        self.interval = interval;
        self
    }

    /// Sets how many event streams may be open, from 1 to 1,000; 32 by default. Further pages poll.
    pub fn streams(mut self, streams: usize) -> Self {
        self.streams = streams;
        self
    }

    /// Lets everybody with this token eject, restore and weigh endpoints and set traffic splits; nobody by
    /// default. The token has 16 to 1,024 visible ASCII characters. Use random ones.
    pub fn orders(mut self, token: impl Into<Arc<str>>) -> Self {
        self.token = Some(token.into());
        self
    }

    pub(super) fn validate(&self) -> Result<(), ConfigError> {
        check_range("status.title", self.title.len(), ..=200)?;
        let is_path = self.at.starts_with('/') && !self.at.ends_with('/');
        let is_plain = self.at.bytes().all(|b| b.is_ascii_graphic());
        if !(self.at.is_empty() || is_path && is_plain) {
            let message = format!("{:?} must be empty, or a path as in /status", self.at);
            return Err(ConfigError::new("status.at", message));
        }
        let is_host = |host: &&Arc<str>| {
            let fits = |b: u8| b.is_ascii_graphic() && !matches!(b, b'/' | b'@');
            !host.is_empty() && host.bytes().all(fits)
        };
        if let Some(wrong) = self.hosts.iter().find(|host| !is_host(host)) {
            let message = format!("{wrong:?} is not the name of a host");
            return Err(ConfigError::new("status.host", message));
        }
        let intervals = Duration::from_millis(250)..=Duration::from_secs(60);
        check_range("status.interval", self.interval, intervals)?;
        check_range("status.streams", self.streams, 1..=1_000)?;
        let Some(token) = &self.token else {
            return Ok(());
        };
        // The message does not show the token.
        if !(16..=1_024).contains(&token.len()) || !token.bytes().all(|b| b.is_ascii_graphic()) {
            let message = "the token must have 16 to 1024 visible ASCII characters";
            return Err(ConfigError::new("status.orders", message));
        }
        Ok(())
    }
}

impl Default for StatusSettings {
    fn default() -> Self {
        Self::new()
    }
}

/// Without the token.
impl fmt::Debug for StatusSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StatusSettings")
            .field("title", &self.title)
            .field("at", &self.at)
            .field("hosts", &self.hosts)
            .field("interval", &self.interval)
            .field("streams", &self.streams)
            .field("orders", &self.token.is_some())
            .finish()
    }
}
