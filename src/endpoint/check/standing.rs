//! How many checks in a row decide. Pure.

/// Whether an endpoint counts as healthy by its checks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CheckStanding {
    /// It counts as healthy.
    Passing,
    /// It has failed too often in a row, and not passed often enough since.
    Failing {
        /// The failures since it last counted as healthy.
        failures: u32,
    },
}

/// Counts the results of one endpoint's checks.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Record {
    failing: bool,
    failures: u32,
    passes: u32,
}

impl Record {
    /// Takes a result, and returns whether the endpoint counts as healthy with it.
    pub(super) fn note(&mut self, passed: bool, max_failures: u32, passes: u32) -> CheckStanding {
        if passed {
            self.passes = self.passes.saturating_add(1);
            if !self.failing || self.passes >= passes {
                (self.failing, self.failures) = (false, 0);
            }
        } else {
            self.passes = 0;
            self.failures = self.failures.saturating_add(1);
            self.failing |= self.failures >= max_failures;
        }
        if self.failing {
            CheckStanding::Failing {
                failures: self.failures,
            }
        } else {
            CheckStanding::Passing
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The failures after each result; 0 while the endpoint counts as healthy.
    fn standings(results: &str, max_failures: u32, passes: u32) -> Vec<u32> {
        let mut record = Record::default();
        let note = |result| match record.note(result == '+', max_failures, passes) {
            CheckStanding::Passing => 0,
            CheckStanding::Failing { failures } => failures,
        };
        results.chars().map(note).collect()
    }

    #[test]
    fn three_in_a_row_fail_it_and_one_pass_returns_it() {
        assert_eq!(standings("--+---+-", 3, 1), [0, 0, 0, 0, 0, 3, 0, 0]);
    }

    #[test]
    fn passes_to_return_are_counted_in_a_row_too() {
        assert_eq!(standings("--+-++-", 2, 2), [0, 2, 2, 3, 3, 0, 0]);
        assert_eq!(standings("-+", 1, 1), [1, 0]);
    }
}
