//! The results as text.

use std::time::Duration;

use super::{Column, Done, cell::Outcome, fault::Fault};

fn seconds(time: Duration) -> String {
    format!("{:.1} s", time.as_secs_f64())
}

fn after(outcome: &Outcome) -> String {
    match outcome.early {
        true => "before".to_owned(),
        false => seconds(outcome.right),
    }
}

/// The rest of the line of one cell.
pub(crate) fn line(outcome: Option<&Outcome>) -> String {
    let Some(outcome) = outcome else {
        return ": it panicked".to_owned();
    };
    let mut line = format!(
        ": {} of {} requests failed; right after {} (the registry itself after {})",
        outcome.failed,
        outcome.sent,
        after(outcome),
        seconds(outcome.own)
    );
    if outcome.kept < 3 {
        line.push_str(&format!(
            "; knew {} of 3 that ran all the time",
            outcome.kept
        ));
    }
    if let Some(why) = &outcome.why {
        line.push_str(&format!("; the first: {why}"));
    }
    line
}

/// A row for each fault, a column for each registry.
pub(crate) fn markdown(columns: &[Column], done: &[Done]) -> String {
    let shown: Vec<_> = (0..columns.len())
        .filter(|n| done.iter().any(|done| done.column == *n))
        .collect();
    let row = |first: &str, cells: Vec<String>| format!("| {first} | {} |\n", cells.join(" | "));
    let title = |n: &usize| columns[*n].title.to_owned();
    let mut text = row("fault", shown.iter().map(title).collect());
    text.push_str(&format!("|---{}|\n", "|---".repeat(shown.len())));
    for fault in Fault::ALL {
        if !done.iter().any(|done| done.fault == fault) {
            continue;
        }
        let cell = |n: &usize| {
            if let Some(reason) = (columns[*n].lacks)(fault) {
                return format!("({reason})");
            }
            let found = done
                .iter()
                .find(|done| (done.fault, done.column) == (fault, *n));
            found.map_or_else(|| "not run".to_owned(), of)
        };
        text.push_str(&row(&heading(fault), shown.iter().map(cell).collect()));
    }
    text
}

fn heading(fault: Fault) -> String {
    match fault.lasts() {
        Duration::ZERO => fault.title().to_owned(),
        time => format!("{}, {} s", fault.title(), time.as_secs()),
    }
}

fn of(done: &Done) -> String {
    let Some(outcome) = &done.outcome else {
        return "**failed**".to_owned();
    };
    let text = format!(
        "{} · {} ({})",
        outcome.failed,
        after(outcome),
        seconds(outcome.own)
    );
    match outcome.passes() {
        true => text,
        false => format!("**{text}**"),
    }
}
