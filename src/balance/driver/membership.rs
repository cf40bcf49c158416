//! Logs which endpoints were added and removed: one line for each turn of the driver, however many there are.

use std::fmt;

use crate::instance::Key;

/// How many endpoints a line names. Arbitrary: more do not fit on a screen's line.
const NAMED: usize = 5;

/// The endpoints that were added and removed since the last line.
#[derive(Debug, Default)]
pub(super) struct MembershipLog {
    added: Keys,
    removed: Keys,
}

/// The number of some endpoints, and the first of them.
#[derive(Debug, Default)]
struct Keys {
    count: usize,
    first: Vec<Key>,
}

impl MembershipLog {
    pub(super) fn added(&mut self, key: &Key) {
        self.added.push(key);
    }

    pub(super) fn removed(&mut self, key: &Key) {
        self.removed.push(key);
    }

    /// Writes a line, if there is anything to write. `listed` is the number of endpoints now.
    pub(super) fn write(&mut self, listed: usize) {
        if self.added.count == 0 && self.removed.count == 0 {
            return;
        }
        let Self { added, removed } = std::mem::take(self);
        tracing::info!(
            endpoints = listed,
            "endpoints changed: {}",
            MembershipLine(&added, &removed)
        );
    }
}

impl Keys {
    fn push(&mut self, key: &Key) {
        self.count += 1;
        if self.first.len() < NAMED {
            self.first.push(key.clone());
        }
    }
}

struct MembershipLine<'a>(&'a Keys, &'a Keys);

impl fmt::Display for MembershipLine<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut separator = "";
        for (verb, keys) in [("added", self.0), ("removed", self.1)] {
            if keys.count > 0 {
                write!(f, "{separator}{verb} {keys}")?;
                separator = ", ";
            }
        }
        Ok(())
    }
}

impl fmt::Display for Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (place, key) in self.first.iter().enumerate() {
            write!(f, "{}{key}", if place > 0 { " " } else { "" })?;
        }
        match self.count - self.first.len() {
            0 => Ok(()),
            more => write!(f, " and {more} more"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_names_a_few_endpoints_and_counts_the_others() {
        let mut log = MembershipLog::default();
        let line = |log: &MembershipLog| MembershipLine(&log.added, &log.removed).to_string();
        log.added(&Key::new("web-1", "dc1/n1"));
        assert_eq!(line(&log), "added web-1@dc1/n1");
        log.removed(&Key::new("web-0", ""));
        assert_eq!(line(&log), "added web-1@dc1/n1, removed web-0");
        for n in 0..10_000 {
            log.removed(&Key::new(format!("old-{n}"), ""));
        }
        let removed = "removed web-0 old-0 old-1 old-2 old-3 and 9996 more";
        assert_eq!(line(&log), format!("added web-1@dc1/n1, {removed}"));
        log.write(1);
        assert_eq!(line(&log), "");
    }
}
