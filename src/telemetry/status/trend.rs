//! The last values of one figure, for a line in a chart.

use std::collections::VecDeque;

use serde::{Serialize, Serializer};

/// How many samples a chart shows. With the default interval it is a minute.
const SAMPLES: usize = 60;

/// The last values, oldest first; `None` where nothing was measured.
#[derive(Clone, Debug, Default)]
pub(super) struct Trend(VecDeque<Option<f32>>);

impl Trend {
    pub(super) fn push(&mut self, value: Option<f64>) {
        if self.0.len() == SAMPLES {
            self.0.pop_front();
        }
        self.0.push_back(value.map(|value| value as f32));
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The mean of the last values, of those that were measured.
    pub(super) fn recent(&self, samples: usize) -> f64 {
        let last = self.0.iter().rev().take(samples).flatten();
        let (mut sum, mut n) = (0.0, 0_u32);
        for value in last {
            sum += f64::from(*value);
            n += 1;
        }
        sum / f64::from(n.max(1))
    }
}

impl Serialize for Trend {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        // Three digits are as many as a line can show.
        let short = |value: f32| {
            let scale = 10_f32.powi(2 - value.abs().max(1e-6).log10().floor() as i32);
            (value * scale).round() / scale
        };
        serializer.collect_seq(self.0.iter().map(|value| value.map(short)))
    }
}
