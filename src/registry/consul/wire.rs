//! Parses Consul's replies leniently, and converts them into instances.
//!
//! Consul stores any data that a service registers: any port, any text as an address, null instead of a
//! list. So every field that is not required may be absent or null. An unusable record is rejected, and
//! the others are still used.
//!
//! After a change of one instance, Consul sends all of them. So a reply is first split into its
//! elements, which costs less than half of parsing them. Only elements whose bytes were not in the
//! previous reply are parsed; the others keep their `Arc`.

use std::{
    borrow::Cow,
    collections::{BTreeMap, HashMap},
    fmt,
    hash::{BuildHasher, RandomState},
    sync::Arc,
};

use serde::{
    Deserialize, Deserializer,
    de::{Error as _, Visitor},
};
use serde_json::value::RawValue;

use crate::{
    catalog::{Rejected, reject},
    instance::{Address, Host, Instance, Key, Status, Weight},
};

/// The largest size of tags, and of metadata, in bytes. Consul's own limits (64 pairs of at most 128 +
/// 512 bytes) allow 40 KiB.
const MAX_LABELS: usize = 64 << 10;

/// A text that borrows from the reply unless it contains escapes. (serde does not let a `Cow` borrow
/// inside an `Option` or a list.)
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Text<'a>(Cow<'a, str>);

impl std::ops::Deref for Text<'_> {
    type Target = str;

    fn deref(&self) -> &str {
        &self.0
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Text<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Borrow;
        impl<'de> Visitor<'de> for Borrow {
            type Value = Text<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a text")
            }

            fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Self::Value, E> {
                Ok(Text(Cow::Borrowed(text)))
            }

            fn visit_str<E>(self, text: &str) -> Result<Self::Value, E> {
                Ok(Text(Cow::Owned(text.to_owned())))
            }

            fn visit_unit<E>(self) -> Result<Self::Value, E> {
                Ok(Text(Cow::Borrowed("")))
            }
        }
        deserializer.deserialize_any(Borrow)
    }
}

/// An element of `/v1/health/service/:name`.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Entry<'a> {
    #[serde(borrow)]
    node: Node<'a>,
    #[serde(borrow)]
    service: Service<'a>,
    #[serde(borrow, default)]
    checks: Option<Vec<Check<'a>>>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Node<'a> {
    #[serde(borrow)]
    node: Text<'a>,
    #[serde(borrow, default)]
    address: Text<'a>,
    #[serde(borrow, default)]
    datacenter: Text<'a>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Service<'a> {
    #[serde(rename = "ID", borrow)]
    id: Text<'a>,
    #[serde(borrow, default)]
    tags: Option<Vec<Text<'a>>>,
    #[serde(borrow, default)]
    address: Text<'a>,
    #[serde(default)]
    port: Option<i64>,
    #[serde(borrow, default)]
    ports: Option<Vec<Port<'a>>>,
    #[serde(borrow, default)]
    meta: Option<Pairs<'a>>,
    #[serde(default)]
    weights: Option<Weights>,
    #[serde(borrow, default)]
    tagged_addresses: Option<BTreeMap<Text<'a>, TaggedAddress<'a>>>,
    #[serde(borrow, default)]
    locality: Option<Locality<'a>>,
    #[serde(borrow, default)]
    namespace: Text<'a>,
    #[serde(borrow, default)]
    partition: Text<'a>,
    #[serde(borrow, default)]
    peer_name: Text<'a>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Check<'a> {
    #[serde(rename = "CheckID", borrow, default)]
    check_id: Text<'a>,
    #[serde(borrow, default)]
    status: Text<'a>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Weights {
    #[serde(default)]
    passing: Option<i64>,
    #[serde(default)]
    warning: Option<i64>,
}

/// Consul capitalises these names, although its documentation also shows them in lower case.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct TaggedAddress<'a> {
    #[serde(borrow, default, alias = "address")]
    address: Text<'a>,
    #[serde(default, alias = "port")]
    port: Option<i64>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Locality<'a> {
    #[serde(borrow, default)]
    zone: Text<'a>,
}

/// One of several ports of an instance, a feature of newer versions.
#[derive(Debug, Deserialize)]
struct Port<'a> {
    #[serde(borrow, default, alias = "Name")]
    name: Text<'a>,
    #[serde(alias = "Port")]
    port: i64,
    #[serde(default, alias = "Default")]
    default: bool,
}

/// A map of texts as a list of pairs, which is cheaper to build.
#[derive(Debug, Default)]
struct Pairs<'a>(Vec<(Text<'a>, Text<'a>)>);

impl<'de: 'a, 'a> Deserialize<'de> for Pairs<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Collect;
        impl<'de> Visitor<'de> for Collect {
            type Value = Pairs<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object of texts")
            }

            fn visit_map<A: serde::de::MapAccess<'de>>(
                self,
                mut map: A,
            ) -> Result<Self::Value, A::Error> {
                let mut pairs = Vec::new();
                let mut size = 0;
                while let Some((name, value)) = map.next_entry::<Text<'de>, Text<'de>>()? {
                    size += name.len() + value.len();
                    if size > MAX_LABELS {
                        return Err(A::Error::custom(format!(
                            "more than {MAX_LABELS} bytes of metadata"
                        )));
                    }
                    pairs.push((name, value));
                }
                Ok(Pairs(pairs))
            }
        }
        deserializer.deserialize_map(Collect)
    }
}

/// The result of decoding one reply.
#[derive(Debug, Default)]
pub struct Decoded {
    /// The instances that can be used.
    pub instances: Vec<Arc<Instance>>,
    /// The records that cannot be used; the first 1,000.
    pub rejected: Vec<Rejected>,
}

/// Decodes the replies about one service, and remembers the last one.
#[derive(Debug)]
pub struct Decoder {
    service: Arc<str>,
    tagged_address: Option<String>,
    /// The instances of the last reply by hash and length of their text. The hash has a random key, so
    /// that a service cannot construct two texts with the same hash.
    known: HashMap<(u64, usize), Arc<Instance>>,
    state: RandomState,
}

/// Parses a whole reply into its structure. Benches use it as the lower bound of the cost of decoding.
///
/// # Errors
/// When the reply is not a list of entries.
pub fn parse(body: &[u8]) -> Result<Vec<Entry<'_>>, serde_json::Error> {
    serde_json::from_slice(body)
}

impl Decoder {
    /// Creates a decoder for replies about `service`. It uses an instance's tagged address of the name
    /// `tagged_address`, if there is one.
    pub fn new(service: Arc<str>, tagged_address: Option<String>) -> Self {
        Self {
            service,
            tagged_address,
            known: HashMap::new(),
            state: RandomState::new(),
        }
    }

    /// Decodes a reply.
    ///
    /// # Errors
    /// When it is not a JSON array. An element that cannot be used is no error; it is rejected.
    pub fn decode(&mut self, body: &[u8]) -> Result<Decoded, serde_json::Error> {
        let elements: Vec<&RawValue> = serde_json::from_slice(body)?;
        let mut decoded = Decoded::default();
        decoded.instances.reserve(elements.len());
        let mut known = HashMap::with_capacity(elements.len());
        for (index, element) in elements.iter().enumerate() {
            let text = element.get();
            let print = (self.state.hash_one(text), text.len());
            let instance = match self.known.get(&print) {
                Some(instance) => Ok(Arc::clone(instance)),
                None => self.read(text).map(Arc::new),
            };
            match instance {
                Ok(instance) => {
                    known.insert(print, Arc::clone(&instance));
                    decoded.instances.push(instance);
                }
                Err(reason) => {
                    reject(&mut decoded.rejected, || {
                        let record = id_of(element).unwrap_or_else(|| format!("#{index}"));
                        Rejected::new(short(&record), short(&reason))
                    });
                }
            }
        }
        self.known = known;
        Ok(decoded)
    }

    fn read(&self, text: &str) -> Result<Instance, String> {
        let entry: Entry<'_> = serde_json::from_str(text).map_err(|error| error.to_string())?;
        entry.instance(&self.service, self.tagged_address.as_deref())
    }
}

/// Returns a name for an element that cannot be used, if it has one.
fn id_of(element: &RawValue) -> Option<String> {
    let element: serde_json::Value = serde_json::from_str(element.get()).ok()?;
    let id = element.get("Service")?.get("ID")?.as_str()?;
    Some(
        match element.get("Node").and_then(|node| node.get("Node")) {
            Some(serde_json::Value::String(node)) => format!("{id} on node {node}"),
            _ => id.to_owned(),
        },
    )
}

/// Shortens a registry's text to 200 characters for logs.
fn short(text: &str) -> String {
    text.chars().take(200).collect()
}

impl Entry<'_> {
    fn instance(&self, name: &Arc<str>, tagged_address: Option<&str>) -> Result<Instance, String> {
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
        let zone = locality
            .or_else(|| meta("zone"))
            .filter(|zone| !zone.is_empty());

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

    fn address(&self, tagged: Option<&str>) -> Result<Address, crate::instance::AddressError> {
        let Self { node, service, .. } = self;
        let tagged = tagged.and_then(|tag| {
            let all = service.tagged_addresses.as_ref()?;
            all.iter()
                .find(|(name, _)| &***name == tag)
                .map(|(_, address)| address)
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
        let ports = self.service.ports.as_deref()?;
        let default = ports.iter().find(|port| port.default);
        let chosen = default.or_else(|| ports.iter().min_by(|a, b| a.name.cmp(&b.name)));
        chosen.map(|port| port.port)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn entry(edit: impl FnOnce(&mut Value)) -> Value {
        let mut entry = json!({
            "Node": {"ID": "", "Node": "n1", "Address": "10.0.0.1", "Datacenter": "dc1", "Meta": null},
            "Service": {
                "ID": "web-1", "Service": "web", "Tags": ["v1"], "Address": "10.0.0.2", "Port": 80,
                "Meta": {"zone": "a"}, "Weights": {"Passing": 10, "Warning": 2},
                "Proxy": {"Config": {"limit": 3}}, "Unknown": [{}],
            },
            "Checks": [{"CheckID": "serfHealth", "Status": "passing"}],
        });
        edit(&mut entry);
        entry
    }

    fn decode(body: &[u8], tag: Option<&str>) -> Result<Decoded, serde_json::Error> {
        Decoder::new("web".into(), tag.map(str::to_owned)).decode(body)
    }

    fn one(edit: impl FnOnce(&mut Value)) -> Result<Instance, Rejected> {
        let body = json!([entry(edit)]).to_string();
        let mut decoded = decode(body.as_bytes(), None).unwrap();
        match decoded.instances.pop() {
            Some(instance) => Ok((*instance).clone()),
            None => Err(decoded.rejected.remove(0)),
        }
    }

    #[test]
    fn reads_what_an_agent_writes() {
        let instance = one(|_| {}).unwrap();
        assert_eq!(instance.key, Key::new("web-1", "dc1/n1"));
        assert_eq!(instance.address.to_string(), "10.0.0.2:80");
        assert_eq!(
            (instance.weight.get(), instance.zone.as_deref()),
            (10, Some("a"))
        );
        assert_eq!(
            (instance.tags, instance.status),
            (vec!["v1".to_owned()], Status::Passing)
        );
    }

    #[test]
    fn absent_and_null_fields_have_their_meaning() {
        let bare = one(|entry| {
            let service = entry["Service"].as_object_mut().unwrap();
            service.retain(|name, _| name == "ID" || name == "Port");
            entry["Checks"] = Value::Null;
        })
        .unwrap();
        assert_eq!(
            bare.address.to_string(),
            "10.0.0.1:80",
            "the node's address"
        );
        assert_eq!((bare.weight, bare.zone), (Weight::ONE, None));
        for field in [
            "Tags",
            "Meta",
            "Weights",
            "TaggedAddresses",
            "Address",
            "Locality",
        ] {
            one(|entry| entry["Service"][field] = Value::Null)
                .unwrap_or_else(|e| panic!("{field}: {e}"));
        }
    }

    #[test]
    fn unusable_records_are_named_with_their_reason() {
        type Edit = fn(&mut Value);
        let cases: [(Edit, &str); 12] = [
            (|e| e["Service"]["Port"] = json!(0), "port 0"),
            (|e| e["Service"]["Port"] = json!(70_000), "port 70000"),
            (|e| e["Service"]["Port"] = json!(-1), "port -1"),
            (|e| e["Service"]["Port"] = json!("80"), "invalid type"),
            (|e| e["Service"]["Port"] = json!(1e300), "invalid"),
            (
                |e| e["Service"]["Address"] = json!("not an ip!"),
                "neither an IP address",
            ),
            (|e| e["Service"]["Tags"] = json!([1]), "invalid type"),
            (
                |e| e["Service"]["Tags"] = json!(["x".repeat(70_000)]),
                "bytes of tags",
            ),
            (
                |e| e["Service"]["Meta"] = json!({"m": "x".repeat(10 << 20)}),
                "bytes of metadata",
            ),
            (|e| e["Service"]["ID"] = json!(""), "no id"),
            (|e| e["Node"] = json!("n1"), "invalid type"),
            (|e| *e = json!(7), "invalid type"),
        ];
        for (index, (edit, reason)) in cases.into_iter().enumerate() {
            let rejected = one(edit).expect_err("it cannot be used");
            let text = rejected.to_string();
            assert!(
                text.contains(reason),
                "case {index}: {text} does not say {reason:?}"
            );
            assert!(text.len() < 500, "case {index}: a message stays short");
        }
    }

    #[test]
    fn a_bad_record_costs_itself_only() {
        let good = entry(|_| {});
        let bad = entry(|e| e["Service"]["Tags"] = json!({"a": 1}));
        let body = json!([bad, good]).to_string();
        let decoded = decode(body.as_bytes(), None).unwrap();
        assert_eq!((decoded.instances.len(), decoded.rejected.len()), (1, 1));
        assert_eq!(&*decoded.rejected[0].record, "web-1 on node n1");
        for garbage in ["", "{}", "null", "[", "[{]", "<html>", "\"a\""] {
            assert!(decode(garbage.as_bytes(), None).is_err(), "{garbage:?}");
        }
        assert!(decode(b"[\xff]", None).is_err(), "not UTF-8");
    }

    #[test]
    fn a_reply_of_nothing_but_bad_records_stays_small() {
        let body = format!("[{}0]", "0,".repeat(50_000));
        let decoded = decode(body.as_bytes(), None).unwrap();
        assert_eq!(
            (decoded.instances.len(), decoded.rejected.len()),
            (0, 1_000)
        );
    }

    #[test]
    fn weights_follow_the_status_and_are_clamped() {
        let checked = |status: &str, weights: Value| {
            let instance = one(|e| {
                e["Checks"][0]["Status"] = json!(status);
                e["Service"]["Weights"] = weights;
            });
            instance.unwrap().weight.get()
        };
        let weights = json!({"Passing": 10, "Warning": 0});
        assert_eq!(checked("passing", weights.clone()), 10);
        assert_eq!(checked("warning", weights), 0);
        for (raw, weight) in [(-5, 0), (0, 0), (70_000, 65_535), (i64::MAX, 65_535)] {
            assert_eq!(checked("passing", json!({"Passing": raw})), weight);
        }
        assert_eq!(checked("warning", json!({"Passing": 10})), 1);
    }

    #[test]
    fn the_worst_check_decides_and_maintenance_is_a_state_of_its_own() {
        let status = |checks: Value| one(|e| e["Checks"] = checks).unwrap().status;
        let check = |id: &str, status: &str| json!({"CheckID": id, "Status": status});
        let (ok, dead) = (check("a", "passing"), check("serfHealth", "critical"));
        assert_eq!(status(json!([])), Status::Passing);
        assert_eq!(status(json!([ok, check("b", "warning")])), Status::Warning);
        assert_eq!(
            status(json!([dead, check("b", "warning"), ok])),
            Status::Critical
        );
        assert_eq!(status(json!([ok, check("b", "weird")])), Status::Critical);
        for id in ["_service_maintenance:web-1", "_node_maintenance"] {
            assert_eq!(
                status(json!([dead, check(id, "critical")])),
                Status::Maintenance
            );
        }
    }

    #[test]
    fn addresses_come_from_the_tag_the_service_or_the_node() {
        let tagged = entry(|e| {
            e["Service"]["TaggedAddresses"] = json!({
                "wan": {"Address": "198.18.0.1", "Port": 8080},
                "lan": {"address": "10.9.9.9", "port": 0},
            });
        });
        let body = json!([tagged]).to_string();
        for (tag, address) in [
            (Some("wan"), "198.18.0.1:8080"),
            (Some("lan"), "10.9.9.9:80"),
            (Some("other"), "10.0.0.2:80"),
            (None, "10.0.0.2:80"),
        ] {
            let decoded = decode(body.as_bytes(), tag).unwrap();
            assert_eq!(decoded.instances[0].address.to_string(), address);
        }
        for (written, address) in [
            ("  ", "10.0.0.1:80"),
            ("::1", "[::1]:80"),
            ("[::1]", "[::1]:80"),
            ("web.internal", "web.internal:80"),
        ] {
            let instance = one(|e| e["Service"]["Address"] = json!(written)).unwrap();
            assert_eq!(instance.address.to_string(), address);
        }
    }

    #[test]
    fn several_ports_have_a_default() {
        let ports = |ports: Value| {
            one(|e| {
                e["Service"]["Port"] = json!(0);
                e["Service"]["Ports"] = ports;
            })
        };
        let both = json!([{"name": "b", "port": 2}, {"name": "a", "port": 1, "default": true}]);
        assert_eq!(ports(both).unwrap().address.port(), 1);
        let none = json!([{"name": "b", "port": 2}, {"name": "a", "port": 1}]);
        assert_eq!(ports(none).unwrap().address.port(), 1);
        assert!(ports(json!([])).is_err());
    }

    #[test]
    fn only_what_changed_is_read_again() {
        let body = |port: u16| {
            let other = entry(|e| {
                e["Service"]["ID"] = json!("web-2");
                e["Service"]["Port"] = json!(port);
            });
            json!([entry(|_| {}), other]).to_string()
        };
        let mut decoder = Decoder::new("web".into(), None);
        let first = decoder.decode(body(1).as_bytes()).unwrap().instances;
        let second = decoder.decode(body(2).as_bytes()).unwrap().instances;
        assert!(Arc::ptr_eq(&first[0], &second[0]));
        assert_eq!((first[1].address.port(), second[1].address.port()), (1, 2));
        decoder.decode(b"[]").unwrap();
        assert!(
            decoder.known.is_empty(),
            "only the last reply is remembered"
        );
    }

    #[test]
    fn escapes_in_text_are_decoded() {
        let instance = one(|e| e["Service"]["ID"] = json!("a\"b\u{4e2d}\n")).unwrap();
        assert_eq!(instance.id(), "a\"b\u{4e2d}\n");
    }
}
