//! Decides whether a list has changed without reading it again.
//!
//! At the end of a wait Consul sends the whole list, changed or not: 3.8 MB for 5,000 instances, three
//! times a minute. The index of a query is that of its service, whatever a `filter` removes from the
//! list. So a long list is watched by a *probe*: the same query with a filter that one instance of the
//! list satisfies, the *witness*. Measured on 1.8.7 with 5,000 instances: a query with a filter takes
//! 21 ms of the agent, the list 61 ms. (A `tag` takes 1 ms. But such a query does not wake when a check
//! changes, because Consul then watches the services only. Consul does not serve HEAD.)
//!
//! The response must contain the witness. If a token loses its rights, Consul returns an empty list with
//! the index of the full one, so a probe that expects an empty response would confirm a list that the
//! token may not read any more.
//!
//! Probe and list are two queries, and Consul guarantees an index for one query only. So these rules
//! hold:
//!
//! - After each list, the first probe must return the index of that list. Otherwise the list is read
//!   again. If that list has the same index as before, the probe is not used any more.
//! - A list that is read because of a probe must be at least as new as the probe.
//! - The list is read anyway once a probe would last longer than five minutes after it, because a proxy may
//!   return an index that never changes, and because a token may have lost its rights to other instances
//!   than the witness: Consul counts the full list.
//! - A list that has just changed is watched itself, until a wait ends without a change. While changes
//!   follow one another, probes would only delay each of them by 21 ms.
//! - The probe is used only if the leader responds. On followers and in the agent's cache, one query may
//!   be older than the other.

use std::time::Duration;

use tokio::time::Instant;

use super::{options::Consistency, wire::Witness};

/// The size in bytes from which a list is probed. Arbitrary: about 60 instances; a smaller list is read
/// in less than a millisecond.
const LONG: usize = 64 << 10;

/// How long probes may replace the list. A token that lost its rights to a part of the list shows only when
/// the list is read. Arbitrary: an operator expects such a change within minutes, and with a wait of 20 s
/// still only one response in fifteen is a list.
const TRUSTED: Duration = Duration::from_secs(300);

/// The state of one query's probe.
#[derive(Debug, Default)]
pub(super) struct Probe {
    /// The instance by which a long list is probed.
    witness: Option<Witness>,
    /// The last index that list and probe both returned.
    agreed: Option<u64>,
    /// The index of the last list whose probe returned a different index, or no witness.
    odd: Option<u64>,
    given_up: bool,
    /// When the list was read.
    listed_at: Option<Instant>,
}

impl Probe {
    /// Returns the filter of a probe that ends at `end`, or `None` if the list must be read.
    pub(super) fn expression(&self, consistency: Consistency, end: Instant) -> Option<String> {
        let leader = matches!(consistency, Consistency::Default | Consistency::Consistent);
        let trusted = self
            .listed_at
            .is_some_and(|at| end.duration_since(at) <= TRUSTED);
        if self.given_up || !leader || !trusted {
            return None;
        }
        let Witness { id, node } = self.witness.as_ref()?;
        Some(format!(r#"Service.ID == "{id}" and Node.Node == "{node}""#))
    }

    /// Whether the probe returned the index of the current list.
    pub(super) fn agrees(&self, index: u64) -> bool {
        self.agreed == Some(index)
    }

    /// Compares the response to a probe with the known list. Returns whether the list is unchanged.
    pub(super) fn compare(&mut self, list: u64, probed: u64, body: &[u8]) -> bool {
        let witnessed = !matches!(body.trim_ascii(), b"[]" | b"null" | b"");
        let same = list == probed && witnessed;
        if same {
            self.agreed = Some(list);
        } else if !witnessed || !self.agrees(list) {
            self.odd = Some(list);
        }
        same
    }

    /// Records a list that was read; `probed` is the index of the probe before it, if there was one.
    pub(super) fn listed(
        &mut self,
        index: u64,
        bytes: usize,
        probed: Option<u64>,
        witness: Option<Witness>,
        now: Instant,
    ) {
        let long = bytes >= LONG;
        // A short list says nothing about the probe: the token may have lost its rights.
        self.given_up |= self.odd.take() == Some(index) && long;
        self.witness = witness.filter(|_| long);
        self.agreed = probed.filter(|probed| *probed == index);
        self.listed_at = Some(now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MODE: Consistency = Consistency::Default;
    /// What stands in the answer to a probe.
    const SEEN: &[u8] = b"[{}]";

    /// The time of all lists and probes that end at once.
    fn now() -> Instant {
        static NOW: std::sync::OnceLock<Instant> = std::sync::OnceLock::new();
        *NOW.get_or_init(Instant::now)
    }

    fn witness() -> Option<Witness> {
        Some(Witness {
            id: "web-1".to_owned(),
            node: "rack 7/n2".to_owned(),
        })
    }

    impl Probe {
        fn lists(&mut self, index: u64, bytes: usize, probed: Option<u64>) {
            self.listed(index, bytes, probed, witness(), now());
        }

        fn is_used(&self) -> bool {
            self.expression(MODE, now()).is_some()
        }
    }

    #[test]
    fn only_long_lists_of_the_leader_are_probed() {
        let mut probe = Probe::default();
        assert!(!probe.is_used());
        probe.lists(7, LONG - 1, None);
        assert!(!probe.is_used());
        probe.lists(7, LONG, None);
        assert_eq!(
            probe.expression(Consistency::Consistent, now()).as_deref(),
            Some(r#"Service.ID == "web-1" and Node.Node == "rack 7/n2""#)
        );
        assert!(probe.expression(Consistency::Cached, now()).is_none());
        let stale = Consistency::Stale(std::time::Duration::MAX);
        assert!(probe.expression(stale, now()).is_none());
        probe.listed(7, LONG, None, None, now());
        assert!(!probe.is_used());
    }

    #[test]
    fn a_probe_must_agree_with_each_list_and_is_given_up_where_it_never_does() {
        let mut probe = Probe::default();
        probe.lists(7, LONG, None);
        assert!(!probe.agrees(7), "another query's index");
        assert!(probe.compare(7, 7, SEEN) && probe.agrees(7));
        assert!(!probe.compare(7, 9, SEEN), "something changed");
        probe.lists(9, LONG, Some(9));
        assert!(probe.agrees(9), "found on the way");
        probe.lists(12, LONG, Some(11));
        assert!(!probe.agrees(12));
        assert!(!probe.compare(12, 13, SEEN));
        probe.lists(13, LONG, Some(13));
        assert!(probe.is_used(), "the list had changed");
        probe.lists(14, LONG, None);
        assert!(!probe.compare(14, 3, SEEN));
        probe.lists(14, LONG, None);
        assert!(!probe.is_used(), "it counts otherwise");
    }

    #[test]
    fn a_probe_without_its_witness_confirms_nothing() {
        let mut probe = Probe::default();
        probe.lists(7, LONG, None);
        assert!(probe.compare(7, 7, SEEN));
        for body in [&b"[]\n"[..], b"null", b""] {
            assert!(!probe.compare(7, 7, body));
        }
        // The list is empty too: the token lost its rights.
        probe.listed(7, 2, Some(7), None, now());
        assert!(!probe.is_used());
        probe.lists(7, LONG, None);
        assert!(probe.is_used(), "and has them again");
        // The list is full: the filter does not find what is listed.
        assert!(!probe.compare(7, 7, b"[]"));
        probe.lists(7, LONG, Some(7));
        assert!(!probe.is_used());
    }

    #[test]
    fn the_list_is_read_again_before_a_probe_would_end_too_late() {
        let mut probe = Probe::default();
        let began = now();
        probe.listed(7, LONG, None, witness(), began);
        let is_used = |probe: &Probe, end: Duration| {
            let end = began + end;
            probe.expression(MODE, end).is_some()
        };
        assert!(is_used(&probe, TRUSTED));
        assert!(!is_used(&probe, TRUSTED + Duration::from_millis(1)));
        probe.listed(7, LONG, None, witness(), began + TRUSTED);
        assert!(is_used(&probe, 2 * TRUSTED));
    }
}
