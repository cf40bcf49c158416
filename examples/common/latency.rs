//! The latencies of a run for people: quantiles, a histogram, and a row for each instance.

use std::collections::BTreeMap;

use hdrhistogram::Histogram;

use super::terminal::{bar, cut, paint, width};

/// Of these the first line tells.
const QUANTILES: [(&str, f64); 5] = [
    ("p50", 0.5),
    ("p90", 0.9),
    ("p99", 0.99),
    ("p99.9", 0.999),
    ("p99.99", 0.9999),
];

/// The most lines of a histogram.
const LINES: usize = 10;

/// The longest bar.
const BAR: usize = 60;

/// What one instance did, for its row.
#[derive(Clone, Default)]
pub struct InstanceRow {
    pub requests: u64,
    pub sent: u64,
    pub failed: u64,
    /// Of its answers in microseconds, if there were any: p50, p99, p99.9.
    pub latency: Option<[u64; 3]>,
}

/// The quantiles in one line, as many as fit.
pub fn quantiles(latency: &Histogram<u64>) -> String {
    let wide = width();
    let mut line = String::from("latency:");
    for (name, quantile) in QUANTILES {
        let next = format!(" {name} {}", time(latency.value_at_quantile(quantile)));
        if line.chars().count() + next.chars().count() + 1 > wide {
            break;
        }
        if line.ends_with(|c: char| c != ':') {
            line.push(',');
        }
        line.push_str(&next);
    }
    line
}

/// A bar for each step of the latency, with steps of 1, 2 and 5; none for fewer than two requests.
pub fn histogram(latency: &Histogram<u64>) -> Vec<String> {
    let total = latency.len();
    if total < 2 {
        return Vec::new();
    }
    let edges = edges(latency.min(), latency.max());
    let mut from = 0;
    let mut counts: Vec<(u64, u64)> = Vec::new();
    for edge in edges {
        let count = latency.count_between(from, edge.saturating_sub(1));
        from = edge;
        // Below the first request there is nothing to show.
        if count > 0 || !counts.is_empty() {
            counts.push((edge, count));
        }
    }
    let most = counts.iter().map(|(_, count)| *count).max().unwrap_or(1);
    let columns = width().saturating_sub(30).clamp(8, BAR);
    let mut below = 0;
    let line = |(edge, count): (u64, u64)| {
        // By the quantile at which the step begins.
        let colour = match below as f64 / total as f64 {
            at if at >= 0.99 => "31",
            at if at >= 0.9 => "33",
            _ => "32",
        };
        below += count;
        let full = match count {
            0 => 0.0,
            // At least an eighth of a column.
            count => (count as f64 / most as f64).max(0.125 / columns as f64),
        };
        let bar = paint(colour, &bar(full, columns));
        let share = 100.0 * count as f64 / total as f64;
        let line = format!("  < {:>8}  {bar} {share:>6.2} %", time(edge));
        line
    };
    counts.into_iter().map(line).collect()
}

/// The upper edges of the steps, in microseconds: the last is above `max`.
fn edges(min: u64, max: u64) -> Vec<u64> {
    let steps = |per_decade: &'static [f64]| {
        let decades = (0..12).flat_map(move |power| {
            per_decade
                .iter()
                .map(move |step| (step * 10_f64.powi(power)) as u64)
        });
        let above: Vec<u64> = decades.filter(|edge| *edge > min).collect();
        let last = above.iter().position(|edge| *edge > max);
        above[..last.map_or(above.len(), |last| last + 1)].to_vec()
    };
    let fine: [&'static [f64]; 4] = [
        &[1.0, 1.2, 1.5, 2.0, 2.5, 3.0, 4.0, 5.0, 6.0, 8.0],
        &[1.0, 1.5, 2.0, 3.0, 5.0, 7.0],
        &[1.0, 2.0, 5.0],
        &[1.0, 3.0],
    ];
    let mut all = fine.into_iter().map(steps);
    let fits = all.clone().find(|edges| edges.len() <= LINES);
    fits.or_else(|| all.next_back()).unwrap_or_default()
}

/// A row for each instance under a heading, with as many columns as fit.
pub fn rows(instances: &BTreeMap<String, InstanceRow>) -> Vec<String> {
    if instances.is_empty() {
        return Vec::new();
    }
    let wide = width();
    let latencies = match wide {
        0..72 => 1,
        72..96 => 2,
        _ => 3,
    };
    let total: u64 = instances.values().map(|row| row.requests).sum();
    let bars = if wide >= 96 { (wide - 90).min(20) } else { 0 };
    let mut heading = String::from("    sent    failed  requests");
    if bars > 0 {
        heading.push_str(&" ".repeat(bars + 1));
    }
    for name in ["p50", "p99", "p99.9"].into_iter().take(latencies) {
        heading.push_str(&format!("  {name:>8}"));
    }
    let left = wide.saturating_sub(heading.chars().count() + 2).max(8);
    let mut lines = vec![paint("1", &format!("{heading}  instance"))];
    for (id, row) in instances {
        let share = row.requests as f64 / total.max(1) as f64;
        let mut failed = format!("{:>8}", row.failed);
        if row.failed > 0 {
            failed = paint("31", &failed);
        }
        let mut line = format!("{:>8}  {failed}  {:>6.1} %", row.sent, 100.0 * share);
        if bars > 0 {
            // A full bar is twice an equal share.
            let full = share * instances.len() as f64 / 2.0;
            line.push_str(&format!(" {}", paint("36", &bar(full, bars))));
        }
        for at in 0..latencies {
            let shown = row.latency.map_or("-".to_owned(), |known| time(known[at]));
            line.push_str(&format!("  {shown:>8}"));
        }
        lines.push(format!("{line}  {}", cut(id, left)));
    }
    lines
}

/// Microseconds in a unit that fits.
fn time(micros: u64) -> String {
    let ms = micros as f64 / 1_000.0;
    match ms {
        ms if ms < 9.995 => format!("{ms:.2} ms"),
        ms if ms < 99.95 => format!("{ms:.1} ms"),
        ms if ms < 9_999.5 => format!("{ms:.0} ms"),
        ms => format!("{:.1} s", ms / 1_000.0),
    }
}
