//! The limits of a registry: what its clients can make it hold and do.

use std::{
    collections::HashSet,
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, UdpSocket},
    str::FromStr,
    time::Duration,
};

use super::{record::NewRecord, wire::FieldError};
use crate::{
    error::{ConfigError, check_range},
    instance::Host,
};

/// The limits of a [`Memory`](super::Memory): what its clients can make it hold and do.
///
/// [`docs::registry`](crate::docs::registry) has the reason for each default.
///
/// # Examples
/// ```
/// use tower_roster::registry::memory::{Memory, MemoryLimits};
///
/// let limits = MemoryLimits::new().instances(1_000).check_network("10.0.0.0/8".parse()?);
/// let memory = Memory::builder().limits(limits).build()?;
/// # Ok::<_, Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use = "limits do nothing until a registry is built with them"]
pub struct MemoryLimits {
    pub(super) instances: usize,
    pub(super) bytes: usize,
    pub(super) tags: usize,
    pub(super) least_check_interval: Duration,
    pub(super) longest_check_timeout: Duration,
    pub(super) checks_at_once: usize,
    pub(super) checks_per_sec: u32,
    pub(super) check_networks: Vec<Network>,
    pub(super) save_pause: Duration,
}

/// Which limit a registration would exceed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::registry) enum Full {
    Instances,
    Bytes,
}

impl Default for MemoryLimits {
    fn default() -> Self {
        Self {
            instances: 131_072,
            bytes: 256 << 20,
            tags: 64,
            least_check_interval: Duration::from_secs(1),
            longest_check_timeout: Duration::from_secs(60),
            checks_at_once: 64,
            checks_per_sec: 100,
            check_networks: Vec::new(),
            save_pause: Duration::from_millis(100),
        }
    }
}

impl MemoryLimits {
    /// The default limits.
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets the largest number of instances, at least 1; 131 072 by default. Further instances are
    /// refused.
    pub fn instances(mut self, most: usize) -> Self {
        self.instances = most;
        self
    }

    /// Sets how many bytes the registrations may have together, at least 64 KiB; 256 MiB by default. A
    /// registration counts with its texts and 512 bytes.
    pub fn bytes(mut self, most: usize) -> Self {
        self.bytes = most;
        self
    }

    /// Sets the largest number of different tags of an instance, from 0 to 65 536; 64 by default.
    pub fn tags(mut self, most: usize) -> Self {
        self.tags = most;
        self
    }

    /// Sets the shortest interval between the checks of an instance, at least 1 ms; 1 s by default. A
    /// registration with a shorter one is refused.
    pub fn least_check_interval(mut self, least: Duration) -> Self {
        self.least_check_interval = least;
        self
    }

    /// Sets the longest timeout of a check, from 1 ms to 1 h; 60 s by default. A registration with a longer
    /// one is refused.
    pub fn longest_check_timeout(mut self, most: Duration) -> Self {
        self.longest_check_timeout = most;
        self
    }

    /// Sets how many checks may run at once, from 1 to 65 536; 64 by default. Each needs a descriptor.
    /// Others wait for their turn, so checks that hang delay those of other clients.
    pub fn checks_at_once(mut self, most: usize) -> Self {
        self.checks_at_once = most;
        self
    }

    /// Sets how many checks may start in a second, for all instances together, from 1 to 100 000; 100 by
    /// default. If the instances need more, each is checked less often than its interval says.
    pub fn checks_per_sec(mut self, most: u32) -> Self {
        self.checks_per_sec = most;
        self
    }

    /// Allows checks of addresses in this network, whoever registers them; none by default (repeat for
    /// several).
    ///
    /// Without it, a registration over HTTP can only have the address checked from which it came; over
    /// loopback, each address of the machine. So a client cannot use the registry to reach, or to explore,
    /// what it cannot reach itself. Behind a reverse proxy, all registrations come from the proxy.
    /// Link-local, multicast and unspecified addresses are never checked, nor are those where clouds serve
    /// the secrets of a machine.
    pub fn check_network(mut self, network: Network) -> Self {
        self.check_networks.push(network);
        self
    }

    /// Sets the pause between two saves of the state file, from 0 to 60 s; 100 ms by default. All changes
    /// in the pause are saved together. A longer pause delays the answers to registrations, by at most 2 s;
    /// then they say that the registration is not saved.
    pub fn save_pause(mut self, pause: Duration) -> Self {
        self.save_pause = pause;
        self
    }

    #[cfg(feature = "rest")]
    pub(in crate::registry) fn most_tags(&self) -> usize {
        self.tags
    }

    pub(super) fn validate(&self) -> Result<(), ConfigError> {
        let ms = Duration::from_millis;
        check_range("memory_limits.instances", self.instances, 1..)?;
        check_range("memory_limits.bytes", self.bytes, 64 << 10..)?;
        check_range("memory_limits.tags", self.tags, ..=65_536)?;
        let least = self.least_check_interval;
        check_range("memory_limits.least_check_interval", least, ms(1)..)?;
        let (longest, timeouts) = (self.longest_check_timeout, ms(1)..=ms(3_600_000));
        check_range("memory_limits.longest_check_timeout", longest, timeouts)?;
        let at_once = self.checks_at_once;
        check_range("memory_limits.checks_at_once", at_once, 1..=65_536)?;
        let rate = self.checks_per_sec;
        check_range("memory_limits.checks_per_sec", rate, 1..=100_000)?;
        let pauses = ..=Duration::from_secs(60);
        check_range("memory_limits.save_pause", self.save_pause, pauses)
    }

    /// Checks a registration against the limits, and removes repeated tags.
    pub(in crate::registry) fn admit(&self, new: &mut NewRecord) -> Result<(), FieldError> {
        let tags = &mut new.instance.tags;
        let mut seen = HashSet::new();
        tags.retain(|tag| seen.insert(tag.clone()));
        if tags.len() > self.tags {
            let (most, held) = (self.tags, tags.len());
            return Err(FieldError::of(format!(
                "tags has {held} different texts; it must have at most {most}"
            )));
        }
        let Some(check) = &new.check else {
            return Ok(());
        };
        if check.interval < self.least_check_interval {
            return Err(FieldError::of(format!(
                "healthCheck.interval is {:?}; it must be at least {:?}",
                check.interval, self.least_check_interval
            )));
        }
        if check.timeout > self.longest_check_timeout {
            return Err(FieldError::of(format!(
                "healthCheck.timeout is {:?}; it must be at most {:?}",
                check.timeout, self.longest_check_timeout
            )));
        }
        match new.instance.address.host() {
            Host::Ip(ip) if !self.may_check(*ip, check.registrant) => Err(FieldError::of(format!(
                "healthCheck: this registry does not check {ip} for this client; it checks the \
                     address from which a registration comes, and the networks that it is told to check"
            ))),
            // The addresses of a name are compared with each check.
            _ => Ok(()),
        }
    }

    /// Whether a check that `registrant` wants may connect to `ip`. `None` is this process itself.
    pub(super) fn may_check(&self, ip: IpAddr, registrant: Option<IpAddr>) -> bool {
        let ip = ip.to_canonical();
        if is_never_checked(ip) {
            return false;
        }
        let mut networks = self.check_networks.iter();
        let Some(from) = registrant.map(|from| from.to_canonical()) else {
            return true;
        };
        from == ip
            || networks.any(|network| network.contains(ip))
            || (from.is_loopback() && is_of_this_machine(ip))
    }

    pub(in crate::registry) fn full(&self, full: Full) -> String {
        match full {
            Full::Instances => format!("it holds {} instances, as many as it may", self.instances),
            Full::Bytes => format!(
                "its registrations have {} bytes, as many as they may",
                self.bytes
            ),
        }
    }
}

/// Where clouds serve the secrets of a machine beside `169.254.169.254`: Alibaba Cloud, AWS, Google Cloud.
const METADATA: [IpAddr; 3] = [
    IpAddr::V4(Ipv4Addr::new(100, 100, 100, 200)),
    IpAddr::V6(Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254)),
    IpAddr::V6(Ipv6Addr::new(0xfd20, 0xce, 0, 0, 0, 0, 0, 0x254)),
];

fn is_never_checked(ip: IpAddr) -> bool {
    // A gateway translates 64:ff9b::/96 to the IPv4 address in the last 32 bits (RFC 6052).
    let ip = match ip {
        IpAddr::V6(v6) => match v6.segments() {
            [0x64, 0xff9b, 0, 0, 0, 0, ..] => Ipv4Addr::from_bits(v6.to_bits() as u32).into(),
            _ => ip,
        },
        IpAddr::V4(_) => ip,
    };
    let scoped = match ip {
        IpAddr::V4(ip) => ip.is_link_local() || ip.is_broadcast(),
        IpAddr::V6(ip) => ip.is_unicast_link_local(),
    };
    scoped || ip.is_unspecified() || ip.is_multicast() || METADATA.contains(&ip)
}

/// Whether an address is one of this machine: only to those can a socket be bound.
fn is_of_this_machine(ip: IpAddr) -> bool {
    ip.is_loopback() || UdpSocket::bind((ip, 0)).is_ok()
}

/// A network: the addresses that begin with the same bits. It is printed and parsed as `10.0.0.0/8`; one
/// address is a network, too.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Network {
    ip: IpAddr,
    bits: u32,
}

impl Network {
    /// Whether an address belongs to it.
    pub fn contains(&self, ip: IpAddr) -> bool {
        match (self.ip, ip.to_canonical()) {
            (IpAddr::V4(own), IpAddr::V4(ip)) => {
                let differ = u32::from(own) ^ u32::from(ip);
                differ.leading_zeros() >= self.bits
            }
            (IpAddr::V6(own), IpAddr::V6(ip)) => {
                let differ = u128::from(own) ^ u128::from(ip);
                differ.leading_zeros() >= self.bits
            }
            _ => false,
        }
    }
}

impl FromStr for Network {
    type Err = ConfigError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let parse = || {
            let (ip, bits) = match text.split_once('/') {
                Some((ip, bits)) => (ip.parse::<IpAddr>().ok()?, Some(bits.parse().ok()?)),
                None => (text.parse().ok()?, None),
            };
            let most = if ip.is_ipv4() { 32 } else { 128 };
            let bits = bits.unwrap_or(most);
            (bits <= most).then_some(Self { ip, bits })
        };
        parse().ok_or_else(|| {
            let shown: String = text.chars().take(64).collect();
            let message = format!("{shown:?} is no network such as 10.0.0.0/8");
            ConfigError::new("memory_limits.check_network", message)
        })
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.ip, self.bits)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn networks_hold_the_addresses_that_begin_alike() {
        for (network, inside, outside) in [
            ("10.0.0.0/8", "10.255.0.1", "11.0.0.0"),
            ("10.1.2.3", "10.1.2.3", "10.1.2.2"),
            ("0.0.0.0/0", "255.0.0.1", "::1"),
            ("10.0.0.0/8", "::ffff:10.0.0.1", "::ffff:11.0.0.1"),
            ("fd00::/8", "fd12::1", "fe00::1"),
        ] {
            let held: Network = network.parse().unwrap();
            assert!(held.contains(ip(inside)), "{network} {inside}");
            assert!(!held.contains(ip(outside)), "{network} {outside}");
        }
        for text in [
            "",
            "10.0.0.0/33",
            "10.0.0/8",
            "fd00::/129",
            "h",
            "1.2.3.4/",
            "1.2.3.4/-1",
        ] {
            assert!(text.parse::<Network>().is_err(), "{text:?}");
        }
        assert_eq!(
            "10.0.0.0/8".parse::<Network>().unwrap().to_string(),
            "10.0.0.0/8"
        );
    }

    #[test]
    fn a_client_has_its_own_address_checked_and_the_allowed_networks_only() {
        let all = "0.0.0.0/0".parse().unwrap();
        let (own, wide) = (MemoryLimits::new(), MemoryLimits::new().check_network(all));
        let client = Some(ip("10.0.0.5"));
        assert!(own.may_check(ip("10.0.0.5"), client));
        assert!(own.may_check(ip("::ffff:10.0.0.5"), client));
        assert!(!own.may_check(ip("10.0.0.6"), client));
        assert!(!own.may_check(ip("127.0.0.1"), client));
        assert!(own.may_check(ip("::1"), Some(ip("127.0.0.1"))));
        assert!(own.may_check(ip("10.0.0.6"), None));
        assert!(wide.may_check(ip("10.0.0.6"), client));
        let six = MemoryLimits::new().check_network("::/0".parse().unwrap());
        assert!(six.may_check(ip("64:ff9b::a00:6"), client));
        for never in [
            "169.254.169.254",
            "::ffff:169.254.169.254",
            "0.0.0.0",
            "::",
            "fe80::1",
            "224.0.0.1",
            "100.100.100.200",
            "fd00:ec2::254",
            "fd20:ce::254",
            "64:ff9b::a9fe:a9fe",
            "64:ff9b::",
        ] {
            for registrant in [None, client, Some(ip(never))] {
                assert!(!wide.may_check(ip(never), registrant), "{never}");
                assert!(!six.may_check(ip(never), registrant), "{never}");
            }
        }
    }

    #[test]
    fn a_client_on_this_machine_has_each_address_of_it_checked() {
        // Sends nothing: it only chooses a route, and so one of the addresses.
        let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
        let routed = socket
            .connect("192.0.2.1:9")
            .and_then(|()| socket.local_addr());
        let own = routed.map_or(ip("127.0.0.1"), |addr| addr.ip());
        let limits = MemoryLimits::new();
        for loopback in ["127.0.0.1", "::1", "::ffff:127.0.0.1"] {
            assert!(limits.may_check(own, Some(ip(loopback))), "{own}");
            assert!(!limits.may_check(ip("192.0.2.1"), Some(ip(loopback))));
        }
        if !own.is_loopback() {
            assert!(!limits.may_check(own, Some(ip("192.0.2.1"))), "{own}");
        }
    }
}
