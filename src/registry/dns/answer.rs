//! Makes instances of DNS records. Pure.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
};

use hickory_resolver::proto::rr::{Name, RData, Record, rdata::SRV};

use crate::{
    catalog::{Rejected, reject},
    instance::{Address, Host, Instance, Weight},
};

/// The addresses in a list of records, sorted: an IPv4 address comes before an IPv6 address.
pub(super) fn addresses<'a>(records: impl IntoIterator<Item = &'a Record>) -> BTreeSet<IpAddr> {
    let records = records.into_iter();
    records
        .filter_map(|record| match &record.data {
            RData::A(a) => Some(IpAddr::V4(a.0)),
            RData::AAAA(aaaa) => Some(IpAddr::V6(aaaa.0)),
            _ => None,
        })
        .collect()
}

/// The instances of the addresses of a name.
pub(super) fn hosts(
    service: &Arc<str>,
    addresses: impl IntoIterator<Item = IpAddr>,
    port: u16,
    rejected: &mut Vec<Rejected>,
) -> Vec<Instance> {
    let mut instances = Vec::new();
    for ip in addresses {
        match Address::new(Host::Ip(ip), port.into()) {
            Ok(address) => {
                let id = address.to_string();
                instances.push(Instance::new(Arc::clone(service), id, address));
            }
            Err(error) => reject(rejected, || {
                Rejected::new(ip.to_string(), error.to_string())
            }),
        }
    }
    instances
}

/// An SRV record, with the parts that make it an instance.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Target {
    /// `target:port`, the identity of the instance.
    pub(super) id: String,
    pub(super) name: Name,
    port: u16,
    weight: Weight,
    priority: u16,
}

/// The usable SRV records among `records`, in the order of their ids. If a target and port stand twice, the
/// record with the lower priority counts. `None` if a record says that there is no such service.
pub(super) fn targets<'a>(
    records: impl IntoIterator<Item = &'a Record>,
    rejected: &mut Vec<Rejected>,
) -> Option<Vec<Target>> {
    let mut targets: BTreeMap<String, Target> = BTreeMap::new();
    for record in records {
        let RData::SRV(SRV {
            priority,
            weight,
            port,
            target,
            ..
        }) = &record.data
        else {
            continue;
        };
        if target.is_root() {
            return None;
        }
        let host = target.to_lowercase().to_ascii();
        let id = format!("{}:{port}", host.trim_end_matches('.'));
        if *port == 0 {
            reject(rejected, || Rejected::new(id, "the port is 0"));
            continue;
        }
        // Little traffic, and not none (RFC 2782).
        let weight = Weight::from(*weight).max(Weight::ONE);
        // The same one counts in any order of the records.
        let known = targets.get(&id);
        if known.is_some_and(|known| (known.priority, known.weight) <= (*priority, weight)) {
            continue;
        }
        let mut name = target.clone();
        name.set_fqdn(true);
        let target = Target {
            id: id.clone(),
            name,
            port: *port,
            weight,
            priority: *priority,
        };
        targets.insert(id, target);
    }
    Some(targets.into_values().collect())
}

impl Target {
    /// The instance of this target. It keeps the address `former` if the target still has it.
    pub(super) fn instance(
        &self,
        service: &Arc<str>,
        addresses: &BTreeSet<IpAddr>,
        former: Option<&Host>,
    ) -> Result<Instance, String> {
        let kept = match former {
            Some(Host::Ip(ip)) if addresses.contains(ip) => Some(*ip),
            _ => addresses.first().copied(),
        };
        let ip = kept.ok_or("the target has no address")?;
        let address = Address::new(Host::Ip(ip), self.port.into());
        let address = address.map_err(|error| error.to_string())?;
        let instance = Instance::new(Arc::clone(service), self.id.as_str(), address)
            .meta("priority", self.priority.to_string());
        Ok(Instance {
            weight: self.weight,
            ..instance
        })
    }
}

#[cfg(test)]
mod tests {
    use hickory_resolver::proto::rr::rdata::{A, AAAA};

    use super::*;

    fn name(text: &str) -> Name {
        Name::from_ascii(text).unwrap()
    }

    fn srv(priority: u16, weight: u16, port: u16, target: &str) -> Record {
        let data = RData::SRV(SRV::new(priority, weight, port, name(target)));
        Record::from_rdata(name("_http._tcp.web.test."), 5, data)
    }

    #[test]
    fn addresses_are_sorted_and_stand_once() {
        let record = |data| Record::from_rdata(name("web.test."), 5, data);
        let records = [
            record(RData::AAAA(AAAA("::1".parse().unwrap()))),
            record(RData::A(A("10.0.0.2".parse().unwrap()))),
            record(RData::A(A("10.0.0.1".parse().unwrap()))),
            record(RData::A(A("10.0.0.2".parse().unwrap()))),
        ];
        let found: Vec<_> = addresses(&records).iter().map(IpAddr::to_string).collect();
        assert_eq!(found, ["10.0.0.1", "10.0.0.2", "::1"]);
        let instances = hosts(&"web".into(), addresses(&records), 80, &mut Vec::new());
        let ids: Vec<_> = instances.iter().map(Instance::id).collect();
        assert_eq!(ids, ["10.0.0.1:80", "10.0.0.2:80", "[::1]:80"]);
    }

    #[test]
    fn srv_records_become_instances_with_weight_and_priority() {
        let records = [
            srv(20, 5, 81, "B.test."),
            srv(10, 0, 80, "a.test."),
            srv(30, 7, 80, "a.test."),
            srv(20, 4, 81, "b.test."),
            srv(10, 1, 0, "c.test."),
        ];
        let mut rejected = Vec::new();
        let targets = targets(&records, &mut rejected).unwrap();
        let ids: Vec<_> = targets.iter().map(|target| target.id.as_str()).collect();
        assert_eq!(ids, ["a.test:80", "b.test:81"]);
        assert_eq!(rejected, [Rejected::new("c.test:0", "the port is 0")]);

        let service: Arc<str> = "web".into();
        let found: BTreeSet<IpAddr> = ["10.0.0.1", "10.0.0.2"]
            .map(|ip| ip.parse().unwrap())
            .into();
        let a = targets[0].instance(&service, &found, None).unwrap();
        assert_eq!((a.weight.get(), a.metadata["priority"].as_str()), (1, "10"));
        assert_eq!(a.address.to_string(), "10.0.0.1:80");
        let former = Host::Ip("10.0.0.2".parse().unwrap());
        let kept = targets[0]
            .instance(&service, &found, Some(&former))
            .unwrap();
        assert_eq!(kept.address.to_string(), "10.0.0.2:80");
        assert!(
            targets[0]
                .instance(&service, &BTreeSet::new(), None)
                .is_err()
        );
    }

    #[test]
    fn a_root_target_says_that_there_is_no_service() {
        let records = [srv(0, 0, 0, ".")];
        assert_eq!(targets(&records, &mut Vec::new()), None);
    }
}
