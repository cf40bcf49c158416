//! An instance as stored text, in the formats that other libraries write.
//!
//! ZooKeeper and etcd store bytes under names; what an instance looks like is left to each library. One
//! decoder reads all the formats below. It recognises a format by the shape of the value, so a service
//! may have instances that different libraries registered:
//!
//! | written by | value | id |
//! |---|---|---|
//! | this crate, Curator, Spring Cloud, Dubbo (by application) | `{"id": …, "address": …, "port": …}` | its `id` |
//! | Finagle serverset | `{"serviceEndpoint": {"host": …, "port": …}, "status": "ALIVE"}` | the address |
//! | gRPC naming | `{"Addr": "host:port", "Metadata": …}` | the address |
//! | kitex | `{"network": "tcp", "address": "host:port", "weight": …, "tags": {…}}` | the address |
//! | go-micro | `{"name": …, "nodes": [{"id": …, "address": "host:port"}]}` | that of its node |
//! | kratos | `{"id": …, "endpoints": ["grpc://host:port"], "metadata": {…}}` | its `id` |
//! | go-zero, go-kit, Armeria, by hand | `host:port`, `http://host:port` or `host:port:weight` | the address |
//! | by hand | nothing; the name is `host:port` | the address |
//! | Dubbo (by interface) | anything; the name is an encoded `dubbo://` URL | the address |
//!
//! Dubbo's last format is read only if [`RecordFormat::dubbo`] asks for it. Where a format has no id, the
//! address identifies the instance, because such libraries store an instance under a new name after each
//! loss.
//!
//! A record that cannot be used costs itself only: the other instances of the service stay in use, and
//! the view lists the record with the reason.
//!
//! [`encode`] writes one format, Curator's, with fields of this crate beside it. Curator ignores them. But
//! one record that a Java client cannot read makes it fail the whole service, so `payload`, whose type
//! each Java client chooses, is always null.

mod address;
mod encode;
mod error;
mod json;
mod metadata;
mod name;

pub use self::{
    encode::encode,
    error::RecordError,
    name::{decode_name, encode_name},
};

use std::sync::Arc;

use crate::instance::Instance;

/// The longest value that is read, in bytes. A record has some hundred bytes; a value of a megabyte is no
/// record, and parsed JSON needs many times its length.
pub const LONGEST_RECORD: usize = 64 << 10;

/// How to read the records of a registry.
///
/// # Examples
/// ```
/// use tower_roster::registry::record::RecordFormat;
///
/// let format = RecordFormat::new();
/// let instance = format.decode(&"web".into(), "7587861234567890123", b"10.0.0.7:8080")?;
/// assert_eq!(instance.id(), "10.0.0.7:8080");
///
/// // A serverset with a port for requests and one for its administrators.
/// let record = br#"{"serviceEndpoint": {"host": "10.0.0.7", "port": 8080},
///     "additionalEndpoints": {"admin": {"host": "10.0.0.7", "port": 9990}}, "status": "ALIVE"}"#;
/// let admin = format.endpoint("admin").decode(&"web".into(), "member_0000000012", record)?;
/// assert_eq!(admin.address.port(), 9990);
/// # Ok::<_, tower_roster::registry::record::RecordError>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[must_use = "settings do nothing until they are used"]
pub struct RecordFormat {
    dubbo: bool,
    endpoint: Option<Arc<str>>,
}

impl RecordFormat {
    /// Creates the default: every format but Dubbo's by interface, and the first endpoint of a record.
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets whether names that are encoded `dubbo://` URLs are records; false by default.
    pub fn dubbo(mut self, dubbo: bool) -> Self {
        self.dubbo = dubbo;
        self
    }

    /// Sets which endpoint of a record with several is used: the name of an additional endpoint of a
    /// serverset, or the scheme of an endpoint of kratos. By default the service endpoint, and the first
    /// one. A record without that endpoint cannot be used.
    pub fn endpoint(mut self, name: impl Into<Arc<str>>) -> Self {
        self.endpoint = Some(name.into());
        self
    }

    #[cfg(feature = "zookeeper")]
    pub(super) fn is_dubbo(&self) -> bool {
        self.dubbo
    }

    /// Reads a record of `service` that is stored under `name`, the last part of its path.
    ///
    /// # Errors
    /// When the record has no known format, or has no usable address.
    pub fn decode(
        &self,
        service: &Arc<str>,
        name: &str,
        value: &[u8],
    ) -> Result<Instance, RecordError> {
        let name = decode_name(name);
        if self.dubbo && name.contains("://") {
            return address::decode_dubbo(service, &name);
        }
        if value.len() > LONGEST_RECORD {
            let why = format!("it has {} bytes, at most {LONGEST_RECORD}", value.len());
            return Err(RecordError::new(why));
        }
        let text = std::str::from_utf8(value).map_err(|_| RecordError::new("it is not UTF-8"))?;
        match text.trim() {
            "" => address::decode_plain(service, &name, address::Schemes::None),
            text if text.starts_with('{') => {
                json::decode(self.endpoint.as_deref(), service, &name, text)
            }
            text => address::decode_plain(service, text, address::Schemes::Any),
        }
    }
}

#[cfg(test)]
mod tests;
