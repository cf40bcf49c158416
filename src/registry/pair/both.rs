//! The registry that two others make.

use std::{fmt, sync::Arc, time::Duration};

use tokio::{sync::Notify, time::Instant};

use super::{combine::Combine, follow::follow, rule::Rule};
#[cfg(feature = "server")]
use crate::instance::Address;
use crate::{
    error::{ConfigError, RegistryError},
    registry::{
        Announcement, Query, Registry,
        origin::{Origin, Work},
        registration::Prepared,
    },
};

/// Two registries that are used as one.
struct Pair {
    name: Arc<str>,
    halves: [Registry; 2],
    rule: Rule,
}

/// Makes a registry of two. `part` is the part of the crate that errors name.
pub(super) fn both(part: &str, halves: [Registry; 2], rule: Rule) -> Result<Registry, ConfigError> {
    let [first, second] = &halves;
    if Arc::ptr_eq(&first.0, &second.0) {
        let why = "it is the same registry as the first one";
        return Err(ConfigError::new(format!("{part}.second"), why));
    }
    let with = match rule {
        Rule::Merge => "and",
        Rule::Failover(_) => "or else",
    };
    let name = format!("{} {with} {}", first.name(), second.name()).into();
    let pair = Pair { name, halves, rule };
    // A watch that goes on without a handle does so in each half.
    Ok(Registry::of(Box::new(pair), Duration::ZERO))
}

impl fmt::Debug for Pair {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [first, second] = &self.halves;
        let mut debug = f.debug_struct("Pair");
        debug.field("first", first).field("second", second);
        debug.field("rule", &self.rule).finish()
    }
}

impl Origin for Pair {
    fn name(&self) -> Arc<str> {
        Arc::clone(&self.name)
    }

    #[cfg(feature = "server")]
    fn address(&self) -> Option<Address> {
        self.halves.iter().find_map(Registry::address)
    }

    fn watch(&self, query: &Query, again: &Arc<Notify>) -> Result<Work, RegistryError> {
        let [first, second] = &self.halves;
        let watches = [first.watch(query.clone())?, second.watch(query.clone())?];
        let combine = Combine::new(self.rule, [first.name(), second.name()], Instant::now());
        let again = Arc::clone(again);
        Ok(Box::new(move |cell| {
            Box::pin(async move { follow(watches, combine, &cell, &again).await })
        }))
    }

    fn register(&self, announcement: &Announcement) -> Result<Vec<Prepared>, RegistryError> {
        let [first, second] = &self.halves;
        let mut prepared = first.prepare(announcement)?;
        prepared.append(&mut second.prepare(announcement)?);
        Ok(prepared)
    }
}
