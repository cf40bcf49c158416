//! Which watches a discovery follows.
//!
//! tower's `Discover` can only insert and remove. A balancer without endpoints must also know whether the
//! registry has no such service, refuses access, or has not answered for a minute. Our
//! [`Discover`](crate::discover::Discover) knows its watch, but the user may have merged, filtered or boxed
//! it. So a balancer polls its discovery within [`followed`], and our discovery adds its watch to the
//! current list.
//!
//! It costs a thread-local access until the watch has been handed over. Where another task stands between
//! the two, the user names the watch with
//! [`BalanceLayer::watch`](crate::balance::BalanceLayer::watch).

use std::{
    cell::Cell,
    sync::{Arc, Weak},
};

use super::Watch;
use crate::ambient::during;

thread_local! {
    /// `None` while no balancer polls.
    static FOLLOWED: Cell<Option<Vec<Followed>>> = const { Cell::new(None) };
}

/// A watch that a discovery follows while that discovery lives.
#[derive(Debug)]
pub(crate) struct Followed {
    pub(crate) watch: Watch,
    follower: Option<Weak<()>>,
}

/// A discovery that follows a watch.
#[derive(Debug)]
pub(crate) struct Follower {
    life: Arc<()>,
    /// Until a balancer was told of it.
    untold: Option<Watch>,
}

impl Followed {
    /// A watch that the user named; it is followed until the user takes it back.
    pub(crate) fn given(watch: Watch) -> Self {
        Self {
            watch,
            follower: None,
        }
    }

    /// Ties the watch to the discovery of `other`, which follows the same one and may live longer. A watch
    /// that the user named stays.
    pub(crate) fn follow_with(&mut self, other: &Self) {
        if self.follower.is_some() {
            self.follower.clone_from(&other.follower);
        }
    }

    /// Whether the discovery that followed it was dropped.
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

    /// Tells the balancer that polls now of the watch; only the first one is told.
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

/// Polls a discovery by `ask`. Adds to `watches` those that it follows and has not told of before.
pub(crate) fn followed<T>(watches: &mut Vec<Followed>, ask: impl FnOnce() -> T) -> T {
    /// Keeps what was told also when the discovery panics.
    struct Told<'a> {
        watches: &'a mut Vec<Followed>,
        told: Option<Vec<Followed>>,
    }
    impl Drop for Told<'_> {
        fn drop(&mut self) {
            self.watches.extend(self.told.take().into_iter().flatten());
        }
    }
    let mut told = Told {
        watches,
        told: Some(Vec::new()),
    };
    during(&FOLLOWED, &mut told.told, ask)
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

        let (mut outer, mut inner) = (Vec::new(), Vec::new());
        let panicked = catch_unwind(AssertUnwindSafe(|| {
            followed(&mut outer, || {
                followed(&mut inner, || web.tell());
                web.tell();
                follower("api").tell();
                panic!("a discovery that panics");
            })
        }));
        assert!(panicked.is_err());
        let services = |watches: &[Followed]| -> Vec<(String, bool)> {
            let told = |it: &Followed| (it.watch.query().service().to_string(), it.is_over());
            watches.iter().map(told).collect()
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
