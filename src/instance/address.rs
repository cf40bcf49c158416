//! Where an instance listens.

use std::{
    fmt,
    net::{IpAddr, Ipv6Addr, SocketAddr},
    str::FromStr,
    sync::Arc,
};

/// The host part of an [`Address`].
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Host {
    /// An IPv4 or IPv6 address.
    Ip(IpAddr),
    /// A host name. The connector resolves it for each connection.
    Name(Arc<str>),
}

impl FromStr for Host {
    type Err = AddressError;

    /// Parses an IP address (IPv6 with or without brackets) or a host name.
    ///
    /// # Errors
    /// When the text is empty, or is neither an IP address nor a host name: at most 253 bytes of
    /// letters, digits, `-`, `_` and `.`.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let text = text.trim();
        if text.is_empty() {
            return Err(AddressError::new(text, "the host is empty"));
        }
        let bare = text
            .strip_prefix('[')
            .and_then(|rest| rest.strip_suffix(']'));
        if let Some(v6) = bare {
            return v6
                .parse::<Ipv6Addr>()
                .map(|ip| Host::Ip(ip.into()))
                .map_err(|_| {
                    AddressError::new(text, "no IPv6 address stands between the brackets")
                });
        }
        if let Ok(ip) = text.parse() {
            return Ok(Host::Ip(ip));
        }
        let name = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
        if text.len() > 253 || !text.bytes().all(name) || text.starts_with(['.', '-']) {
            return Err(AddressError::new(
                text,
                "neither an IP address nor a host name",
            ));
        }
        Ok(Host::Name(text.into()))
    }
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Host::Ip(ip) => ip.fmt(f),
            Host::Name(name) => f.write_str(name),
        }
    }
}

/// The address that an instance listens on: a host and a port from 1 to 65535.
///
/// It is printed as `host:port`, IPv6 in brackets, and parsed from the same text.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Address {
    host: Host,
    port: u16,
}

impl Address {
    /// Creates an address.
    ///
    /// # Errors
    /// When the port is not in 1 to 65535. It is an `i64` because registries store any number.
    pub fn new(host: Host, port: i64) -> Result<Self, AddressError> {
        match u16::try_from(port) {
            Ok(port) if port > 0 => Ok(Self { host, port }),
            _ => Err(AddressError::new(
                &host.to_string(),
                &format!("port {port} is not in 1..=65535"),
            )),
        }
    }

    /// Returns the host.
    pub fn host(&self) -> &Host {
        &self.host
    }

    /// Returns the port, from 1 to 65535.
    pub fn port(&self) -> u16 {
        self.port
    }
}

impl TryFrom<SocketAddr> for Address {
    type Error = AddressError;

    fn try_from(addr: SocketAddr) -> Result<Self, Self::Error> {
        Self::new(Host::Ip(addr.ip()), addr.port().into())
    }
}

impl FromStr for Address {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (host, port) = text
            .trim()
            .rsplit_once(':')
            .ok_or_else(|| AddressError::new(text, "no port: write host:port"))?;
        if host.contains(':') && !host.starts_with('[') {
            return Err(AddressError::new(
                text,
                "write an IPv6 address as [address]:port",
            ));
        }
        let port = port
            .parse()
            .map_err(|_| AddressError::new(text, "the port is not a number"))?;
        Self::new(host.parse()?, port)
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.host {
            Host::Ip(IpAddr::V6(ip)) => write!(f, "[{ip}]:{}", self.port),
            host => write!(f, "{host}:{}", self.port),
        }
    }
}

/// The error for a text or number that is no usable address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AddressError {
    text: String,
    reason: String,
}

impl AddressError {
    fn new(text: &str, reason: &str) -> Self {
        // A registry may hold any text, so the message quotes at most 64 characters.
        let text = text.chars().take(64).collect();
        Self {
            text,
            reason: reason.to_owned(),
        }
    }
}

impl fmt::Display for AddressError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "address {:?}: {}", self.text, self.reason)
    }
}

impl std::error::Error for AddressError {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_print_what_they_parse() {
        for text in [
            "127.0.0.1:80",
            "[::1]:65535",
            "db-1.internal:5432",
            "under_score:1",
        ] {
            assert_eq!(text.parse::<Address>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn unusable_addresses_name_the_cause() {
        for (text, cause) in [
            ("", "no port"),
            ("host", "no port"),
            (":80", "host is empty"),
            ("host:", "not a number"),
            ("host:0", "port 0 is not in 1..=65535"),
            ("host:70000", "port 70000"),
            ("host:-1", "port -1"),
            ("::1:80", "[address]:port"),
            ("[::zz]:80", "no IPv6 address"),
            ("not an ip!:80", "neither an IP address nor a host name"),
            ("/etc:80", "neither"),
        ] {
            let error = text.parse::<Address>().expect_err(text).to_string();
            assert!(
                error.contains(cause),
                "{text:?} gave {error:?}, without {cause:?}"
            );
        }
    }
}
