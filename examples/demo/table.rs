//! What people see of the demo: a table that is drawn over itself, and the events above it.

use std::{
    collections::BTreeMap,
    fmt,
    io::{IsTerminal, Write as _, stdout},
    time::Duration,
};

use tower_roster::catalog::InstanceSet;

use crate::{
    common::figures::{PerInstance, Summary},
    scenario::Happening,
};

/// With it a row is as wide as the narrowest common terminal, 80 columns.
const BAR: usize = 12;

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
    /// Nobody reads any more.
    closed: bool,
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
        let mut table = Self {
            show,
            drawn: 0,
            second: BTreeMap::new(),
            started: false,
            closed: false,
        };
        if show != Show::Nothing {
            table.print(format_args!(
                "registry  {url}\nclient    http://user-service/\n\n"
            ));
        }
        table
    }

    /// Whether nobody reads any more.
    pub fn is_closed(&self) -> bool {
        self.closed
    }

    fn print(&mut self, text: fmt::Arguments<'_>) {
        let mut out = stdout().lock();
        self.closed |= out.write_fmt(text).and_then(|()| out.flush()).is_err();
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
        self.print(format_args!(
            "{:>5.1} s  {event} {:<8} {}\n",
            *at_ms as f64 / 1_000.0,
            instance.as_deref().unwrap_or_default(),
            detail.as_deref().unwrap_or_default()
        ));
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
            if instance.recent.answers() > 0 {
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
                    "{:<10} {:<9} {:>7}  {:<BAR$} {:>9} {:>9} {:>8} {:>7}",
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
        // Cut, not wrapped, where the terminal is narrower: the lines are counted.
        let frame = lines.join("\n");
        self.print(format_args!("\x1b[?7l{frame}\n\x1b[?7h"));
        self.drawn = lines.len();
        self.started = true;
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
        // Of an instance that gets no requests, such as a slow one, the last that is known.
        let ms = |ms: Option<f64>| match ms {
            Some(ms) if state != "gone" => format!("{ms:.1} ms"),
            _ => "-".to_owned(),
        };
        let (requests, failed) = instance.map_or((0, 0), |i| (i.requests, i.failed));
        let failed = match failed {
            0 => format!("{:>7}", 0),
            failed => self.paint("31", &format!("{failed:>7}")),
        };
        format!(
            "{id:<10} {} {:>5.1} %  {} {:>9} {:>9} {requests:>8} {failed}",
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
            self.print(format_args!("\n"));
        }
    }

    fn erase(&mut self) {
        if self.drawn > 0 {
            // Up to the first line of the table, and clear from there on.
            let drawn = std::mem::take(&mut self.drawn);
            self.print(format_args!("\x1b[{drawn}A\x1b[J"));
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
    let mut text = format!(
        "{} requests: {} ok, {} failed",
        summary.requests, summary.ok, summary.failed
    );
    if summary.failed > 0 {
        text.push_str(&format!(
            "\n  {explained:>6} sent to the crashed server before its crash was seen\n  {unexplained:>6} others"
        ));
    }
    text.push_str(&format!(
        "\nlatency: p50 {:.1} ms, p99 {:.1} ms, p99.9 {:.1} ms",
        summary.p50_ms, summary.p99_ms, summary.p999_ms
    ));
    let total: u64 = summary.per_instance.values().sum();
    for (id, requests) in &summary.per_instance {
        let share = 100.0 * *requests as f64 / total.max(1) as f64;
        text.push_str(&format!(
            "\n  {id:<8} {requests:>6} requests  {share:>5.1} %"
        ));
    }
    let _ = crate::common::say(text);
}
