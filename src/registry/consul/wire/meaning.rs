//! The instance that an element means.

use std::sync::Arc;

use super::entry::{HealthEntry, MAX_LABELS};
use crate::instance::{Address, AddressError, Host, Instance, Key, Status, Weight};

impl HealthEntry<'_> {
    pub(super) fn instance(
        &self,
        name: &Arc<str>,
        tagged_address: Option<&str>,
    ) -> Result<Instance, String> {
        let service = &self.service;
        if service.id.trim().is_empty() {
            return Err("it has no id".to_owned());
        }
        let tags = service.tags.as_deref().unwrap_or_default();
        if tags.iter().map(|tag| tag.len()).sum::<usize>() > MAX_LABELS {
            return Err(format!("more than {MAX_LABELS} bytes of tags"));
        }
        let status = self.status();
        let weight = service.weights.as_ref().and_then(|weights| match status {
            Status::Warning => weights.warning,
            _ => weights.passing,
        });
        let metadata = service.meta.as_ref().map_or(&[][..], |meta| &meta.0);
        let meta = |wanted: &str| {
            let found = metadata.iter().find(|(name, _)| &**name == wanted);
            found.map(|(_, value)| &**value)
        };
        let locality = service.locality.as_ref().map(|locality| &*locality.zone);
        // Each is tested by itself: a blank one must not hide the other.
        let zones = [locality, meta("zone")].into_iter().flatten();
        let zone = zones.map(str::trim).find(|zone| !zone.is_empty());

        let address = self
            .address(tagged_address)
            .map_err(|error| error.to_string())?;
        let mut instance = Instance::new(Arc::clone(name), "", address);
        instance.key = Key::new(&*service.id, self.scope());
        instance.weight = weight.map_or(Weight::ONE, Weight::clamped);
        instance.zone = zone.map(Arc::from);
        instance.status = status;
        instance.tags = tags.iter().map(|tag| tag.to_string()).collect();
        instance.metadata = metadata
            .iter()
            .map(|(name, value)| (name.to_string(), value.to_string()))
            .collect();
        Ok(instance)
    }

    /// Returns the scope of the id: node and datacenter, and partition, namespace or peer if they are
    /// set.
    fn scope(&self) -> String {
        let Self { node, service, .. } = self;
        let mut scope = String::with_capacity(node.datacenter.len() + node.node.len() + 1);
        for part in [&service.peer_name, &service.partition, &service.namespace] {
            if !part.is_empty() && &**part != "default" {
                scope.push_str(part);
                scope.push('/');
            }
        }
        scope.push_str(&node.datacenter);
        scope.push('/');
        scope.push_str(&node.node);
        scope
    }

    /// Returns the worst status of all checks, including the node's: if a node dies, only its own check
    /// reports it.
    fn status(&self) -> Status {
        let mut status = Status::Passing;
        for check in self.checks.as_deref().unwrap_or_default() {
            let maintenance = check.check_id.starts_with("_service_maintenance:")
                || &*check.check_id == "_node_maintenance";
            match &*check.status {
                "passing" => {}
                "warning" if status == Status::Passing => status = Status::Warning,
                "warning" => {}
                _ if maintenance => return Status::Maintenance,
                _ => status = Status::Critical,
            }
        }
        status
    }

    fn address(&self, tagged: Option<&str>) -> Result<Address, AddressError> {
        let Self { node, service, .. } = self;
        let tagged = tagged.and_then(|tag| {
            let all = service.tagged_addresses.as_ref()?;
            let (_, address) = all.iter().find(|(name, _)| &***name == tag)?;
            // The port of a tagged address is not for another address.
            (!address.address.trim().is_empty()).then_some(address)
        });
        let texts = [
            tagged.map_or("", |tagged| tagged.address.trim()),
            service.address.trim(),
            node.address.trim(),
        ];
        let host = texts
            .into_iter()
            .find(|text| !text.is_empty())
            .unwrap_or_default();
        let host: Host = host.parse()?;
        let ports = [
            tagged.and_then(|tagged| tagged.port),
            service.port,
            self.one_of_several(),
        ];
        let port = ports.into_iter().flatten().find(|port| *port != 0);
        Address::new(host, port.unwrap_or(0))
    }

    /// Returns the default port of several, or else the first by name.
    fn one_of_several(&self) -> Option<i64> {
        let set = self.service.ports.as_deref()?.iter();
        let set = set.filter(|port| port.port != 0);
        let default = set.clone().find(|port| port.default);
        let chosen = default.or_else(|| set.min_by(|a, b| a.name.cmp(&b.name)));
        chosen.map(|port| port.port)
    }
}
