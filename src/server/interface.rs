//! The address under which others reach a listener on all addresses.
//!
//! A UDP socket that is connected to an address sends nothing, and has the local address of the interface
//! that leads there.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket},
    time::Duration,
};

use tokio::{net::lookup_host, time::timeout};

use crate::instance::{Address, AddressError, Host};

/// How long the name of the registry may take to resolve, before it is tried again.
const RESOLVE_WITHIN: Duration = Duration::from_secs(5);

/// Addresses for documentation (RFC 5737, RFC 3849), which belong to no host: the route to them is the default
/// route.
const ANYWHERE: [IpAddr; 2] = [
    IpAddr::V4(Ipv4Addr::new(198, 51, 100, 1)),
    IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1)),
];

/// Where an instance is reached.
#[derive(Clone, Debug)]
pub(super) enum Place {
    Known(Address),
    /// At this port of an interface of this machine.
    AnyInterface(Interfaces),
}

/// The interfaces of a listener on all addresses.
#[derive(Clone, Copy, Debug)]
pub(super) struct Interfaces {
    port: u16,
    /// Whether it accepts connections over IPv6 too.
    v6: bool,
}

impl Place {
    pub(super) fn of(listening: SocketAddr) -> Result<Self, AddressError> {
        let (ip, port) = (listening.ip(), listening.port());
        if !ip.to_canonical().is_unspecified() {
            return Address::try_from(listening).map(Self::Known);
        }
        // A port of 0 is refused here.
        Address::new(Host::Ip(Ipv4Addr::LOCALHOST.into()), port.into())?;
        // `::ffff:0.0.0.0` accepts IPv4 only.
        let v6 = ip.to_canonical().is_ipv6();
        Ok(Self::AnyInterface(Interfaces { port, v6 }))
    }

    /// An address to check settings with, before the real one is known.
    pub(super) fn provisional(&self) -> Address {
        match self {
            Self::Known(address) => address.clone(),
            Self::AnyInterface(interfaces) => interfaces.loopback(),
        }
    }
}

impl Interfaces {
    fn loopback(self) -> Address {
        self.at(Ipv4Addr::LOCALHOST.into())
    }

    fn at(self, ip: IpAddr) -> Address {
        Address::new(Host::Ip(ip), self.port.into()).expect("address and port were checked")
    }

    /// Finds the address of the interface that leads to the registry.
    ///
    /// # Errors
    /// When the name of the registry cannot be resolved: then the registry cannot be reached either.
    ///
    /// # Cancel safety
    /// Dropping the future changes nothing.
    pub(super) async fn towards(self, registry: Option<&Address>) -> io::Result<Address> {
        let registry = match registry {
            Some(registry) => resolve(registry).await?,
            None => Vec::new(),
        };
        let ways = registry.into_iter().chain(ANYWHERE);
        let found = ways.filter_map(|to| self.way(to)).next();
        if found.is_none() {
            tracing::warn!(
                "no way leads to other machines: the server is announced with a loopback address, which only \
                 this machine can connect to; ServerSettings::advertise sets another"
            );
        }
        Ok(found.map_or_else(|| self.loopback(), |ip| self.at(ip)))
    }

    /// The own address on the way to another one, if other machines can connect to it.
    fn way(self, to: IpAddr) -> Option<IpAddr> {
        if to.is_ipv6() && !self.v6 {
            return None;
        }
        local_address(to).ok().filter(|ip| is_reachable(*ip))
    }
}

async fn resolve(address: &Address) -> io::Result<Vec<IpAddr>> {
    match address.host() {
        Host::Ip(ip) => Ok(vec![*ip]),
        Host::Name(name) => {
            let found = lookup_host((&**name, address.port()));
            let found = timeout(RESOLVE_WITHIN, found).await??;
            Ok(found.map(|address| address.ip()).collect())
        }
    }
}

fn local_address(to: IpAddr) -> io::Result<IpAddr> {
    let any: IpAddr = match to {
        IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let socket = UdpSocket::bind((any, 0))?;
    // Any port: nothing is sent.
    socket.connect((to, 9))?;
    Ok(socket.local_addr()?.ip().to_canonical())
}

/// Whether another machine can connect to an address of this one. A link-local address belongs to one
/// machine or one wire: an agent on 169.254.1.1 of each machine is a usual set-up, and an address of IPv6
/// needs the name of an interface.
fn is_reachable(ip: IpAddr) -> bool {
    let is_link_local = match ip {
        IpAddr::V4(ip) => ip.is_link_local(),
        IpAddr::V6(ip) => ip.is_unicast_link_local(),
    };
    !ip.is_loopback() && !ip.is_unspecified() && !is_link_local
}

#[cfg(test)]
mod tests {
    use super::*;

    fn interfaces(listening: &str) -> Interfaces {
        match Place::of(listening.parse().unwrap()) {
            Ok(Place::AnyInterface(interfaces)) => interfaces,
            other => panic!("{listening}: {other:?}"),
        }
    }

    #[test]
    fn the_address_of_a_listener_on_one_address_is_known() {
        for text in ["127.0.0.1:80", "[::1]:80", "10.0.0.7:8080", "[fd00::2]:1"] {
            match Place::of(text.parse().unwrap()).unwrap() {
                Place::Known(address) => assert_eq!(address.to_string(), text),
                other => panic!("{other:?}"),
            }
        }
        for unusable in ["127.0.0.1:0", "0.0.0.0:0", "[::]:0", "224.0.0.1:80"] {
            Place::of(unusable.parse().unwrap()).unwrap_err();
        }
    }

    #[test]
    fn the_way_to_an_address_of_this_machine_is_not_announced() {
        assert_eq!(
            local_address(Ipv4Addr::LOCALHOST.into()).unwrap(),
            Ipv4Addr::LOCALHOST
        );
        for listening in ["0.0.0.0:80", "[::]:80", "[::ffff:0.0.0.0]:80"] {
            let interfaces = interfaces(listening);
            assert_eq!(interfaces.way(Ipv4Addr::LOCALHOST.into()), None);
            assert_eq!(interfaces.way(Ipv6Addr::LOCALHOST.into()), None);
        }
        assert!(!is_reachable("fe80::1".parse().unwrap()));
        assert!(!is_reachable("169.254.1.1".parse().unwrap()));
        assert!(is_reachable("10.0.0.7".parse().unwrap()));
        assert!(is_reachable("fd00::1".parse().unwrap()));
    }

    #[test]
    fn a_listener_for_ipv4_is_never_announced_with_ipv6() {
        let [v4, any] = ["0.0.0.0:80", "[::]:80"].map(interfaces);
        assert!(!v4.v6 && any.v6);
        assert!(!interfaces("[::ffff:0.0.0.0]:80").v6);
        let elsewhere = "2001:db8::1".parse().unwrap();
        assert_eq!(v4.way(elsewhere), None);
    }

    #[tokio::test]
    async fn an_address_is_always_found_and_never_unspecified() {
        for registry in [
            None,
            Some("127.0.0.1:8500"),
            Some("[::1]:8500"),
            Some("203.0.113.9:1"),
        ] {
            for listening in ["0.0.0.0:80", "[::]:80"] {
                let registry = registry.map(|text| text.parse::<Address>().unwrap());
                let address = interfaces(listening).towards(registry.as_ref()).await;
                let address = address.unwrap();
                assert_eq!(address.port(), 80);
                let Host::Ip(ip) = address.host() else {
                    panic!("{address}")
                };
                assert!(!ip.is_unspecified(), "{address}");
            }
        }
    }
}
