//! What is printed: a table, or one JSON object.

use std::process::Command;

use serde_json::{Value, json};

use super::measure::Samples;

/// What a figure must reach.
#[derive(Clone, Copy)]
pub enum Bar {
    /// The baseline takes at least this many times as long.
    BaselineTakes(f64),
    /// Ours is at least this many times the baseline.
    AtLeast(f64),
    /// Ours is at most this many times the baseline.
    AtMost(f64),
    /// Ours is at most this, in its unit.
    Limit(f64),
    /// There is none: it stands there to be seen.
    None,
}

pub struct Row {
    figure: String,
    unit: &'static str,
    ours: Samples,
    baseline: Option<(String, Samples)>,
    bar: Bar,
}

impl Row {
    pub fn new(figure: impl Into<String>, unit: &'static str, ours: &Samples) -> Self {
        Self {
            figure: figure.into(),
            unit,
            ours: ours.clone(),
            baseline: None,
            bar: Bar::None,
        }
    }

    pub fn against(mut self, name: impl Into<String>, baseline: &Samples) -> Self {
        self.baseline = Some((name.into(), baseline.clone()));
        self
    }

    pub fn bar(mut self, bar: Bar) -> Self {
        self.bar = bar;
        self
    }

    fn ratio(&self) -> Option<Samples> {
        let (_, baseline) = self.baseline.as_ref()?;
        Some(match self.bar {
            Bar::BaselineTakes(_) => baseline.per(&self.ours),
            _ => self.ours.per(baseline),
        })
    }

    fn bar_text(&self) -> String {
        match self.bar {
            Bar::BaselineTakes(least) => format!("baseline takes ≥ {least} ×"),
            Bar::AtLeast(least) => format!("≥ {least} ×"),
            Bar::AtMost(most) => format!("≤ {most} ×"),
            Bar::Limit(most) => format!("≤ {most} {}", self.unit).trim_end().to_owned(),
            Bar::None => String::new(),
        }
    }

    pub fn met(&self) -> Option<bool> {
        let ratio = self.ratio().map(|ratio| ratio.median());
        match self.bar {
            Bar::BaselineTakes(least) | Bar::AtLeast(least) => ratio.map(|ratio| ratio >= least),
            Bar::AtMost(most) => ratio.map(|ratio| ratio <= most),
            Bar::Limit(most) => Some(self.ours.median() <= most),
            Bar::None => None,
        }
    }

    fn cells(&self) -> [String; 6] {
        let ours = figure(&self.ours, self.unit);
        let baseline = self
            .baseline
            .as_ref()
            .map(|(name, baseline)| format!("{} {name}", figure(baseline, self.unit)));
        let met = self.met().map(|met| if met { "yes" } else { "NO" });
        [
            self.figure.clone(),
            ours,
            baseline.unwrap_or_default(),
            self.ratio()
                .map(|ratio| figure(&ratio, "×"))
                .unwrap_or_default(),
            self.bar_text(),
            met.unwrap_or_default().to_owned(),
        ]
    }

    fn json(&self) -> Value {
        let samples = |samples: &Samples| json!({ "median": samples.median(), "middle_half": samples.spread() });
        let baseline = self.baseline.as_ref().map(|(name, baseline)| {
            let mut value = samples(baseline);
            value["name"] = json!(name);
            value
        });
        json!({
            "figure": self.figure,
            "unit": self.unit,
            "ours": samples(&self.ours),
            "baseline": baseline,
            "ratio": self.ratio().as_ref().map(samples),
            "bar": self.bar_text(),
            "met": self.met(),
        })
    }
}

fn number(value: f64) -> String {
    match value {
        value if value >= 1e6 => format!("{:.2} M", value / 1e6),
        value if value >= 1e3 => format!("{:.1} k", value / 1e3),
        value if value >= 100.0 => format!("{value:.0}"),
        value if value >= 10.0 => format!("{value:.1}"),
        0.0 => "0".to_owned(),
        value => format!("{value:.2}"),
    }
}

/// The median, its unit, and in brackets the middle half of the rounds.
fn figure(samples: &Samples, unit: &str) -> String {
    let median = format!("{} {unit}", number(samples.median()));
    let [low, high] = samples.spread();
    if samples.0.len() < 2 {
        return median;
    }
    format!("{median} [{}–{}]", number(low), number(high))
}

pub fn print_table(sections: &[(&str, Vec<Row>)]) {
    let head = ["figure", "ours", "baseline", "ratio", "bar", "met"].map(str::to_owned);
    let all = sections
        .iter()
        .flat_map(|(_, rows)| rows.iter().map(Row::cells));
    let mut widths = head.clone().map(|cell| cell.chars().count());
    for cells in all {
        for (width, cell) in widths.iter_mut().zip(&cells) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let line = |cells: &[String; 6]| {
        let padded = cells.iter().zip(widths);
        let padded: Vec<_> = padded
            .map(|(cell, width)| format!("{cell:width$}"))
            .collect();
        println!("{}", padded.join("  ").trim_end());
    };
    println!("{}\n", machine().join("\n"));
    line(&head);
    for (section, rows) in sections {
        println!("\n{section}");
        rows.iter().for_each(|row| line(&row.cells()));
    }
    println!("\nMedians of interleaved rounds; in brackets the middle half of them.");
}

pub fn print_json(sections: &[(&str, Vec<Row>)]) {
    let sections = sections.iter().map(|(name, rows)| {
        let rows: Vec<_> = rows.iter().map(Row::json).collect();
        json!({ "section": name, "rows": rows })
    });
    let [hardware, compiler, commit] = machine();
    let report = json!({
        "hardware": hardware,
        "compiler": compiler,
        "commit": commit,
        "sections": sections.collect::<Vec<_>>(),
    });
    println!("{report}");
}

/// Hardware, compiler and commit.
fn machine() -> [String; 3] {
    let run = |program: &str, arguments: &[&str]| {
        let output = Command::new(program).args(arguments).output().ok();
        let output = output.filter(|output| output.status.success());
        let text = output.map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned());
        text.unwrap_or_else(|| "unknown".to_owned())
    };
    let cpus = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpus.lines().find(|line| line.starts_with("model name"));
    let model = model.and_then(|line| line.split(": ").nth(1));
    let cores = std::thread::available_parallelism().map_or(0, |cores| cores.get());
    let commit = run("git", &["describe", "--always", "--dirty", "--abbrev=10"]);
    [
        format!("{cores} × {}", model.unwrap_or("unknown")),
        run("rustc", &["--version"]),
        format!("commit {commit}"),
    ]
}
