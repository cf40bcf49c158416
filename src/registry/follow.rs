//! Hands the watches of a discovery to the balancer above it.
//!
//! tower's `Discover` can only report inserts and removes. A balancer without endpoints must also know
//! whether the registry has no such service, refuses access, or has not responded for a minute.
//! [`Discover`](crate::discover::Discover) has the watch, but the user may have merged, filtered or
//! boxed it. So a balancer polls its discovery within [`followed`], and the discovery adds its watch to
//! the current list.
//!
//! This costs a thread-local access per poll until the watch has been handed over. If another task
//! stands between the two, the user passes the watch with
//! [`BalanceBuilder::watch`](crate::balance::BalanceBuilder::watch).

use std::{
    cell::Cell,
    sync::{Arc, Weak},
};

use super::Watch;
use crate::ambient::during;

thread_local! {
    /// The list of the balancer that is polling; `None` if none is.
    static FOLLOWED: Cell<Option<Vec<Followed>>> = const { Cell::new(None) };
}

/// A watch, followed for as long as the discovery that uses it lives.
#[derive(Debug)]
pub(crate) struct Followed {
    pub(crate) watch: Watch,
    follower: Option<Weak<()>>,
}

/// The part of a discovery that hands over its watch.
#[derive(Debug)]
pub(crate) struct Follower {
    life: Arc<()>,
    /// The watch, until it is handed to a balancer.
    untold: Option<Watch>,
}

impl Followed {
    /// Creates it for a watch that the user passed; it is followed until the user removes it.
    pub(crate) fn given(watch: Watch) -> Self {
        Self {
            watch,
            follower: None,
        }
    }

    /// Ties the watch to the discovery of `other`, which uses the same watch and may live longer. A
    /// watch that the user passed is not tied to a discovery.
    pub(crate) fn follow_with(&mut self, other: &Self) {
        if self.follower.is_some() {
            self.follower.clone_from(&other.follower);
        }
    }

    /// Whether the discovery that used the watch was dropped.
    pub(crate) fn is_over(&self) -> bool {
        let mut follower = self.follower.iter();
        follower.any(|follower| follower.strong_count() == 0)
    }
}

impl Follower {
    pub(crate) fn new(watch: Watch) -> Self {
        Self {
            life: Arc::default(),
            untold: Some(watch),
        }
    }

    /// Hands the watch to the balancer that is polling; only the first balancer gets it.
    pub(crate) fn tell(&mut self) {
        if self.untold.is_none() {
            return;
        }
        if let Some(mut followed) = FOLLOWED.take() {
            let follower = Some(Arc::downgrade(&self.life));
            followed.extend(self.untold.take().map(|watch| Followed { watch, follower }));
            FOLLOWED.set(Some(followed));
        }
    }
}

/// Polls a discovery by calling `ask`. Adds to the list `watches` each watch that the discovery hands over,
/// even if it panics.
pub(crate) fn followed<T>(watches: &mut Option<Vec<Followed>>, ask: impl FnOnce() -> T) -> T {
    during(&FOLLOWED, watches, ask)
}

#[cfg(test)]
mod tests {
    use std::panic::{AssertUnwindSafe, catch_unwind};

    use super::*;
    use crate::registry;

    #[tokio::test]
    async fn a_watch_is_told_once_to_whoever_asks_first_and_a_panic_loses_none() {
        let registry = registry::connect("fixed:10.0.0.1:80").unwrap();
        let follower = |service: &str| Follower::new(registry.watch(service).unwrap());
        let mut web = follower("web");
        web.tell();
        assert!(web.untold.is_some(), "no balancer polls");

        let (mut outer, mut inner) = (Some(Vec::new()), Some(Vec::new()));
        let panicked = catch_unwind(AssertUnwindSafe(|| {
            followed(&mut outer, || {
                followed(&mut inner, || web.tell());
                web.tell();
                follower("api").tell();
                panic!("a discovery that panics");
            })
        }));
        assert!(panicked.is_err());
        let services = |watches: &Option<Vec<Followed>>| -> Vec<(String, bool)> {
            let told = |it: &Followed| (it.watch.query().service().to_string(), it.is_over());
            watches.iter().flatten().map(told).collect()
        };
        assert_eq!(services(&inner), [("web".to_owned(), false)]);
        assert_eq!(services(&outer), [("api".to_owned(), true)]);
        drop(web);
        assert_eq!(services(&inner), [("web".to_owned(), true)]);
        let mut late = follower("late");
        late.tell();
        assert!(late.untold.is_some(), "no balancer polls any more");
    }
}
