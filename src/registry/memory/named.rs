//! The named registries of this process, which a URL can refer to.

use std::{
    collections::HashMap,
    sync::{Arc, LazyLock, Mutex, Weak},
};

use super::{limits::MemoryLimits, record::Defaults, shared::MemoryShared, store::Store};
use crate::sync::lock;

static NAMED: LazyLock<Mutex<HashMap<String, Weak<MemoryShared>>>> = LazyLock::new(Mutex::default);

/// Returns the registry with that name; creates it if no handle to it exists.
pub(super) fn find(name: &str) -> Arc<MemoryShared> {
    // The map is consistent wherever the holder of the lock could panic.
    let mut named = lock(&NAMED);
    if let Some(shared) = named.get(name).and_then(Weak::upgrade) {
        return shared;
    }
    named.retain(|_, shared| shared.strong_count() > 0);
    let label = if name.is_empty() {
        "memory".to_owned()
    } else {
        format!("memory:{name}")
    };
    let (defaults, limits) = (Defaults::default(), MemoryLimits::default());
    let shared = MemoryShared::new(label.into(), defaults, limits, Store::new(), None);
    named.insert(name.to_owned(), Arc::downgrade(&shared));
    shared
}
