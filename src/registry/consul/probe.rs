//! Whether a list is still what it was, without reading it again.
//!
//! At the end of a wait Consul sends the whole list, changed or not: 3.8 MB for 5,000 instances, three
//! times a minute. But the index of a query is that of its service, whatever a `filter` leaves of the list.
//! So a long list is watched by a *probe*: the same query with a filter that nobody satisfies, which answers
//! `[]` and the index. Measured on 1.8.7 with 5,000 instances: 21 ms of the agent and 2 bytes, where the list
//! takes 61 ms and the bytes. (A `tag` that nobody has takes 1 ms, but such a query does not wake when a check
//! changes: Consul then watches the services alone. HEAD is not served.)
//!
//! The probe is another query, and an index holds for one query only. So nothing rests on both counting
//! alike: after each list the probe must first give the very index of that list, else the list is read
//! again, and where that happens while the list stays the same the probe is given up. A list that is read
//! because of a probe must be as new as the probe. And now and then the list is read all the same: what
//! stands between may answer with an index that never moves.
//!
//! Only where the leader answers: followers and the agent's cache may be older for one query than for
//! the other.

use super::options::Consistency;

/// The filter that nobody satisfies. An instance that does costs bytes and nothing else.
pub(super) const NOBODY: &str = r#"Service.ID == "tower-roster:none""#;

/// From this size on a list is probed. Arbitrary: some 60 instances, below which a list is read in less
/// than a millisecond.
const LONG: usize = 64 << 10;

/// Confirmations by probe before the list is read again: five minutes' worth of waits.
const TRUSTED: u32 = 15;

/// What is known of one query's probe.
#[derive(Debug, Default)]
pub(super) struct Probe {
    /// Whether the list is long.
    long: bool,
    /// The index that list and probe gave alike.
    agreed: Option<u64>,
    /// The index of a list for which the probe gave another.
    odd: Option<u64>,
    given_up: bool,
    confirmed: u32,
}

impl Probe {
    /// Whether to probe before the list is read.
    pub(super) fn is_used(&self, consistency: Consistency) -> bool {
        let leader = matches!(consistency, Consistency::Default | Consistency::Consistent);
        self.long && !self.given_up && leader && self.confirmed < TRUSTED
    }

    /// Whether the probe was found to count as the list does.
    pub(super) fn agrees(&self, index: u64) -> bool {
        self.agreed == Some(index)
    }

    /// Takes what a probe said of a list that is not asked for. Returns whether it says the same.
    pub(super) fn compare(&mut self, list: u64, probed: u64) -> bool {
        if list == probed {
            self.agreed = Some(list);
        } else if !self.agrees(list) {
            self.odd = Some(list);
        }
        list == probed
    }

    /// Notes that the list was taken for unchanged.
    pub(super) fn confirm(&mut self) {
        self.confirmed += 1;
    }

    /// Takes a list that was read, because of what a probe said or without one.
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
