//! Deterministic subsetting: each client uses a part of a large set, and always the same part.
//!
//! The documentation of [`Subsetting`] describes the two ways to choose the part.

use std::num::NonZeroUsize;

use super::{
    hash,
    peers::{CallerRank, Census},
};

/// Makes the client use a part of a large set, and always the same part.
///
/// A thousand clients with a connection to each of a thousand servers have a million connections. If
/// each client uses 20 servers, the load is still spread, provided that the parts differ between clients
/// and change little when servers come and go.
///
/// The rule applies to the endpoints of one zone, one version and one subset at a time: the client uses
/// at most this number of each. Ejected and drained endpoints are replaced by the next endpoints in the
/// order.
///
/// # How it works
/// *By hash*, the default ([gRFC A68]): the client uses the `size` endpoints with the lowest
/// `hash(client, endpoint)`. Clients need no knowledge of other clients. When an endpoint comes or goes,
/// at most one entry of each part changes, and a change of the clients changes no part. The price is
/// chance: an endpoint is in the part of `clients · size / n` clients only on average. The number is
/// binomially distributed: with 100 clients that each use 20 of 100 endpoints, it is 20 ± 4.
///
/// *By rank*, [`by_rank`](Self::by_rank) (after Finagle's [deterministic aperture]): the endpoints form
/// a circle, in an order that all clients agree on, and so do the clients. Each client uses the next
/// `size` endpoints from its own position. Every endpoint is in the part of `clients · size / n`
/// clients, rounded up or down. The part grows to `n / clients` when a smaller one would leave endpoints
/// without a client. When an endpoint comes or goes, at most one entry is replaced, or two where the
/// part spans the origin of the circle; no more parts span it than an endpoint has clients. When the
/// part itself grows or shrinks, one entry is added or removed and none is replaced. The price is that a
/// change of the *clients* moves the position of all clients, so it is for few clients that change
/// rarely.
///
/// In both cases, weights apply within the part and not to the choice of the part: an endpoint of weight
/// 3 gets three times the requests of one of weight 1 *from the clients that chose it*. Heavy endpoints
/// get less than their weight. One of weight 10 among 99 of weight 1 should get 10/109 of the traffic,
/// 9.2 %; with parts of 20 it gets 20/100 · 10/29, 6.9 %. Use parts that are large compared with the
/// differences of weights.
///
/// [gRFC A68]: https://github.com/grpc/proposal/blob/master/A68-random-subsetting.md
/// [deterministic aperture]: https://twitter.github.io/finagle/guide/ApertureLoadBalancers.html
///
/// # How even the load is
/// The due of an endpoint is the number of all requests divided by `n`, the number of endpoints. When
/// all clients send the same number of requests:
///
/// | | an endpoint gets at most, of its due | at most twice its due |
/// |---|---|---|
/// | by hash | `n / size` times, when it is in every part | guaranteed if `size ≥ n / 2` |
/// | [by rank](Self::by_rank) | less than twice | always, while clients agree on their ranks |
///
/// With smaller parts by hash, it depends on chance, and more with fewer clients. When five clients
/// share 20 endpoints, these endpoints get more than twice their due:
///
/// | parts of | share of endpoints | times their due |
/// |---|---|---|
/// | 4 | 5.8 % | 3 and more |
/// | 6 | 3.1 % | 2.7 and more |
/// | 8 | 1.0 % | 2.5 |
/// | 10 | none | |
///
/// `n` includes the endpoints that a deploy adds before it removes others. While an endpoint is in
/// [slow start](crate::endpoint::SlowStart), the other endpoints of its parts get the requests that it
/// does not get: by default up to `size / (size − 0.9)` times as many, which is 1.08 with parts of 12
/// and 1.29 with parts of 4. So the bound of twice always holds if `size ≥ n / 2 + 0.9`: for 20
/// endpoints and one more, from 12 on.
///
/// # Why a part by rank may lose two entries
/// When one endpoint comes or goes, two entries of a part that spans the origin of the circle may be
/// replaced. No circle avoids that. Let a part be the first `p` and the last `size − p` of `n` endpoints.
/// If each removal replaces at most one entry, this also holds for the removal of the first and of the
/// last endpoint. So the part of `n − 1` endpoints is again the first `p` and the last `size − p`, and `p`
/// is the same for every `n`. Equal load needs other values. When each endpoint has exactly `c` clients,
/// the parts form `c` chains around the circle. Five clients with parts of 12 form two chains for 30
/// endpoints, which cross the origin 6 endpoints apart, and three for 20 endpoints, 4 apart. At least two
/// of these three cross the origin within a part. Their `p` would have to be the same for 30 endpoints,
/// where no two chains are 4 or 8 apart. This holds wherever the parts start. Parts of endpoints that are
/// not neighbours avoid it for some numbers; no general rule is known.
///
/// # Examples
/// ```
/// use std::num::NonZeroUsize;
/// use tower_roster::balance::topology::{Subsetting, Topology};
///
/// let part = Subsetting::new(NonZeroUsize::new(20).unwrap()).client("web-7");
/// let topology = Topology::new().subsetting(part);
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subsetting {
    size: NonZeroUsize,
    client: u64,
    by_rank: bool,
}

impl Subsetting {
    /// Creates a rule that uses `size` endpoints, chosen by hash. With fewer than 12 (Finagle's lower
    /// bound), it is likely that all of them are lost at the same time.
    pub fn new(size: NonZeroUsize) -> Self {
        Self {
            size,
            client: rand::random(),
            by_rank: false,
        }
    }

    /// Sets the name of the client, so that it uses the same endpoints after a restart; a random name by
    /// default. Each client must have a different name.
    #[must_use]
    pub fn client(mut self, id: impl AsRef<[u8]>) -> Self {
        self.client = hash::bytes(id.as_ref());
        self
    }

    /// Chooses the part by the rank of the client, which comes from
    /// [`Topology::peers`](super::Topology::peers), and by hash while no rank is known; by hash by
    /// default.
    #[must_use]
    pub fn by_rank(mut self) -> Self {
        self.by_rank = true;
        self
    }

    /// Returns the chosen endpoints of `set`, in the same order. Takes O(n) by hash and O(n log n) by
    /// rank.
    ///
    /// `hash` returns the hash of an endpoint's key, made by [`hash_id`](crate::balance::pick::hash::hash_id).
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

/// The seed of the order that all clients agree on: "rank" in ASCII.
const RING: u64 = 0x7261_6e6b;

/// The endpoints of `set` with their scores, arranged by `arrange`.
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

impl CallerRank {
    /// The position of this client in a circle of `len` endpoints.
    fn start(self, len: usize) -> usize {
        // Computed as u128, because a user may set any rank.
        (self.rank as u128 * len as u128 / self.of as u128) as usize
    }
}
