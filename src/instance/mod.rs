//! The record of one instance in a registry.
//!
//! An [`Instance`] is data: it holds no connection and starts nothing. Every later stage identifies it
//! by its [`Key`]: load, weight and connections survive any update that keeps the key. So the key is the
//! identity *in the registry* (an id, and the scope within which that id is unique), never the address.
//! Addresses are reused; ids should not be.

mod address;

pub use self::address::{Address, AddressError, Host};

use std::{any::Any, collections::BTreeMap, fmt, sync::Arc};

use crate::text::Escaped;

/// The identity of an instance among all instances of a service.
///
/// Two records with equal keys are the same process; all other data of it may change. The `scope` is
/// empty for registries whose ids are unique. For Consul it is `datacenter/node`, because Consul's
/// service ids are unique on one agent only.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Key {
    id: Arc<str>,
    /// `None` instead of an empty scope, because most scopes are empty.
    scope: Option<Arc<str>>,
}

impl Key {
    /// Creates a key from an id and the scope within which that id is unique (may be empty).
    pub fn new(id: impl Into<Arc<str>>, scope: impl Into<Arc<str>>) -> Self {
        Self {
            id: id.into(),
            scope: Some(scope.into()).filter(|scope| !scope.is_empty()),
        }
    }

    /// The key of an endpoint by the name that a discovery gives it: keys of this crate and strings as they
    /// are, other types by their `Debug` output.
    pub(crate) fn of_name<K: fmt::Debug + 'static>(name: &K) -> Self {
        let any: &dyn Any = name;
        if let Some(key) = any.downcast_ref::<Self>() {
            key.clone()
        } else if let Some(name) = any.downcast_ref::<String>() {
            Self::new(name.as_str(), "")
        } else if let Some(name) = any.downcast_ref::<&'static str>() {
            Self::new(*name, "")
        } else {
            Self::new(format!("{name:?}"), "")
        }
    }

    /// Returns the id that the instance registered with.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Returns the scope within which the id is unique; empty if it is unique everywhere.
    pub fn scope(&self) -> &str {
        self.scope.as_deref().unwrap_or_default()
    }
}

/// Control characters are escaped, because a registry may hold any text.
impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.scope {
            None => Escaped(&self.id).fmt(f),
            Some(scope) => write!(f, "{}@{}", Escaped(&self.id), Escaped(scope)),
        }
    }
}

/// The configured share of traffic of an instance, relative to the other instances; 0 drains it.
///
/// The maximum is 65 535, as in Consul, so that the sum over any set fits into 64 bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Weight(u16);

impl Weight {
    /// No new traffic.
    pub const ZERO: Self = Self(0);
    /// The weight of an instance if the registry sets none.
    pub const ONE: Self = Self(1);
    /// The largest weight.
    pub const MAX: Self = Self(u16::MAX);

    /// Clamps any number that a registry may hold: a negative one becomes 0, a too large one
    /// [`Weight::MAX`].
    pub fn clamped(weight: i64) -> Self {
        Self(weight.clamp(0, u16::MAX.into()) as u16)
    }

    /// Returns the weight as a number from 0 to 65 535.
    pub fn get(self) -> u32 {
        self.0.into()
    }
}

impl Default for Weight {
    fn default() -> Self {
        Self::ONE
    }
}

impl From<u16> for Weight {
    fn from(weight: u16) -> Self {
        Self(weight)
    }
}

impl From<Weight> for u16 {
    fn from(weight: Weight) -> Self {
        weight.0
    }
}

impl fmt::Display for Weight {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The state of an instance according to the registry's health checks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Status {
    /// Every check passes, or the instance has none.
    #[default]
    Passing,
    /// At least one check warns. The instance serves, usually with a smaller weight.
    Warning,
    /// At least one check fails. The instance gets no traffic.
    Critical,
    /// An operator put the instance into maintenance. It gets no traffic.
    Maintenance,
}

impl Status {
    /// Whether an instance with this status may get traffic.
    pub fn is_serving(self) -> bool {
        matches!(self, Self::Passing | Self::Warning)
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Passing => "passing",
            Self::Warning => "warning",
            Self::Critical => "critical",
            Self::Maintenance => "maintenance",
        })
    }
}

/// The record of one instance in a registry.
///
/// # Examples
/// ```
/// use tower_roster::Instance;
///
/// let instance = Instance::new("user-service", "user-1", "127.0.0.1:8080".parse()?)
///     .weight(3)
///     .zone("eu-1a")
///     .tag("v2")
///     .meta("model", "large");
/// assert_eq!(instance.address.to_string(), "127.0.0.1:8080");
/// # Ok::<_, tower_roster::instance::AddressError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Instance {
    /// The identity; see [`Key`].
    pub key: Key,
    /// The service that the instance belongs to.
    pub service: Arc<str>,
    /// The address that the instance listens on.
    pub address: Address,
    /// The configured share of the traffic.
    pub weight: Weight,
    /// The failure domain of the instance (a rack, a zone, a datacenter), if known.
    pub zone: Option<Arc<str>>,
    /// The state according to the registry's health checks.
    pub status: Status,
    /// Labels, in the registry's order.
    pub tags: Vec<String>,
    /// Names and values without a meaning to this crate, unless a setting names one.
    pub metadata: BTreeMap<String, String>,
    /// Grows when the same id is registered again, if the registry reports that; 0 otherwise.
    pub generation: u64,
}

impl Instance {
    /// Creates a passing instance of weight 1, without zone, tags and metadata.
    pub fn new(service: impl Into<Arc<str>>, id: impl Into<Arc<str>>, address: Address) -> Self {
        Self {
            key: Key::new(id, ""),
            service: service.into(),
            address,
            weight: Weight::ONE,
            zone: None,
            status: Status::Passing,
            tags: Vec::new(),
            metadata: BTreeMap::new(),
            generation: 0,
        }
    }

    /// Returns the id that the instance registered with.
    pub fn id(&self) -> &str {
        self.key.id()
    }

    /// Whether all fields but the key are equal; the cheapest comparisons come first.
    pub(crate) fn says_the_same(&self, other: &Self) -> bool {
        let Self {
            key: _,
            service,
            address,
            weight,
            zone,
            status,
            tags,
            metadata,
            generation,
        } = self;
        (*weight, *status, *generation) == (other.weight, other.status, other.generation)
            && *address == other.address
            && *zone == other.zone
            && *tags == other.tags
            && *metadata == other.metadata
            && (Arc::ptr_eq(service, &other.service) || *service == other.service)
    }

    /// Sets the weight, from 0 (drain) to 65 535; 1 by default.
    #[must_use]
    pub fn weight(mut self, weight: u16) -> Self {
        self.weight = weight.into();
        self
    }

    /// Sets the zone; none by default, and none if it is blank.
    #[must_use]
    pub fn zone(mut self, zone: impl Into<Arc<str>>) -> Self {
        let zone: Arc<str> = zone.into();
        self.zone = Some(zone).filter(|zone| !zone.trim().is_empty());
        self
    }

    /// Adds a tag.
    #[must_use]
    pub fn tag(mut self, tag: impl Into<String>) -> Self {
        self.tags.push(tag.into());
        self
    }

    /// Adds a name and value to the metadata. An equal name gets the new value.
    #[must_use]
    pub fn meta(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.metadata.insert(name.into(), value.into());
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weights_are_clamped_to_their_range() {
        for (raw, weight) in [
            (i64::MIN, 0),
            (-1, 0),
            (0, 0),
            (7, 7),
            (70_000, 65_535),
            (i64::MAX, 65_535),
        ] {
            assert_eq!(Weight::clamped(raw).get(), weight);
        }
    }

    #[test]
    fn keys_show_their_scope_only_when_they_have_one() {
        assert_eq!(Key::new("web-1", "").to_string(), "web-1");
        assert_eq!(Key::new("web-1", "dc1/n1").to_string(), "web-1@dc1/n1");
        let forged = Key::new("web\nWARN forged", "dc\u{1b}[2J");
        assert_eq!(forged.to_string(), "web\\nWARN forged@dc\\u{1b}[2J");
    }
}
