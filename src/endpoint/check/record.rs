//! The number of checks in a row that changes the state of an endpoint. Pure.

use super::settings::HealthCheck;

/// Counts the results of one endpoint's checks.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct CheckRecord {
    failing: bool,
    failures: u32,
    passes: u32,
}

impl CheckRecord {
    /// Records a result. Returns how many checks have failed since the endpoint last counted as healthy; 0
    /// while it does.
    pub(super) fn note(&mut self, passed: bool, settings: &HealthCheck) -> u32 {
        if passed {
            self.passes = self.passes.saturating_add(1);
            if !self.failing || self.passes >= settings.passes {
                (self.failing, self.failures) = (false, 0);
            }
        } else {
            self.passes = 0;
            self.failures = self.failures.saturating_add(1);
            self.failing |= self.failures >= settings.max_failures;
        }
        if self.failing { self.failures } else { 0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The number of failures after each result.
    fn failures(results: &str, max_failures: u32, passes: u32) -> Vec<u32> {
        let settings = HealthCheck::tcp().max_failures(max_failures).passes(passes);
        let mut record = CheckRecord::default();
        let results = results.chars();
        results
            .map(|result| record.note(result == '+', &settings))
            .collect()
    }

    #[test]
    fn three_in_a_row_fail_it_and_one_pass_returns_it() {
        assert_eq!(failures("--+---+-", 3, 1), [0, 0, 0, 0, 0, 3, 0, 0]);
    }

    #[test]
    fn passes_to_return_are_counted_in_a_row_too() {
        assert_eq!(failures("--+-++-", 2, 2), [0, 2, 2, 3, 3, 0, 0]);
        assert_eq!(failures("-+", 1, 1), [1, 0]);
    }
}
