//! Reads the replies about one service, each time only what changed.

use std::{
    borrow::Cow,
    collections::HashMap,
    hash::{BuildHasher, RandomState},
    sync::Arc,
};

use serde::Deserialize;
use serde_json::value::RawValue;

use super::entry::HealthEntry;
use crate::{
    catalog::{Rejected, reject},
    instance::Instance,
    registry::{
        decoding::{MOST_RECORDS, elements},
        redact::Secrets,
    },
};

/// The result of decoding one reply.
#[derive(Debug, Default)]
pub struct Decoded {
    /// The instances that can be used.
    pub instances: Vec<Arc<Instance>>,
    /// The records that cannot be used; the first 1,000.
    pub rejected: Vec<Rejected>,
    /// The first of a few elements that an expression can name.
    pub witness: Option<Witness>,
}

/// The names by which a filter expression selects one element of a reply.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Witness {
    /// The id of the service.
    pub id: String,
    /// The name of the node.
    pub node: String,
}

impl Witness {
    /// The longest name, in bytes, so that the expression fits in a URL. Arbitrary.
    const LONGEST: usize = 512;

    /// Reads the names of an element. Returns `None` if an expression cannot contain them: it is
    /// written with double quotes, and Consul's grammar has no escapes.
    fn of(element: &RawValue) -> Option<Self> {
        let entry: HealthEntry<'_> = serde_json::from_str(element.get()).ok()?;
        let plain = |name: &str| {
            let quotable = |c: char| !c.is_control() && c != '"' && c != '\\';
            (1..=Self::LONGEST).contains(&name.len()) && name.chars().all(quotable)
        };
        let (id, node) = (&*entry.service.id, &*entry.node.node);
        (plain(id) && plain(node)).then(|| Self {
            id: id.to_owned(),
            node: node.to_owned(),
        })
    }
}

/// Decodes the replies about one service, and remembers the last one.
#[derive(Debug)]
pub struct Decoder {
    service: Arc<str>,
    tagged_address: Option<String>,
    most_records: usize,
    /// The instances of the last reply by hash and length of their text. The hash has a random key, so
    /// that a service cannot construct two texts with the same hash.
    pub(super) known: HashMap<(u64, usize), Arc<Instance>>,
    state: RandomState,
}

impl Decoder {
    /// Creates a decoder for replies about `service`. It uses an instance's tagged address of the name
    /// `tagged_address`, if there is one.
    pub fn new(service: Arc<str>, tagged_address: Option<String>) -> Self {
        Self {
            service,
            tagged_address,
            most_records: MOST_RECORDS,
            known: HashMap::new(),
            state: RandomState::new(),
        }
    }

    /// Sets how many elements a reply may have.
    #[must_use]
    pub(in crate::registry::consul) fn most_records(mut self, most: usize) -> Self {
        self.most_records = most;
        self
    }

    /// Decodes a reply. The instances are in the order of their keys.
    ///
    /// # Errors
    /// When it is not a JSON array, or is too long. An element that cannot be used is no error; it is rejected.
    pub fn decode(&mut self, body: &[u8]) -> Result<Decoded, serde_json::Error> {
        self.decode_hiding(body, &Secrets::default())
    }

    /// As [`decode`](Self::decode), for a reply that may quote these secrets.
    pub(in crate::registry::consul) fn decode_hiding(
        &mut self,
        body: &[u8],
        secrets: &Secrets,
    ) -> Result<Decoded, serde_json::Error> {
        let elements = elements(body, self.most_records)?;
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
                        Rejected::new(secrets.shown(&record), secrets.shown(&reason))
                    });
                }
            }
        }
        self.known = known;
        // Here, because this may be a thread for blocking work; the catalog sorts only what is not sorted.
        decoded.instances.sort_by(|a, b| a.key.cmp(&b.key));
        // A few elements only, because each is parsed again for this.
        let first = elements.iter().take(8);
        decoded.witness = first.into_iter().find_map(|element| Witness::of(element));
        Ok(decoded)
    }

    fn read(&self, text: &str) -> Result<Instance, String> {
        let entry: HealthEntry<'_> =
            serde_json::from_str(text).map_err(|error| error.to_string())?;
        entry.instance(&self.service, self.tagged_address.as_deref())
    }
}

/// Returns a name for an element that cannot be used, if it has one.
fn id_of(element: &RawValue) -> Option<String> {
    #[derive(Deserialize)]
    #[serde(rename_all = "PascalCase")]
    struct Named<'a> {
        #[serde(borrow)]
        service: Id<'a>,
        #[serde(borrow, default)]
        node: Option<&'a RawValue>,
    }
    #[derive(Deserialize)]
    struct Id<'a> {
        #[serde(rename = "ID", borrow)]
        id: Cow<'a, str>,
    }
    #[derive(Deserialize)]
    #[serde(rename_all = "PascalCase")]
    struct Node<'a> {
        #[serde(borrow)]
        node: Cow<'a, str>,
    }
    let Named { service, node } = serde_json::from_str(element.get()).ok()?;
    let node = node.and_then(|node| serde_json::from_str::<Node<'_>>(node.get()).ok());
    Some(match node {
        Some(Node { node }) => format!("{} on node {node}", service.id),
        None => service.id.into_owned(),
    })
}
