//! Where an instance listens.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
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
    /// letters, digits, `-`, `_` and `.`, whose last part is no number. (Resolvers read `0` and `0x7f.1` as IP
    /// addresses.) When it is an IP address that no instance can have; see [`Address::new`].
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let text = text.trim();
        if text.is_empty() {
            return Err(AddressError::new(text, "the host is empty"));
        }
        let bare = text
            .strip_prefix('[')
            .and_then(|rest| rest.strip_suffix(']'));
        let ip = match bare {
            Some(v6) => {
                let v6 = v6.parse::<Ipv6Addr>().map_err(|_| {
                    AddressError::new(text, "no IPv6 address stands between the brackets")
                })?;
                Some(v6.into())
            }
            None => text.parse().ok(),
        };
        if let Some(ip) = ip {
            let host = Host::Ip(ip);
            host.check()?;
            return Ok(host);
        }
        let name = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
        if text.len() > 253 || !text.bytes().all(name) || text.starts_with(['.', '-']) {
            return Err(AddressError::new(
                text,
                "neither an IP address nor a host name",
            ));
        }
        let host = Host::Name(text.into());
        host.check()?;
        Ok(host)
    }
}

impl Host {
    /// Checks that another process can be reached there. The one rule for what registries list.
    fn check(&self) -> Result<(), AddressError> {
        match self {
            Host::Ip(ip) if !is_of_one_host(*ip) => Err(AddressError::new(
                &ip.to_string(),
                "not the address of one host: unspecified, multicast or broadcast",
            )),
            Host::Name(name) if ends_in_a_number(name) => Err(AddressError::new(
                name,
                "neither an IP address nor a host name: its last part is a number",
            )),
            _ => Ok(()),
        }
    }
}

/// Whether an IP address may belong to one host. A connection to an unspecified address, `0.0.0.0` or `::`, ends
/// at the process's own host. IPv6 can write each IPv4 address, too.
fn is_of_one_host(ip: IpAddr) -> bool {
    let v4 = |ip: Ipv4Addr| ip.octets()[0] != 0 && !ip.is_multicast() && !ip.is_broadcast();
    match ip {
        IpAddr::V4(ip) => v4(ip),
        IpAddr::V6(ip) if ip.is_loopback() => true,
        IpAddr::V6(ip) => {
            let segments = ip.segments();
            // `::ffff:a.b.c.d`, the form `::a.b.c.d` from before it, and `64:ff9b::a.b.c.d` (RFC 6052).
            let holds_v4 = matches!(
                segments,
                [0, 0, 0, 0, 0, 0 | 0xffff, ..] | [0x64, 0xff9b, 0, 0, 0, 0, ..]
            );
            let last = u32::from(segments[6]) << 16 | u32::from(segments[7]);
            !ip.is_multicast() && (!holds_v4 || v4(last.into()))
        }
    }
}

/// Whether the last part of a name is a number, so that resolvers may take the name for an IPv4 address in
/// another notation (as in the URL Standard, section 3.5).
fn ends_in_a_number(name: &str) -> bool {
    let name = name.strip_suffix('.').unwrap_or(name);
    let last = name.rsplit('.').next().unwrap_or_default();
    let hex = last.strip_prefix("0x").or(last.strip_prefix("0X"));
    match hex {
        Some(digits) => digits.bytes().all(|b| b.is_ascii_hexdigit()),
        None => !last.is_empty() && last.bytes().all(|b| b.is_ascii_digit()),
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
    /// When the port is not in 1 to 65535. It is an `i64` because registries store any number. When the host
    /// is an IP address that no host has for itself: of the network `0.0.0.0/8`, `::`, a multicast or a
    /// broadcast address, also as an IPv6 address that contains one of IPv4. Connections to some of them end at
    /// the process's own host. When it is a name whose last part is a number.
    pub fn new(host: Host, port: i64) -> Result<Self, AddressError> {
        host.check()?;
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
        // A user and a password may stand in a text that is taken for an address.
        let shown = match text.rfind('@') {
            Some(at) => format!("…{}", &text[at..]),
            None => text.to_owned(),
        };
        // A registry may hold any text, so the message quotes at most 64 characters.
        let text = shown.chars().take(64).collect();
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
            "255.1.2.3:1",
            "[::ffff:10.0.0.1]:1",
            "[64:ff9b::a00:1]:1",
            "[fe80::1]:1",
            "4a7f-2.x1:1",
            "1.example:1",
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
            ("user:secret@h:80", "…@h:80"),
            ("0.0.0.0:80", "not the address of one host"),
            ("0.1.2.3:80", "not the address of one host"),
            ("224.0.0.1:80", "not the address of one host"),
            ("255.255.255.255:80", "not the address of one host"),
            ("[::]:80", "not the address of one host"),
            ("[::ffff:0.0.0.0]:80", "not the address of one host"),
            ("[::ffff:224.0.0.1]:80", "not the address of one host"),
            ("[::0.0.0.7]:80", "not the address of one host"),
            ("[64:ff9b::0.0.0.0]:80", "not the address of one host"),
            ("[ff02::1]:80", "not the address of one host"),
            ("0:80", "its last part is a number"),
            ("00.0:80", "its last part is a number"),
            ("127.1:80", "its last part is a number"),
            ("2130706433:80", "its last part is a number"),
            ("0x7f.1:80", "its last part is a number"),
            ("a.0x0:80", "its last part is a number"),
            ("web.0x:80", "its last part is a number"),
            ("0.:80", "its last part is a number"),
        ] {
            let error = text.parse::<Address>().expect_err(text).to_string();
            assert!(!error.contains("secret"), "{error}");
            assert!(
                error.contains(cause),
                "{text:?} gave {error:?}, without {cause:?}"
            );
        }
    }

    #[test]
    fn a_host_that_was_not_parsed_follows_the_same_rule() {
        for host in [
            Host::Ip([0, 0, 0, 0].into()),
            Host::Ip(Ipv6Addr::UNSPECIFIED.into()),
            Host::Name("0".into()),
        ] {
            Address::new(host, 80).unwrap_err();
        }
        Address::try_from(SocketAddr::from(([0, 0, 0, 0], 80))).unwrap_err();
    }
}
