//! The dashboard and the alerts of `examples/grafana/`: each query names metrics and labels that the crate
//! emits, and Prometheus accepts it.
#![allow(clippy::unwrap_used)]

mod scrape;
#[path = "../support/mod.rs"]
mod support;

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    process::Command,
};

use serde_json::Value;

use support::need;

const FOLDER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/grafana");

/// The table of the metrics, which another test compares with what is really emitted.
const TABLE: &str = include_str!("../../src/docs/metrics.md");

/// What Prometheus and Grafana add.
const THEIR_LABELS: [&str; 3] = ["instance", "job", "le"];

fn dashboard() -> Value {
    let text = fs::read_to_string(format!("{FOLDER}/dashboard.json")).unwrap();
    serde_json::from_str(&text).unwrap()
}

fn alerts() -> String {
    fs::read_to_string(format!("{FOLDER}/alerts.yml")).unwrap()
}

/// All expressions of the dashboard, with the variables of Grafana filled in.
fn queries() -> Vec<String> {
    fn collect(value: &Value, found: &mut Vec<String>) {
        match value {
            Value::Object(map) => {
                if let Some(Value::String(query)) = map.get("expr") {
                    found.push(query.clone());
                }
                map.values().for_each(|value| collect(value, found));
            }
            Value::Array(list) => list.iter().for_each(|value| collect(value, found)),
            _ => {}
        }
    }
    let mut found = Vec::new();
    collect(&dashboard(), &mut found);
    let filled = found.into_iter().map(|query| {
        let query = query.replace("$__rate_interval", "1m");
        query.replace("$service", ".*")
    });
    filled.collect()
}

/// The expressions of the alerts. They are few, and in two forms only.
fn conditions() -> Vec<String> {
    let text = alerts();
    let (mut found, mut lines) = (Vec::new(), text.lines().peekable());
    while let Some(line) = lines.next() {
        let Some(start) = line.strip_prefix("        expr: ") else {
            continue;
        };
        let mut expr = start.trim_start_matches(">-").to_owned();
        while let Some(more) = lines.next_if(|line| line.starts_with("          ")) {
            expr.push(' ');
            expr.push_str(more.trim());
        }
        found.push(expr);
    }
    found
}

/// The metrics of the table, and the labels of each.
fn emitted() -> BTreeMap<&'static str, BTreeSet<&'static str>> {
    let rows = TABLE.lines().filter_map(|line| {
        let cells: Vec<_> = line.trim_matches('|').split('|').map(str::trim).collect();
        let name = cells.first()?.strip_prefix("`roster_")?;
        let name = &cells[0][1..name.len() + 7];
        let mut labels = BTreeSet::from(["service"]);
        for label in cells[2].split(',').map(str::trim) {
            match label
                .strip_prefix('`')
                .and_then(|rest| rest.strip_suffix('`'))
            {
                Some(label) => _ = labels.insert(label),
                None if label == "*by*" => labels.extend(["endpoint", "zone", "version"]),
                None => assert_eq!(label, "", "{line}"),
            }
        }
        Some((name, labels))
    });
    rows.collect()
}

/// The words of a query outside of its texts, with what follows.
fn words(query: &str) -> Vec<(String, char)> {
    let (mut words, mut word, mut quoted) = (Vec::new(), String::new(), false);
    for c in query.chars().chain([' ']) {
        match c {
            '"' => quoted = !quoted,
            _ if quoted => {}
            c if c.is_ascii_alphanumeric() || c == '_' => word.push(c),
            c if !word.is_empty() => words.push((std::mem::take(&mut word), c)),
            _ => {}
        }
    }
    words
}

#[test]
fn every_query_names_metrics_and_labels_that_are_emitted() {
    let emitted = emitted();
    assert!(emitted.len() > 20, "{emitted:?}");
    let mut used = BTreeSet::new();
    let all: Vec<_> = queries().into_iter().chain(conditions()).collect();
    assert!(all.len() > 30);
    for query in &all {
        let named: Vec<_> = words(query)
            .into_iter()
            .filter(|(word, _)| word.starts_with("roster_"))
            .map(|(word, _)| {
                let parts = ["_bucket", "_sum", "_count"];
                let whole = parts.iter().find_map(|part| word.strip_suffix(part));
                whole.unwrap_or(&word).to_owned()
            })
            .collect();
        assert!(!named.is_empty(), "{query}");
        let mut labels: BTreeSet<_> = THEIR_LABELS.into();
        for name in &named {
            let known = emitted.get(&**name);
            let known = known.unwrap_or_else(|| panic!("{name} is not emitted: {query}"));
            labels.extend(known);
            used.insert(name.clone());
        }
        for group in query.split("by (").skip(1) {
            let group = group.split(')').next().unwrap();
            for label in group.split(',').map(str::trim) {
                assert!(labels.contains(label), "no label {label}: {query}");
            }
        }
        for matchers in query.split('{').skip(1) {
            let matchers = matchers.split('}').next().unwrap();
            for label in words(matchers).into_iter().filter(|(_, next)| *next == '=') {
                assert!(labels.contains(&*label.0), "no label {}: {query}", label.0);
            }
        }
    }
    for name in [
        "roster_requests_total",
        "roster_ejections_total",
        "roster_registry_silent_seconds",
    ] {
        assert!(used.contains(name), "{name} must be on the dashboard");
    }
}

#[test]
fn prometheus_accepts_the_alerts_and_every_query() {
    let prometheus = need!(prometheus);
    let promtool = prometheus.with_file_name("promtool");
    let check = |file: &str| {
        let checked = Command::new(&promtool)
            .args(["check", "rules", file])
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&checked.stdout).into_owned()
            + &String::from_utf8_lossy(&checked.stderr);
        assert!(checked.status.success(), "{said}");
        said
    };
    let said = check(&format!("{FOLDER}/alerts.yml"));
    let rules = conditions().len();
    assert!(said.contains(&format!("{rules} rules found")), "{said}");
    // Queries of the dashboard as rules, which the tool parses alike.
    let mut text = String::from("groups: [{name: queries, rules: [\n");
    for (at, query) in queries().iter().enumerate() {
        let query = serde_json::to_string(query).unwrap();
        text.push_str(&format!("{{record: 'query:{at}', expr: {query}}},\n"));
    }
    text.push_str("]}]\n");
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("queries.yml");
    fs::write(&file, text).unwrap();
    check(file.to_str().unwrap());
}
