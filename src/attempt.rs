//! Tracks the endpoints that one request was sent to, so that its next attempt goes to another endpoint.
//!
//! A retry or a hedge keeps a [`Tried`] for all attempts of one request. It makes that current in
//! `call`, and in every poll of an attempt. A balancer below, on the same task, avoids the endpoints in
//! it and adds the endpoint that it picks.
//!
//! ```text
//! retry:    tried.enter(|| inner.call(request))      tried.enter(|| future.poll(cx))
//!                              │                                     │
//! balancer:                    └── Tried::current(), Tried::note ────┘
//! ```
//!
//! In the same way a retry, a hedge or a balancer says [why](AttemptKind) it sends a request, and why it
//! [drops](Abandoned) one, to those below that report it.
//!
//! This costs a few nanoseconds, and no allocation. If a `Buffer` or another task stands between the
//! two, the balancer sees no `Tried`, and a retry may go to the same endpoint.

use std::{cell::Cell, fmt, time::Duration};

use tokio::time::Instant;

use crate::ambient::during;

/// The last three endpoints that one request was sent to.
///
/// It fits into one word, because each pick reads it: three ids of 20 bits, and their count. In a
/// process that makes more than a million endpoints, two may share an id; then an endpoint may be
/// avoided without need.
///
/// # Examples
/// ```
/// use tower_roster::attempt::{EndpointId, Tried};
///
/// let first = EndpointId::next();
/// let mut tried = Tried::new();
/// tried.enter(|| Tried::note(first)); // what a balancer does
/// assert!(tried.contains(first));
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tried(u64);

/// Identifies an endpoint within this process; [`Tried`] states when two may be equal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct EndpointId(u32);

const ID_BITS: u32 = 20;
const ID_MASK: u64 = (1 << ID_BITS) - 1;
const COUNT_SHIFT: u32 = 3 * ID_BITS;
/// The largest count, so that no set equals [`NO_ATTEMPT`].
const COUNT_MAX: u64 = 14;

/// No retry or hedge is above. The value differs from every set, because a count is at most 14.
const NO_ATTEMPT: Tried = Tried(u64::MAX);

impl EndpointId {
    #[inline]
    pub(crate) fn bits(self) -> u32 {
        self.0
    }

    /// Creates an id from its bits; bits above the lowest 20 are ignored.
    #[inline]
    pub(crate) fn of_bits(bits: u32) -> Self {
        Self(bits & ID_MASK as u32)
    }

    /// Creates the next id.
    pub fn next() -> Self {
        use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
        static NEXT: AtomicU32 = AtomicU32::new(0);
        // Relaxed: the numbers only have to differ. 0 stands for no endpoint.
        Self(NEXT.fetch_add(1, Relaxed) % (ID_MASK as u32) + 1)
    }
}

/// Why a request is sent to an endpoint.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum AttemptKind {
    /// Because the caller sent it.
    #[default]
    First,
    /// Because an attempt failed before.
    Retry,
    /// Because an attempt before it is slow.
    Hedge,
    /// Because the same attempt could not be sent to the endpoint before: the balancer gave it to another.
    Resend,
}

impl AttemptKind {
    /// All kinds.
    pub const ALL: &[Self] = &[Self::First, Self::Retry, Self::Hedge, Self::Resend];

    /// Returns its stable name.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::First => "first",
            Self::Retry => "retry",
            Self::Hedge => "hedge",
            Self::Resend => "resend",
        }
    }

    /// Returns the kind of the request that is being sent on this thread.
    #[inline]
    pub fn current() -> Self {
        WHY.get().kind
    }

    /// Whether the request that is being sent on this thread is a hedge, or was sent because a hedge could
    /// not be.
    #[inline]
    pub fn is_hedge() -> bool {
        WHY.get().hedged
    }

    /// Begins a request, or polls its first attempt. It is the first attempt of this request, even if a
    /// hedge or a retry of another client is being sent on this thread: a layer at an endpoint of that
    /// client may have a client of its own, for example to fetch a token.
    #[inline]
    pub(crate) fn first<T>(send: impl FnOnce() -> T) -> T {
        let why = WHY.get();
        if why.kind == Self::First && !why.hedged {
            return send();
        }
        Self::First.enter(send)
    }

    /// Sends a request, or polls the future that does. Those below see this kind.
    pub fn enter<T>(self, send: impl FnOnce() -> T) -> T {
        let hedged = match self {
            Self::Hedge => true,
            Self::Resend => Self::is_hedge(),
            Self::First | Self::Retry => false,
        };
        during(&WHY, &mut Why { kind: self, hedged }, send)
    }
}

impl fmt::Display for AttemptKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[derive(Clone, Copy, Default)]
struct Why {
    kind: AttemptKind,
    hedged: bool,
}

/// Why a request was dropped before its response.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Abandoned {
    /// Its caller went away.
    #[default]
    Caller,
    /// Another attempt of the same request was faster.
    HedgeLost,
    /// It exceeded the per-try timeout.
    TryTimeout,
    /// The deadline of all attempts together passed.
    Deadline,
    /// The code that sent it, or that was to answer it, panicked.
    Panicked,
}

impl Abandoned {
    /// All reasons.
    pub const ALL: &[Self] = &[
        Self::Caller,
        Self::HedgeLost,
        Self::TryTimeout,
        Self::Deadline,
        Self::Panicked,
    ];

    /// Returns its stable name.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Caller => "caller_left",
            Self::HedgeLost => "hedge_lost",
            Self::TryTimeout => "try_timeout",
            Self::Deadline => "timeout",
            Self::Panicked => "panicked",
        }
    }

    /// Returns the reason for which a request is being dropped on this thread.
    pub(crate) fn current() -> Self {
        match GIVEN_UP.get() {
            Some(_) => Self::TryTimeout,
            None => ABANDONED.get(),
        }
    }

    /// Drops a request for this reason.
    pub(crate) fn during<T>(mut self, drop: impl FnOnce() -> T) -> T {
        during(&ABANDONED, &mut self, drop)
    }
}

impl fmt::Display for Abandoned {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

thread_local! {
    static WHY: Cell<Why> = const { Cell::new(Why { kind: AttemptKind::First, hedged: false }) };
    static ABANDONED: Cell<Abandoned> = const { Cell::new(Abandoned::Caller) };
    static CURRENT: Cell<Tried> = const { Cell::new(NO_ATTEMPT) };
    static GIVEN_UP: Cell<Option<Duration>> = const { Cell::new(None) };
    static NOW: Cell<Option<Instant>> = const { Cell::new(None) };
}

/// Runs `call` with `now` as the current time of the layers below, so that they need not read the clock
/// again. A clock read costs as much as all other work of a hedge or a pick.
#[inline]
pub(crate) fn at<T>(now: Instant, call: impl FnOnce() -> T) -> T {
    during(&NOW, &mut Some(now), call)
}

/// Returns the time that a layer above passed with [`at`], or else reads the clock.
#[inline]
pub(crate) fn now() -> Instant {
    NOW.get().unwrap_or_else(Instant::now)
}

/// Drops an attempt that got no response within `limit`.
///
/// A dropped request normally proves nothing about its endpoint, because the caller may have gone away.
/// A request that is dropped by this function after it waited for at least 90 % of `limit` counts as a
/// failure of its endpoint. Otherwise an endpoint that never responds would have no failures.
pub fn give_up<T>(limit: Duration, drop: impl FnOnce() -> T) -> T {
    during(&GIVEN_UP, &mut Some(limit), drop)
}

/// Whether a request that waited for this time is being dropped because its time limit has passed.
pub(crate) fn is_given_up(waited: Duration) -> bool {
    // A hedge that started late had less time, so its endpoint is not held responsible.
    let limit = GIVEN_UP.get();
    limit.is_some_and(|limit| waited >= limit.mul_f64(0.9))
}

impl Tried {
    /// Creates an empty set.
    pub const fn new() -> Self {
        Self(0)
    }

    /// Whether an attempt was sent to this endpoint, as far as it is among the last three.
    #[inline]
    pub fn contains(self, id: EndpointId) -> bool {
        let id = u64::from(id.0);
        (0..3).any(|place| (self.0 >> (place * ID_BITS)) & ID_MASK == id)
    }

    /// Whether no attempt was sent to any endpoint.
    #[inline]
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Returns the number of endpoints added, including those dropped from the set; at most 14.
    pub fn count(self) -> u32 {
        (self.0 >> COUNT_SHIFT) as u32
    }

    /// Adds an endpoint. A fourth replaces the oldest.
    #[inline]
    pub fn insert(&mut self, id: EndpointId) {
        let count = ((self.0 >> COUNT_SHIFT) + 1).min(COUNT_MAX);
        let ids = (self.0 << ID_BITS) & ((1 << COUNT_SHIFT) - 1);
        self.0 = count << COUNT_SHIFT | ids | u64::from(id.0);
    }

    /// Runs a part of an attempt. Balancers called in it avoid the endpoints of this set, and add the
    /// ones they pick.
    #[inline]
    pub fn enter<T>(&mut self, attempt: impl FnOnce() -> T) -> T {
        during(&CURRENT, self, attempt)
    }

    /// Returns the endpoints that the current attempt's request was sent to; `None` if no retry or hedge
    /// is above.
    #[inline]
    pub fn current() -> Option<Self> {
        let current = CURRENT.get();
        (current != NO_ATTEMPT).then_some(current)
    }

    /// Adds an endpoint to the set of the current attempt, if there is one.
    #[inline]
    pub fn note(id: EndpointId) {
        if let Some(mut tried) = Self::current() {
            tried.insert(id);
            CURRENT.set(tried);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attempts_do_not_see_each_other() {
        let [a, b] = [EndpointId::next(), EndpointId::next()];
        let (mut outer, mut inner) = (Tried::new(), Tried::new());
        outer.enter(|| {
            Tried::note(a);
            inner.enter(|| Tried::note(b));
            assert!(Tried::current().is_some_and(|now| !now.contains(b)));
        });
        assert_eq!(Tried::current(), None);
        assert!(outer.contains(a) && !outer.contains(b));
        assert!(inner.contains(b) && !inner.contains(a));
    }

    #[test]
    fn a_resend_of_a_hedge_is_still_hedged_and_a_retry_is_not() {
        let now = || (AttemptKind::current(), AttemptKind::is_hedge());
        let mut seen = vec![now()];
        AttemptKind::Hedge.enter(|| {
            seen.push(now());
            AttemptKind::Resend.enter(|| seen.push(now()));
            AttemptKind::Retry.enter(|| seen.push(now()));
        });
        seen.push(now());
        assert_eq!(
            seen,
            [
                (AttemptKind::First, false),
                (AttemptKind::Hedge, true),
                (AttemptKind::Resend, true),
                (AttemptKind::Retry, false),
                (AttemptKind::First, false),
            ]
        );
    }

    #[test]
    fn a_request_that_begins_within_a_hedge_is_a_first_attempt() {
        let now = || (AttemptKind::current(), AttemptKind::is_hedge());
        let first = (AttemptKind::First, false);
        assert_eq!(AttemptKind::first(now), first);
        AttemptKind::Hedge.enter(|| {
            assert_eq!(AttemptKind::first(now), first);
            AttemptKind::Resend.enter(|| assert_eq!(AttemptKind::first(now), first));
            assert_eq!(now(), (AttemptKind::Hedge, true));
        });
    }

    #[test]
    fn a_panic_leaves_nothing_behind() {
        let id = EndpointId::next();
        let mut tried = Tried::new();
        let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            tried.enter(|| {
                Tried::note(id);
                panic!("an attempt that panics");
            })
        }));
        assert!(result.is_err());
        assert_eq!(Tried::current(), None);
        assert!(tried.contains(id));
    }

    #[test]
    fn only_a_request_that_waited_for_the_whole_time_is_given_up() {
        let second = Duration::from_secs(1);
        assert!(!is_given_up(second));
        give_up(second, || {
            assert!(is_given_up(second));
            assert!(!is_given_up(second / 2));
        });
        assert!(!is_given_up(second));
    }

    #[test]
    fn the_last_three_are_remembered() {
        let ids: Vec<_> = (0..6).map(|_| EndpointId::next()).collect();
        let mut tried = Tried::new();
        ids.iter().for_each(|id| tried.insert(*id));
        let known: Vec<_> = ids.iter().map(|id| tried.contains(*id)).collect();
        assert_eq!(known, [false, false, false, true, true, true]);
        assert_eq!(tried.count(), 6);
    }
}
