//! Deterministic subsetting: each client uses a part of a large set, and always the same part.
//!
//! A thousand clients with a connection to each of a thousand servers have a million connections. If
//! each uses 20 servers, the load is still spread, provided that the parts differ between clients and
//! change little when servers come and go. Two ways to choose the part:
//!
//! **By hash** (the default; [gRFC A68]): the `size` endpoints with the lowest `hash(client, endpoint)`.
//! Nobody needs to know of anybody else. One endpoint that comes or goes changes at most one entry of
//! any client's part, and a change among the clients changes nothing. The price is chance: an endpoint is
//! in the part of `clients · size / n` clients only on average. The count is binomial, so with 100
//! clients that each use 20 of 100 endpoints, it is 20 ± 4; none gets more than twice its due for
//! certain only when `size ≥ n / 2` ([`Subsetting`] tells what happens below).
//!
//! **By rank** ([`Subsetting::by_rank`]; after Finagle's [deterministic aperture]): the endpoints stand in
//! a circle, in an order that all clients agree on, and so do the clients; each uses the next `size`
//! endpoints from its place on. Every endpoint is in the part of `clients · size / n` clients, rounded up
//! or down, so none gets twice its due; the part grows to `n / clients` where a smaller one would leave
//! endpoints without a client. One endpoint that comes or goes replaces at most one entry, or two where
//! the part spans the origin of the circle; where the part itself grows or shrinks, one is added or taken
//! away and none replaced. The price is that a change among the *clients* moves everybody's place. For few
//! clients that change rarely.
//!
//! # Never more than one entry
//! By hash that always holds. By rank a change may replace two entries of the parts that span the
//! origin, which are no more than the clients that an endpoint has.
//!
//! On a circle nothing else is possible. Let a part be the first `p` and the last `size − p` of `n`
//! endpoints. If whichever one goes may cost it no more than one entry, so may its first and its last one,
//! and that leaves it the first `p` and the last `size − p` of the `n − 1`: its `p` is the same for every
//! `n`. Equal load asks for others. Where each endpoint has exactly `c` clients, the parts join end to end,
//! to `c` chains round the circle. Five clients with parts of 12 make two at 30 endpoints, which cross the
//! origin 6 apart, and three at 20, 4 apart. Of those three at least two cross it within a part, whose `p`
//! would have to be the same at 30, where none are 4 or 8 apart. So it is wherever parts start. Parts that
//! are no neighbours can do it for some numbers; no rule for all is known.
//!
//! In both, weights apply within the part, not to the choice of it: an endpoint of weight 3 gets three
//! times as much as one of weight 1 *where it was chosen*. A heavy endpoint then competes with itself: one
//! of weight 10 among 99 of weight 1 is due 10/109, 9.2 % of the traffic, and gets 20/100 · 10/29, 6.9 %,
//! with parts of 20. Use parts that are large against the spread of weights.
//!
//! [gRFC A68]: https://github.com/grpc/proposal/blob/master/A68-random-subsetting.md
//! [deterministic aperture]: https://twitter.github.io/finagle/guide/ApertureLoadBalancers.html

use std::{fmt, num::NonZeroUsize};

use super::{
    hash,
    peers::{Census, Place},
};
use crate::instance::Key;

/// Uses a part of a large set.
///
/// Applies to the endpoints of one zone, one version, one subset at a time: of each the client uses
/// at most so many. Endpoints that are ejected or drained are replaced by the next in line.
///
/// # How even it is
/// An endpoint's due is all requests over all `n` endpoints. When each client sends as much as another:
///
/// | | of its due, an endpoint gets at most | no more than twice |
/// |---|---|---|
/// | by hash | `n / size` times, where it is in every part | for certain from `size ≥ n / 2` on |
/// | [by rank](Self::by_rank) | less than twice | always, while clients agree who they are |
///
/// With smaller parts by hash it is a matter of chance, and more so the fewer clients there are. When five
/// clients share 20 endpoints, these get more than twice their due:
///
/// | parts of | share of endpoints | times their due |
/// |---|---|---|
/// | 4 | 5.8 % | 3 and more |
/// | 6 | 3.1 % | 2.7 and more |
/// | 8 | 1.0 % | 2.5 |
/// | 10 | none | |
///
/// `n` includes those that a deploy adds before others go. And while an endpoint is in
/// [slow start](crate::endpoint::SlowStart), the others of its parts get what it does not: up to
/// `size / (size − 0.9)` times as much by default, which is 1.08 with parts of 12 and 1.29 with parts of
/// 4. So twice holds all the time from `size ≥ n / 2 + 0.9` on: for 20 endpoints and one more, from 12.
///
/// # Examples
/// ```
/// use std::num::NonZeroUsize;
/// use tower_roster::balance::topology::{Subsetting, Topology};
///
/// let part = Subsetting::new(NonZeroUsize::new(20).unwrap()).client("web-7");
/// let topology = Topology::new().subsetting(part);
/// ```
#[derive(Clone, PartialEq, Eq)]
pub struct Subsetting {
    size: NonZeroUsize,
    client: u64,
    by_rank: bool,
}

impl Subsetting {
    /// Uses `size` endpoints, chosen by hash for this client alone. Fewer than 12 make it likely that
    /// all of them are lost at a time (Finagle's lower bound).
    pub fn new(size: NonZeroUsize) -> Self {
        Self {
            size,
            client: rand::random(),
            by_rank: false,
        }
    }

    /// Names the client, so that it uses the same endpoints after a restart; a random name by default.
    /// No two clients should have the same.
    #[must_use]
    pub fn client(mut self, id: impl AsRef<[u8]>) -> Self {
        self.client = hash::bytes(id.as_ref());
        self
    }

    /// Chooses by the rank that [`Topology::peers`](super::Topology::peers) tells, and by hash while
    /// none is known. Load is even, and an endpoint that comes or goes replaces one entry of a part or
    /// seldom two; by hash, never two.
    #[must_use]
    pub fn by_rank(mut self) -> Self {
        self.by_rank = true;
        self
    }

    /// Keeps the chosen ones of `set`, in their order. O(n) by hash, O(n log n) by rank.
    ///
    /// `hash` is that of an endpoint's key, as [`hash_key`] makes it.
    pub(super) fn choose(
        &self,
        mut set: Vec<usize>,
        hash: impl Fn(usize) -> u64,
        census: &Census,
    ) -> Vec<usize> {
        match census.place.filter(|_| self.by_rank) {
            Some(place) => {
                let size = self.size.get().max(set.len().div_ceil(place.of));
                if set.len() > size {
                    let all = ranked(&set, RING, &hash, |all| all.sort_unstable());
                    let start = place.start(all.len());
                    let circle = all.iter().cycle().skip(start);
                    set = circle.take(size).map(|(_, i)| *i).collect();
                }
            }
            None => {
                let size = self.size.get();
                if set.len() > size {
                    let all = ranked(&set, self.client, &hash, |all| {
                        all.select_nth_unstable(size);
                    });
                    set = all[..size].iter().map(|(_, i)| *i).collect();
                }
            }
        }
        set.sort_unstable();
        set
    }
}

/// The seed of the order that all clients agree on.
const RING: u64 = 0x7261_6e6b;

/// The hash of an endpoint's key.
pub(super) fn hash_key(key: &Key) -> u64 {
    hash::pair(key.id().as_bytes(), key.scope().as_bytes())
}

/// Endpoints with what they score, arranged by `arrange`.
fn ranked(
    set: &[usize],
    seed: u64,
    hash: impl Fn(usize) -> u64,
    arrange: impl FnOnce(&mut [(u64, usize)]),
) -> Vec<(u64, usize)> {
    let scored = set.iter().map(|i| (hash::mix(hash(*i) ^ seed), *i));
    let mut all: Vec<_> = scored.collect();
    arrange(&mut all);
    all
}

impl Place {
    /// Where in a circle of `len` a client of this rank stands.
    fn start(self, len: usize) -> usize {
        // As u128, because a user may set any rank.
        (self.rank as u128 * len as u128 / self.of as u128) as usize
    }
}

impl fmt::Debug for Subsetting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Subsetting")
            .field("size", &self.size)
            .field("client", &format_args!("{:016x}", self.client))
            .field("by_rank", &self.by_rank)
            .finish()
    }
}
