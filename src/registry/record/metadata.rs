//! What the metadata of other libraries mean.

use std::collections::BTreeMap;

use crate::instance::{Instance, Status, Weight};

/// Sets the metadata of an instance, and takes weight and zone from it where the record has no fields of
/// its own for them.
pub(super) fn with_metadata(
    mut instance: Instance,
    metadata: BTreeMap<String, String>,
) -> Instance {
    let weight = metadata
        .get("weight")
        .and_then(|text| text.trim().parse().ok());
    if let Some(weight) = weight {
        instance.weight = Weight::clamped(weight);
    }
    if let Some(zone) = metadata.get("zone") {
        instance = instance.zone(zone.as_str());
    }
    // Spring's; any other value than UP means that the instance does not serve.
    instance.status = match metadata.get("instance_status").map(String::as_str) {
        None | Some("UP") => instance.status,
        Some("OUT_OF_SERVICE") => Status::Maintenance,
        Some(_) => Status::Critical,
    };
    instance.metadata = metadata;
    instance
}
