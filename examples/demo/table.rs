//! What people see of the demo: a table that is drawn over itself, and the events above it.

use std::{
    collections::BTreeMap,
    fmt,
    io::{IsTerminal as _, Write as _, stdout},
    time::{Duration, Instant},
};

use rustix::termios::tcgetwinsize;
use tower_roster::balance::{BalanceEvent, EndpointInfo, EndpointState};

use crate::{
    common::{
        figures::{Figures, PerInstance, Summary},
        terminal::{bar, paint},
        told,
    },
    scenario::Happening,
};

/// With it a row is as wide as the narrowest common terminal, 80 columns. A full one is half of all.
const BAR: usize = 6;

/// The lines of a table of the five servers at the start.
const FIRST_TABLE: usize = 11;

/// What is left of such a row beside the instance, its state and its weight.
const REST: usize = 52;

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
    second: BTreeMap<String, Second>,
    /// When ejected instances are probed.
    probes: BTreeMap<String, Instant>,
    /// Instances that left with requests in flight, and how many at that time.
    draining: BTreeMap<String, usize>,
    started: bool,
    /// The terminal was too low for the table, and the user was told so.
    too_low: bool,
    /// Nobody reads any more.
    closed: bool,
}

/// What was sent to an instance in the last four frames.
#[derive(Default)]
struct Second {
    attempts: [u64; 4],
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
            probes: BTreeMap::new(),
            draining: BTreeMap::new(),
            started: false,
            too_low: false,
            closed: false,
        };
        if show != Show::Nothing {
            table.print(format_args!(
                "registry  {url}\nclient    http://user-service/\n\n"
            ));
        }
        table
    }

    /// Prints a line, where anything is printed.
    pub fn note(&mut self, line: &str) {
        if self.show != Show::Nothing {
            self.print(format_args!("{line}\n\n"));
        }
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
            "crash" | "remove" | "ejected" => "31",
            "leave" | "slow" | "spared" => "33",
            "join" | "insert" | "restored" => "32",
            _ => "36",
        };
        let event = paint(colour, &format!("{event:<9}"));
        self.print(format_args!(
            "{:>5.1} s  {event} {:<8} {}\n",
            *at_ms as f64 / 1_000.0,
            instance.as_deref().unwrap_or_default(),
            detail.as_deref().unwrap_or_default()
        ));
    }

    /// Notes what the list of endpoints does not tell.
    pub fn hear(&mut self, event: &BalanceEvent) {
        match event {
            BalanceEvent::Ejected { key, time, .. } => {
                let at = time.map(|time| Instant::now() + time);
                self.probes.extend(at.map(|at| (key.id().to_owned(), at)));
            }
            BalanceEvent::Restored { key, .. } => {
                self.probes.remove(key.id());
            }
            BalanceEvent::Removed { key, in_flight, .. } if *in_flight > 0 => {
                self.draining.insert(key.id().to_owned(), *in_flight);
            }
            BalanceEvent::Drained { key, .. } | BalanceEvent::Added { key, .. } => {
                self.draining.remove(key.id());
            }
            _ => {}
        }
    }

    /// Draws the table anew.
    pub fn draw(
        &mut self,
        at: Duration,
        endpoints: &[EndpointInfo],
        instances: &BTreeMap<String, PerInstance>,
        summary: &Summary,
    ) {
        for (id, instance) in instances {
            let second = self.second.entry(id.clone()).or_default();
            second.at = (second.at + 1) % 4;
            second.attempts[second.at] = instance.recent.attempts;
        }
        if self.show != Show::Live {
            return;
        }
        self.erase();
        let heading = format!(
            "{:<8}  {:<8}  {:>6}  {:>7}  {:<BAR$}  {:>9}  {:>7}  {:>6}  {:>6}",
            "instance", "state", "weight", "share", "", "in flight", "load", "sent", "failed"
        );
        let mut lines = vec![String::new(), paint("1", &heading)];
        let total: u64 = self.second.values().map(Second::sum).sum();
        // Those that are gone keep their place.
        let mut ids: Vec<&str> = instances.keys().map(String::as_str).collect();
        ids.extend(endpoints.iter().map(|endpoint| endpoint.key.id()));
        ids.sort_unstable();
        ids.dedup();
        for id in ids {
            let endpoint = endpoints.iter().find(|endpoint| endpoint.key.id() == id);
            lines.push(match endpoint {
                Some(endpoint) => self.row(endpoint, instances.get(id), total),
                None => self.gone(id, instances.get(id)),
            });
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
        lines.push(told::done(summary).unwrap_or_default());
        // The cursor goes up to draw the next table over this one, and stops at the top of the screen.
        // While the first servers register, room for all of them is asked for: else a low terminal would
        // show a part of a table.
        let needed = (lines.len() + 1).max(FIRST_TABLE);
        let rows = tcgetwinsize(stdout()).map_or(0, |size| usize::from(size.ws_row));
        if rows > 0 && rows < needed {
            if !std::mem::replace(&mut self.too_low, true) {
                self.print(format_args!(
                    "the table is not shown: it needs {needed} lines, and this terminal has {rows}\n"
                ));
            }
            return;
        }
        // Cut, not wrapped, where the terminal is narrower: the lines are counted.
        let frame = lines.join("\n");
        self.print(format_args!("\x1b[?7l{frame}\n\x1b[?7h"));
        self.drawn = lines.len();
        self.started = true;
    }

    fn row(&self, endpoint: &EndpointInfo, instance: Option<&PerInstance>, total: u64) -> String {
        let id = endpoint.key.id();
        let (state, colour) = match endpoint.state {
            EndpointState::Active => ("active", "32"),
            EndpointState::Warming => ("warming", "33"),
            EndpointState::Ejected => ("ejected", "31"),
            EndpointState::Probing => ("probing", "33"),
            EndpointState::Weightless => ("drained", "90"),
            _ => ("other", "90"),
        };
        let state = paint(colour, &format!("{state:<8}"));
        // While it warms up, the part of its weight that counts already.
        let weight = match endpoint.state {
            EndpointState::Warming => format!("{:.2}", endpoint.effective_weight),
            _ => endpoint.weight.to_string(),
        };
        let start = format!("{id:<8}  {state}  {weight:>6}");
        if let (EndpointState::Ejected | EndpointState::Probing, Some(cause)) =
            (endpoint.state, &endpoint.cause)
        {
            let mut why = cause.to_string();
            let left = self
                .probes
                .get(id)
                .map(|at| at.saturating_duration_since(Instant::now()));
            if let Some(left) = left {
                why.push_str(&format!(", probe in {:.1} s", left.as_secs_f64()));
            }
            let why: String = why.chars().take(REST).collect();
            return format!("{start}  {}", paint("31", &why));
        }
        let recent = self.second.get(id).map_or(0, Second::sum);
        let share = recent as f64 / total.max(1) as f64;
        format!(
            "{start}  {:>5.1} %  {}  {:>9}  {:>7}  {}",
            share * 100.0,
            paint("36", &bar(share * 2.0, BAR)),
            endpoint.in_flight,
            load(endpoint.load),
            self.counts(instance),
        )
    }

    /// An instance that is not listed any more.
    fn gone(&self, id: &str, instance: Option<&PerInstance>) -> String {
        let (state, in_flight) = match self.draining.get(id) {
            Some(in_flight) => ("draining", in_flight.to_string()),
            None => ("gone", "-".to_owned()),
        };
        let state = paint("90", &format!("{state:<8}"));
        let counts = self.counts(instance);
        format!(
            "{id:<8}  {state}  {:>6}  {:>7}  {:<BAR$}  {in_flight:>9}  {:>7}  {counts}",
            "-", "-", "", "-"
        )
    }

    /// What was sent to an instance, and what of it failed.
    fn counts(&self, instance: Option<&PerInstance>) -> String {
        let (sent, failed) = instance.map_or((0, 0), |i| (i.attempts, i.failed));
        let mut text = format!("{failed:>6}");
        if failed > 0 {
            text = paint("31", &text);
        }
        format!("{sent:>6}  {text}")
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
}

impl Second {
    fn sum(&self) -> u64 {
        self.attempts.iter().sum()
    }
}

/// A load in peak EWMA: seconds.
fn load(seconds: f64) -> String {
    match seconds * 1_000.0 {
        // It was never measured.
        ms if ms > 1e6 => "-".to_owned(),
        ms if ms < 100.0 => format!("{ms:.1} ms"),
        ms => format!("{ms:.0} ms"),
    }
}

/// Prints the end of it.
pub fn summary(summary: &Summary, figures: &Figures, explained: u64, unexplained: u64) {
    let mut text = format!(
        "{} requests: {} ok, {} failed",
        summary.requests, summary.ok, summary.failed
    );
    if summary.failed > 0 {
        text.push_str(&format!(
            "\n  {explained:>6} sent to the crashed server before its crash was seen\n  {unexplained:>6} others"
        ));
    }
    text.push_str(&format!("\n{}", figures.quantiles()));
    if let Some(done) = told::done(summary) {
        text.push_str(&format!("\n{done}"));
    }
    let (histogram, instances) = figures.latencies();
    for line in histogram.into_iter().chain(instances) {
        text.push_str(&format!("\n{line}"));
    }
    let _ = crate::common::say(text);
}
