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

use std::cell::RefCell;

use super::Watch;

thread_local! {
    /// `None` while nobody listens.
    static FOLLOWED: RefCell<Option<Vec<Watch>>> = const { RefCell::new(None) };
}

/// Asks a discovery. Adds to `watches` those that it follows and has not told of before.
pub(crate) fn followed<T>(watches: &mut Vec<Watch>, ask: impl FnOnce() -> T) -> T {
    /// Puts back what was there, also when discovery panics.
    struct Restore<'a> {
        watches: &'a mut Vec<Watch>,
        outer: Option<Vec<Watch>>,
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

/// Tells whoever asks of a watch, and keeps it while nobody does.
pub(crate) fn tell(watch: &mut Option<Watch>) {
    FOLLOWED.with_borrow_mut(|followed| {
        if let Some(followed) = followed {
            followed.extend(watch.take());
        }
    });
}

#[cfg(test)]
mod tests {
    use std::panic::{AssertUnwindSafe, catch_unwind};

    use super::*;
    use crate::registry;

    #[tokio::test]
    async fn a_watch_is_told_once_to_whoever_asks_first_and_a_panic_loses_none() {
        let registry = registry::connect("fixed:10.0.0.1:80").unwrap();
        let mut watch = Some(registry.watch("web").unwrap());
        tell(&mut watch);
        assert!(watch.is_some(), "nobody asks");

        let (mut outer, mut inner) = (Vec::new(), Vec::new());
        let panicked = catch_unwind(AssertUnwindSafe(|| {
            followed(&mut outer, || {
                followed(&mut inner, || tell(&mut watch));
                tell(&mut watch);
                tell(&mut Some(registry.watch("api").unwrap()));
                panic!("a discovery that panics");
            })
        }));
        assert!(panicked.is_err());
        let services = |watches: &[Watch]| -> Vec<String> {
            let services = watches.iter().map(|watch| watch.query().service());
            services.map(ToString::to_string).collect()
        };
        assert_eq!(services(&inner), ["web"]);
        assert_eq!(services(&outer), ["api"]);
        let mut late = Some(registry.watch("late").unwrap());
        tell(&mut late);
        assert!(late.is_some(), "nobody asks any more");
    }
}
