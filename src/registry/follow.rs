//! Which watches a discovery follows.
//!
//! tower's discovery has two words, insert and remove. It cannot say that the registry knows no such
//! service, refuses to tell, or has been silent for a minute, and a balancer that has no endpoint must
//! tell these apart. The [`Discover`](crate::discover::Discover) knows, but stands below whatever
//! adaptors the user put between: merged with another, filtered, boxed. So, as with
//! [attempts](crate::attempt), the word goes round them. A balancer asks its discovery within
//! [`followed`]; one of ours that is polled in there gives it its watch.
//!
//! It costs a look at a thread-local, once. A task between the two loses the word; the user then says it
//! with [`BalanceLayer::watch`](crate::balance::BalanceLayer::watch).

use std::{
    cell::RefCell,
    sync::{Arc, Weak},
};

use super::Watch;

thread_local! {
    /// `None` while nobody listens.
    static FOLLOWED: RefCell<Option<Vec<Followed>>> = const { RefCell::new(None) };
}

/// A watch that a discovery follows, for as long as that lives.
#[derive(Debug)]
pub(crate) struct Followed {
    pub(crate) watch: Watch,
    follower: Option<Weak<()>>,
}

/// A discovery that follows a watch.
#[derive(Debug)]
pub(crate) struct Follower {
    life: Arc<()>,
    /// Until somebody is told.
    untold: Option<Watch>,
}

impl Followed {
    /// By the user, until told otherwise.
    pub(crate) fn given(watch: Watch) -> Self {
        Self {
            watch,
            follower: None,
        }
    }

    /// Another discovery follows the same watch, and may do so for longer; unless the user gave it.
    pub(crate) fn follow_with(&mut self, other: &Self) {
        if self.follower.is_some() {
            self.follower.clone_from(&other.follower);
        }
    }

    /// Whether the discovery is gone that followed it.
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

    /// Tells whoever asks of the watch, once.
    pub(crate) fn tell(&mut self) {
        if self.untold.is_none() {
            return;
        }
        FOLLOWED.with_borrow_mut(|followed| {
            if let Some(followed) = followed {
                let follower = Arc::downgrade(&self.life);
                followed.extend(self.untold.take().map(|watch| Followed {
                    watch,
                    follower: Some(follower),
                }));
            }
        });
    }
}

/// Asks a discovery. Adds to `watches` those that it follows and has not told of before.
pub(crate) fn followed<T>(watches: &mut Vec<Followed>, ask: impl FnOnce() -> T) -> T {
    /// Puts back what was there, also when discovery panics.
    struct Restore<'a> {
        watches: &'a mut Vec<Followed>,
        outer: Option<Vec<Followed>>,
    }
    impl Drop for Restore<'_> {
        fn drop(&mut self) {
            let told = FOLLOWED.replace(self.outer.take());
            self.watches.extend(told.into_iter().flatten());
        }
    }
    let outer = FOLLOWED.replace(Some(Vec::new()));
    let _restore = Restore { watches, outer };
    ask()
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
        assert!(web.untold.is_some(), "nobody asks");

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
        assert!(late.untold.is_some(), "nobody asks any more");
    }
}
