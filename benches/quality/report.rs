//! Tables for people, and the same as JSON.

use std::{fmt, time::Duration};

use serde_json::{Value, json};

use crate::{
    clients::Run,
    sim::{BUCKET, Call, bucket},
};

pub(crate) struct Report {
    pub name: &'static str,
    pub about: &'static str,
    pub columns: &'static [&'static str],
    pub rows: Vec<(String, Vec<f64>)>,
    pub bars: Vec<Bar>,
}

/// What must hold.
pub(crate) struct Bar {
    pub what: String,
    pub measured: f64,
    pub required: Required,
}

#[derive(Clone, Copy)]
pub(crate) enum Required {
    AtLeast(f64),
    AtMost(f64),
}

impl Bar {
    pub(crate) fn at_least(what: impl Into<String>, measured: f64, required: f64) -> Self {
        let (what, required) = (what.into(), Required::AtLeast(required));
        Self {
            what,
            measured,
            required,
        }
    }

    pub(crate) fn at_most(what: impl Into<String>, measured: f64, required: f64) -> Self {
        let (what, required) = (what.into(), Required::AtMost(required));
        Self {
            what,
            measured,
            required,
        }
    }

    /// Also not when it could not be measured.
    pub(crate) fn is_met(&self) -> bool {
        match self.required {
            Required::AtLeast(least) => self.measured >= least,
            Required::AtMost(most) => self.measured <= most,
        }
    }
}

impl Report {
    pub(crate) fn is_met(&self) -> bool {
        self.bars.iter().all(Bar::is_met)
    }

    pub(crate) fn to_json(&self) -> Value {
        let row = |(name, values): &(String, Vec<f64>)| {
            let cells = self.columns.iter().zip(values);
            let cells = cells.map(|(column, value)| ((*column).to_owned(), json!(value)));
            json!({ "name": name, "values": cells.collect::<serde_json::Map<_, _>>() })
        };
        let bar = |bar: &Bar| {
            let (key, limit) = match bar.required {
                Required::AtLeast(limit) => ("at_least", limit),
                Required::AtMost(limit) => ("at_most", limit),
            };
            json!({ "what": bar.what, "measured": bar.measured, key: limit, "met": bar.is_met() })
        };
        json!({
            "name": self.name,
            "about": self.about,
            "rows": self.rows.iter().map(row).collect::<Vec<_>>(),
            "bars": self.bars.iter().map(bar).collect::<Vec<_>>(),
        })
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "\n## {}\n{}\n", self.name, self.about)?;
        let widest = self.rows.iter().map(|(name, _)| name.len()).max();
        let widest = widest.unwrap_or_default();
        write!(f, "| {:widest$} |", "")?;
        for column in self.columns {
            write!(f, " {column} |")?;
        }
        write!(f, "\n|{:-<1$}|", "", widest + 2)?;
        for column in self.columns {
            write!(f, "{:->1$}:|", "", column.len() + 1)?;
        }
        writeln!(f)?;
        for (name, values) in &self.rows {
            write!(f, "| {name:widest$} |")?;
            for (column, value) in self.columns.iter().zip(values) {
                write!(f, " {:>1$} |", Figure(*value).to_string(), column.len())?;
            }
            writeln!(f)?;
        }
        writeln!(f, "\n| bar | measured | required | |\n|---|---:|---:|---|")?;
        for bar in &self.bars {
            let (sign, limit) = match bar.required {
                Required::AtLeast(limit) => ('≥', limit),
                Required::AtMost(limit) => ('≤', limit),
            };
            let (measured, limit) = (Figure(bar.measured), Figure(limit));
            let met = if bar.is_met() { "met" } else { "MISSED" };
            writeln!(f, "| {} | {measured} | {sign} {limit} | {met} |", bar.what)?;
        }
        Ok(())
    }
}

/// A number with as many digits as tell something.
struct Figure(f64);

impl fmt::Display for Figure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            value if value.is_nan() => f.pad("-"),
            value if value == value.trunc() => write!(f, "{value}"),
            value if value.abs() >= 1_000.0 => write!(f, "{value:.0}"),
            value => write!(f, "{value:.3}"),
        }
    }
}

pub(crate) fn ms(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

/// A part of a whole in per cent; of nothing, none.
pub(crate) fn percent(part: usize, whole: usize) -> f64 {
    part as f64 * 100.0 / whole.max(1) as f64
}

pub(crate) fn ratio(part: u64, whole: u64) -> f64 {
    part as f64 / whole.max(1) as f64
}

impl Run {
    /// The calls that began between two times.
    pub(crate) fn between(&self, from: Duration, to: Duration) -> Vec<Call> {
        let calls = self.calls.iter().copied();
        calls
            .filter(|call| (from..to).contains(&call.began))
            .collect()
    }

    /// Retries and hedges, in per cent of the calls.
    pub(crate) fn extra_percent(&self) -> f64 {
        self.extra as f64 * 100.0 / self.calls.len().max(1) as f64
    }

    /// The share of one backend in what all of them got between two times, in per cent.
    pub(crate) fn share(&self, node: usize, from: Duration, to: Duration) -> f64 {
        let all = self.nodes.iter().map(|node| node.received(from, to));
        ratio(self.nodes[node].received(from, to), all.sum()) * 100.0
    }
}

pub(crate) fn failed(calls: &[Call]) -> usize {
    calls.iter().filter(|call| !call.ok).count()
}

/// Quantiles of what the successful calls took, in ms.
pub(crate) fn quantiles<const N: usize>(calls: &[Call], at: [f64; N]) -> [f64; N] {
    let took = calls.iter().filter(|call| call.ok).map(|call| call.took);
    let mut took: Vec<_> = took.collect();
    took.sort_unstable();
    at.map(|at| {
        let rank = (took.len() as f64 * at).ceil() as usize;
        let quantile = took.get(rank.max(1) - 1);
        quantile.map_or(f64::NAN, |took| ms(*took))
    })
}

/// The mean of what the successful calls took, in ms.
pub(crate) fn mean(calls: &[Call]) -> f64 {
    let took = calls.iter().filter(|call| call.ok).map(|call| call.took);
    let sum: Duration = took.sum();
    ms(sum) / (calls.len() - failed(calls)) as f64
}

/// How long after `from` the last tenth of a second ended in which things were bad, up to `to`, in
/// seconds. `bad` is given the calls that ended in it.
pub(crate) fn last_bad(
    calls: &[Call],
    from: Duration,
    to: Duration,
    bad: impl Fn(&[Call]) -> bool,
) -> f64 {
    let (first, end) = (bucket(from), bucket(to));
    let mut ended = vec![Vec::new(); end - first];
    for call in calls {
        let bucket = bucket(call.ended());
        if (first..end).contains(&bucket) {
            ended[bucket - first].push(*call);
        }
    }
    let last = ended
        .iter()
        .rposition(|calls| !calls.is_empty() && bad(calls));
    last.map_or(0.0, |last| (BUCKET * (last as u32 + 1)).as_secs_f64())
}

/// Whether one in a thousand fails, or more.
pub(crate) fn fails(calls: &[Call]) -> bool {
    failed(calls) * 1_000 >= calls.len()
}
