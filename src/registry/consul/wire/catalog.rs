//! The list of all services of a datacenter.

use std::{borrow::Cow, fmt};

use serde::{
    Deserializer as _,
    de::{IgnoredAny, MapAccess, Visitor},
};

/// Whether a list of services names `service`. The list is not kept, because it may be long.
///
/// # Errors
/// When it is no list of services.
pub(in crate::registry::consul) fn names(
    list: &[u8],
    service: &str,
) -> Result<bool, serde_json::Error> {
    struct Find(String);
    impl<'de> Visitor<'de> for Find {
        type Value = bool;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("an object of services")
        }

        fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<bool, A::Error> {
            let mut found = false;
            while let Some((name, _)) = map.next_entry::<Cow<'de, str>, IgnoredAny>()? {
                // Consul finds names regardless of case.
                found |= name.to_lowercase() == self.0;
            }
            Ok(found)
        }
    }
    serde_json::Deserializer::from_slice(list).deserialize_map(Find(service.to_lowercase()))
}
