//! Decides whether a list has changed without reading it again.
//!
//! At the end of a wait Consul sends the whole list, changed or not: 3.8 MB for 5,000 instances, three
//! times a minute. The index of a query is that of its service, whatever a `filter` removes from the
//! list. So a long list is watched by a *probe*: the same query with a filter that no instance
//! satisfies. Its response is `[]` and the index. Measured on 1.8.7 with 5,000 instances: the probe
//! takes 21 ms of the agent and 2 bytes, the list 61 ms and 3.8 MB. (A `tag` that no instance has takes
//! 1 ms. But such a query does not wake when a check changes, because Consul then watches the services
//! only. Consul does not serve HEAD.)
//!
//! Probe and list are two queries, and Consul guarantees an index for one query only. So these rules
//! hold:
//!
//! - After each list, the first probe must return the index of that list. Otherwise the list is read
//!   again. If that list has the same index as before, the probe is not used any more.
//! - A list that is read because of a probe must be at least as new as the probe.
//! - From time to time the list is read anyway, because a proxy may return an index that never changes.
//! - The probe is used only if the leader responds. On followers and in the agent's cache, one query may
//!   be older than the other.

use super::options::Consistency;

/// The filter that no instance satisfies. If an instance did, it would only cost bytes.
pub(super) const NOBODY: &str = r#"Service.ID == "tower-roster:none""#;

/// The size in bytes from which a list is probed. Arbitrary: about 60 instances; a smaller list is read
/// in less than a millisecond.
const LONG: usize = 64 << 10;

/// How many probes in a row may replace the list: at 20 s each, five minutes.
const TRUSTED: u32 = 15;

/// The state of one query's probe.
#[derive(Debug, Default)]
pub(super) struct Probe {
    /// Whether the list is long.
    long: bool,
    /// The last index that list and probe both returned.
    agreed: Option<u64>,
    /// The index of the last list whose probe returned a different index.
    odd: Option<u64>,
    given_up: bool,
    confirmed: u32,
}

impl Probe {
    /// Whether to probe instead of reading the list.
    pub(super) fn is_used(&self, consistency: Consistency) -> bool {
        let leader = matches!(consistency, Consistency::Default | Consistency::Consistent);
        self.long && !self.given_up && leader && self.confirmed < TRUSTED
    }

    /// Whether the probe returned the index of the current list.
    pub(super) fn agrees(&self, index: u64) -> bool {
        self.agreed == Some(index)
    }

    /// Compares the index of a probe with that of the known list. Returns whether they are equal.
    pub(super) fn compare(&mut self, list: u64, probed: u64) -> bool {
        if list == probed {
            self.agreed = Some(list);
        } else if !self.agrees(list) {
            self.odd = Some(list);
        }
        list == probed
    }

    /// Counts a probe that replaced the list.
    pub(super) fn confirm(&mut self) {
        self.confirmed += 1;
    }

    /// Records a list that was read; `probed` is the index of the probe before it, if there was one.
    pub(super) fn listed(&mut self, index: u64, bytes: usize, probed: Option<u64>) {
        self.given_up |= self.odd.take() == Some(index);
        self.long = bytes >= LONG;
        self.agreed = probed.filter(|probed| *probed == index);
        self.confirmed = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MODE: Consistency = Consistency::Default;

    #[test]
    fn only_long_lists_of_the_leader_are_probed() {
        let mut probe = Probe::default();
        assert!(!probe.is_used(MODE));
        probe.listed(7, LONG - 1, None);
        assert!(!probe.is_used(MODE));
        probe.listed(7, LONG, None);
        assert!(probe.is_used(MODE) && probe.is_used(Consistency::Consistent));
        assert!(!probe.is_used(Consistency::Cached));
        assert!(!probe.is_used(Consistency::Stale(std::time::Duration::MAX)));
    }

    #[test]
    fn a_probe_must_agree_with_each_list_and_is_given_up_where_it_never_does() {
        let mut probe = Probe::default();
        probe.listed(7, LONG, None);
        assert!(!probe.agrees(7), "another query's index");
        assert!(probe.compare(7, 7) && probe.agrees(7));
        assert!(!probe.compare(7, 9), "something changed");
        probe.listed(9, LONG, Some(9));
        assert!(probe.agrees(9), "found on the way");
        probe.listed(12, LONG, Some(11));
        assert!(!probe.agrees(12));
        assert!(!probe.compare(12, 13));
        probe.listed(13, LONG, Some(13));
        assert!(probe.is_used(MODE), "the list had changed");
        probe.listed(14, LONG, None);
        assert!(!probe.compare(14, 3));
        probe.listed(14, LONG, None);
        assert!(!probe.is_used(MODE), "it counts otherwise");
    }

    #[test]
    fn the_list_is_read_now_and_then_all_the_same() {
        let mut probe = Probe::default();
        probe.listed(7, LONG, None);
        for _ in 0..TRUSTED {
            assert!(probe.is_used(MODE));
            probe.confirm();
        }
        assert!(!probe.is_used(MODE));
        probe.listed(7, LONG, None);
        assert!(probe.is_used(MODE));
    }
}
