//! The JSON of etcd's gateway, as 3.4 and 3.5 write it.
//!
//! Keys and values are base64, and 64-bit numbers are text. Fields that are zero, false or empty are
//! left out. The two versions differ in the field of an error's code and text.

use std::{borrow::Cow, fmt, marker::PhantomData, str::FromStr};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde::{
    Deserialize, Deserializer, Serialize,
    de::{self, Visitor},
};

/// What precedes every reply.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct Header {
    /// The cluster.
    #[serde(deserialize_with = "number")]
    pub cluster_id: u64,
    /// The revision of the store.
    #[serde(deserialize_with = "number")]
    pub revision: i64,
}

/// A key and its value; the value is empty if only keys were asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct KeyValue {
    /// The key.
    #[serde(deserialize_with = "bytes")]
    pub key: Vec<u8>,
    /// The value.
    #[serde(deserialize_with = "bytes")]
    pub value: Vec<u8>,
    /// The revision at which the key was created.
    #[serde(deserialize_with = "number")]
    pub create_revision: i64,
    /// The revision of the last change.
    #[serde(deserialize_with = "number")]
    pub mod_revision: i64,
    /// The number of changes since the key was created.
    #[serde(deserialize_with = "number")]
    pub version: i64,
    /// The lease; 0 for none.
    #[serde(deserialize_with = "number")]
    pub lease: i64,
}

/// A reply to `/v3/kv/range`.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct RangeReply {
    /// The state of the store.
    pub header: Header,
    /// The keys, up to the limit.
    pub kvs: Vec<KeyValue>,
    /// Whether there are more keys in the range.
    pub more: bool,
    /// The number of keys in the range, without the limit.
    #[serde(deserialize_with = "number")]
    pub count: i64,
}

/// A reply to `/v3/kv/txn`, of which only the outcome is used.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct TxnReply {
    /// Whether the comparisons held.
    pub succeeded: bool,
}

/// A reply to `/v3/lease/grant`.
#[derive(Debug, Deserialize)]
pub struct GrantReply {
    /// The lease.
    #[serde(rename = "ID", deserialize_with = "number")]
    pub id: i64,
    /// The seconds that it lives without being kept alive.
    #[serde(rename = "TTL", default, deserialize_with = "number")]
    pub ttl: i64,
}

/// A reply to `/v3/lease/keepalive`, which is one line of a stream.
#[derive(Debug, Deserialize)]
pub struct KeepAliveReply {
    /// The state of the lease.
    pub result: Option<KeptAlive>,
    /// Why there is none.
    pub error: Option<Failure>,
}

/// The state of a lease that was to be kept alive.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct KeptAlive {
    /// The seconds that it lives from now on; 0 if it is gone.
    #[serde(rename = "TTL", deserialize_with = "number")]
    pub ttl: i64,
}

/// A reply to `/v3/auth/authenticate`.
#[derive(Deserialize)]
pub(super) struct TokenReply {
    /// The token for further requests.
    pub(super) token: String,
}

/// One line of `/v3/watch`.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct WatchLine {
    result: Option<WatchResult>,
    error: Option<Failure>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct WatchResult {
    header: Header,
    created: bool,
    canceled: bool,
    #[serde(deserialize_with = "number")]
    compact_revision: i64,
    cancel_reason: String,
    events: Vec<Event>,
}

/// A change of one key.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct Event {
    /// `DELETE`, or empty for a key that was written.
    #[serde(rename = "type")]
    pub kind: String,
    /// The key after the change; a deletion has its key and its revision only.
    pub kv: KeyValue,
}

impl Event {
    /// Whether the key was deleted.
    pub fn is_delete(&self) -> bool {
        self.kind == "DELETE"
    }
}

/// An error of etcd.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct Failure {
    /// gRPC's code.
    #[serde(alias = "grpc_code", deserialize_with = "number")]
    pub code: i64,
    message: String,
    error: String,
}

impl Failure {
    /// Reads the body of a reply that is no success.
    pub fn parse(body: &[u8]) -> Option<Self> {
        let failure: Self = serde_json::from_slice(body).ok()?;
        Some(failure).filter(|failure| failure.code != 0)
    }

    /// Returns etcd's explanation.
    pub fn text(&self) -> &str {
        if self.message.is_empty() {
            &self.error
        } else {
            &self.message
        }
    }
}

/// What a line of a watch says.
#[derive(Debug, PartialEq, Eq)]
pub enum Said {
    /// The server ends the watch.
    Failed(Failure),
    /// The revisions that the watch began at are no longer stored.
    Compacted,
    /// The server refuses the watch, for this reason, and leaves the stream open.
    Canceled(String),
    /// The watch goes on. The first line has no events; it was created then.
    Live {
        /// The state of the store.
        header: Header,
        /// Whether the watch was created by this line.
        created: bool,
        /// Changes, in the order of their revisions.
        events: Vec<Event>,
    },
}

impl WatchLine {
    /// Reads a line. The order of the questions matters (ED5, ED14): a refused watch is `created` and
    /// `canceled` at once, and a line without either is a change.
    pub fn judge(self) -> Option<Said> {
        if let Some(failure) = self.error {
            return Some(Said::Failed(failure));
        }
        let result = self.result?;
        Some(match result {
            WatchResult {
                canceled: true,
                compact_revision,
                ..
            } if compact_revision > 0 => Said::Compacted,
            WatchResult {
                canceled: true,
                cancel_reason,
                ..
            } => Said::Canceled(cancel_reason),
            WatchResult {
                header,
                created,
                events,
                ..
            } => Said::Live {
                header,
                created,
                events,
            },
        })
    }
}

/// Bytes in a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Base64(pub Vec<u8>);

impl Serialize for Base64 {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&STANDARD.encode(&self.0))
    }
}

fn bytes<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<u8>, D::Error> {
    let text = Cow::<'de, str>::deserialize(deserializer)?;
    STANDARD.decode(&*text).map_err(de::Error::custom)
}

/// Reads a number, or the text of one.
fn number<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: FromStr + TryFrom<i64> + TryFrom<u64>,
{
    struct Number<T>(PhantomData<T>);

    impl<T: FromStr + TryFrom<i64> + TryFrom<u64>> Visitor<'_> for Number<T> {
        type Value = T;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a whole number of 64 bits, or its text")
        }

        fn visit_i64<E: de::Error>(self, number: i64) -> Result<T, E> {
            T::try_from(number).map_err(|_| E::custom(format!("{number} is out of range")))
        }

        fn visit_u64<E: de::Error>(self, number: u64) -> Result<T, E> {
            T::try_from(number).map_err(|_| E::custom(format!("{number} is out of range")))
        }

        fn visit_str<E: de::Error>(self, text: &str) -> Result<T, E> {
            let invalid = || E::invalid_value(de::Unexpected::Str(text), &self);
            text.parse().map_err(|_| invalid())
        }
    }

    deserializer.deserialize_any(Number(PhantomData))
}
