//! An element of a reply as Consul writes it, read leniently.

use std::{borrow::Cow, collections::BTreeMap, fmt, marker::PhantomData};

use serde::{
    Deserialize, Deserializer,
    de::{Error as _, SeqAccess, Visitor},
};

/// The largest size of tags, and of metadata, in bytes. Consul's own limits (64 pairs of at most 128 +
/// 512 bytes) allow 40 KiB.
pub(super) const MAX_LABELS: usize = 64 << 10;

/// The most elements of a list inside of a record. Arbitrary: more than [`MAX_LABELS`] permits for tags
/// of one byte.
const MOST_ELEMENTS: usize = 64 << 10;

/// A text that borrows from the reply unless it contains escapes. (serde does not let a `Cow` borrow
/// inside an `Option` or a list.)
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Text<'a>(Cow<'a, str>);

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
pub struct HealthEntry<'a> {
    #[serde(borrow)]
    pub(super) node: EntryNode<'a>,
    #[serde(borrow)]
    pub(super) service: EntryService<'a>,
    #[serde(borrow, default, deserialize_with = "few")]
    pub(super) checks: Option<Vec<EntryCheck<'a>>>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct EntryNode<'a> {
    #[serde(borrow)]
    pub(super) node: Text<'a>,
    #[serde(borrow, default)]
    pub(super) address: Text<'a>,
    #[serde(borrow, default)]
    pub(super) datacenter: Text<'a>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct EntryService<'a> {
    #[serde(rename = "ID", borrow)]
    pub(super) id: Text<'a>,
    #[serde(borrow, default, deserialize_with = "few")]
    pub(super) tags: Option<Vec<Text<'a>>>,
    #[serde(borrow, default)]
    pub(super) address: Text<'a>,
    #[serde(default)]
    pub(super) port: Option<i64>,
    #[serde(borrow, default, deserialize_with = "few")]
    pub(super) ports: Option<Vec<EntryPort<'a>>>,
    #[serde(borrow, default)]
    pub(super) meta: Option<Pairs<'a>>,
    #[serde(default)]
    pub(super) weights: Option<EntryWeights>,
    #[serde(borrow, default)]
    pub(super) tagged_addresses: Option<BTreeMap<Text<'a>, TaggedAddress<'a>>>,
    #[serde(borrow, default)]
    pub(super) locality: Option<EntryLocality<'a>>,
    #[serde(borrow, default)]
    pub(super) namespace: Text<'a>,
    #[serde(borrow, default)]
    pub(super) partition: Text<'a>,
    #[serde(borrow, default)]
    pub(super) peer_name: Text<'a>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct EntryCheck<'a> {
    #[serde(rename = "CheckID", borrow, default)]
    pub(super) check_id: Text<'a>,
    #[serde(borrow, default)]
    pub(super) status: Text<'a>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct EntryWeights {
    #[serde(default)]
    pub(super) passing: Option<i64>,
    #[serde(default)]
    pub(super) warning: Option<i64>,
}

/// Consul capitalises these names, although its documentation also shows them in lower case.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct TaggedAddress<'a> {
    #[serde(borrow, default, alias = "address")]
    pub(super) address: Text<'a>,
    #[serde(default, alias = "port")]
    pub(super) port: Option<i64>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct EntryLocality<'a> {
    #[serde(borrow, default)]
    pub(super) zone: Text<'a>,
}

/// One of several ports of an instance, a feature of newer versions.
#[derive(Debug, Deserialize)]
pub(super) struct EntryPort<'a> {
    #[serde(borrow, default, alias = "Name")]
    pub(super) name: Text<'a>,
    #[serde(alias = "Port")]
    pub(super) port: i64,
    #[serde(default, alias = "Default")]
    pub(super) default: bool,
}

/// A list of not too many elements, or null.
fn few<'de, D, T>(deserializer: D) -> Result<Option<Vec<T>>, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de>,
{
    struct Few<T>(PhantomData<T>);
    impl<'de, T: Deserialize<'de>> Visitor<'de> for Few<T> {
        type Value = Option<Vec<T>>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a list")
        }

        fn visit_unit<E>(self) -> Result<Self::Value, E> {
            Ok(None)
        }

        fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Self::Value, A::Error> {
            let mut elements = Vec::new();
            while let Some(element) = list.next_element()? {
                if elements.len() == MOST_ELEMENTS {
                    let many = format!("a list of more than {MOST_ELEMENTS} elements");
                    return Err(A::Error::custom(many));
                }
                elements.push(element);
            }
            Ok(Some(elements))
        }
    }
    deserializer.deserialize_any(Few(PhantomData))
}

/// A map of texts as a list of pairs, which is cheaper to build.
#[derive(Debug, Default)]
pub(super) struct Pairs<'a>(pub(super) Vec<(Text<'a>, Text<'a>)>);

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
                    if size > MAX_LABELS || pairs.len() == MOST_ELEMENTS {
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
