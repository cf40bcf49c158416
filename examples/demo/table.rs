//! What people see of the demo: a table that is drawn over itself, and the events above it.

use std::{
    collections::BTreeMap,
    io::{IsTerminal, Write as _, stdout},
    time::Duration,
};

use tower_roster::catalog::InstanceSet;

use crate::{
    common::figures::{PerInstance, Summary},
    scenario::Happening,
};

const BAR: usize = 20;

#[derive(Clone, Copy, PartialEq)]
enum Show {
    /// Draw a table over itself.
    Live,
    /// Only print events: the output is not a terminal.
    Events,
    Nothing,
}

pub struct Table {
    show: Show,
    /// The lines of the table on the screen now.
    drawn: usize,
    /// Frames since the figures of the last second were taken.
    second: BTreeMap<String, Second>,
    started: bool,
}

/// The last four frames of an instance.
#[derive(Default)]
struct Second {
    requests: [u64; 4],
    p50: Option<f64>,
    p99: Option<f64>,
    at: usize,
}

impl Table {
    pub fn new(json: bool, url: &str) -> Self {
        let show = match (json, stdout().is_terminal()) {
            (true, _) => Show::Nothing,
            (false, true) => Show::Live,
            (false, false) => Show::Events,
        };
        if show != Show::Nothing {
            println!("registry  {url}");
            println!("client    http://user-service/\n");
        }
        Self {
            show,
            drawn: 0,
            second: BTreeMap::new(),
            started: false,
        }
    }

    /// Prints an event, above the table.
    pub fn tell(&mut self, happening: &Happening) {
        if self.show == Show::Nothing {
            return;
        }
        self.erase();
        let Happening {
            at_ms,
            event,
            instance,
            detail,
        } = happening;
        let colour = match *event {
            "crash" | "remove" => "31",
            "leave" | "slow" => "33",
            "join" | "insert" => "32",
            _ => "36",
        };
        let event = self.paint(colour, &format!("{event:<7}"));
        println!(
            "{:>5.1} s  {event} {:<8} {}",
            *at_ms as f64 / 1_000.0,
            instance.as_deref().unwrap_or_default(),
            detail.as_deref().unwrap_or_default()
        );
    }

    /// Draws the table anew.
    pub fn draw(
        &mut self,
        at: Duration,
        listed: &InstanceSet,
        instances: &BTreeMap<String, PerInstance>,
        summary: &Summary,
    ) {
        for (id, instance) in instances {
            let second = self.second.entry(id.clone()).or_default();
            second.at = (second.at + 1) % 4;
            second.requests[second.at] = instance.recent.requests;
            if instance.recent.requests > 0 {
                second.p50 = instance.recent.quantile_ms(0.5);
                second.p99 = instance.recent.quantile_ms(0.99);
            }
        }
        if self.show != Show::Live {
            return;
        }
        self.erase();
        let total: u64 = self
            .second
            .values()
            .map(|s| s.requests.iter().sum::<u64>())
            .sum();
        let mut lines = vec![
            String::new(),
            self.paint(
                "1",
                &format!(
                    "{:<10} {:<9} {:>7}  {:<BAR$} {:>9} {:>9} {:>9} {:>7}",
                    "instance", "state", "share", "", "p50", "p99", "requests", "failed"
                ),
            ),
        ];
        let mut ids: Vec<&str> = instances.keys().map(String::as_str).collect();
        ids.extend(
            listed
                .iter()
                .map(|i| i.id())
                .filter(|id| !instances.contains_key(*id)),
        );
        ids.sort_unstable();
        for id in ids {
            lines.push(self.row(id, listed, instances.get(id), total));
        }
        lines.push(String::new());
        lines.push(format!(
            "{:>5.1} s   {} requests, {} ok, {} failed   p50 {:.1} ms   p99 {:.1} ms",
            at.as_secs_f64(),
            summary.requests,
            summary.ok,
            summary.failed,
            summary.p50_ms,
            summary.p99_ms
        ));
        for line in &lines {
            println!("{line}");
        }
        self.drawn = lines.len();
        self.started = true;
        let _ = stdout().flush();
    }

    fn row(
        &self,
        id: &str,
        listed: &InstanceSet,
        instance: Option<&PerInstance>,
        total: u64,
    ) -> String {
        let (state, colour) = match listed.iter().find(|i| i.id() == id) {
            Some(known) => (known.status.to_string(), "32"),
            None => ("gone".to_owned(), "90"),
        };
        let second = self.second.get(id);
        let recent: u64 = second.map_or(0, |second| second.requests.iter().sum());
        let share = recent as f64 / total.max(1) as f64;
        let filled = ((share * 2.0 * BAR as f64).round() as usize).min(BAR);
        let ms = |ms: Option<f64>| match ms {
            Some(ms) if recent > 0 => format!("{ms:.1} ms"),
            _ => "-".to_owned(),
        };
        let (requests, failed) = instance.map_or((0, 0), |i| (i.requests, i.failed));
        let failed = match failed {
            0 => format!("{:>7}", 0),
            failed => self.paint("31", &format!("{failed:>7}")),
        };
        format!(
            "{id:<10} {} {:>5.1} %  {} {:>9} {:>9} {requests:>9} {failed}",
            self.paint(colour, &format!("{state:<9}")),
            share * 100.0,
            self.paint("36", &format!("{:<BAR$}", "█".repeat(filled))),
            ms(second.and_then(|second| second.p50)),
            ms(second.and_then(|second| second.p99)),
        )
    }

    /// Leaves the last table on the screen.
    pub fn close(&mut self) {
        self.drawn = 0;
        if self.show == Show::Live && self.started {
            println!();
        }
    }

    fn erase(&mut self) {
        if self.drawn > 0 {
            // Up to the first line of the table, and clear from there on.
            print!("\x1b[{}A\x1b[J", self.drawn);
            self.drawn = 0;
        }
    }

    fn paint(&self, colour: &str, text: &str) -> String {
        if self.show == Show::Live && std::env::var_os("NO_COLOR").is_none() {
            format!("\x1b[{colour}m{text}\x1b[0m")
        } else {
            text.to_owned()
        }
    }
}

/// Prints the end of it.
pub fn summary(summary: &Summary, explained: u64, unexplained: u64) {
    println!("\n{} requests, {} answered", summary.requests, summary.ok);
    println!(
        "{} failed: {explained} sent to the crashed server before its crash was seen, {unexplained} others",
        summary.failed
    );
    println!(
        "latency p50 {:.1} ms, p99 {:.1} ms, p99.9 {:.1} ms",
        summary.p50_ms, summary.p99_ms, summary.p999_ms
    );
    let total: u64 = summary.per_instance.values().sum();
    for (id, requests) in &summary.per_instance {
        let share = 100.0 * *requests as f64 / total.max(1) as f64;
        println!("  {id:<8} {requests:>6} requests  {share:>5.1} %");
    }
}
