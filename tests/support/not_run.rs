//! Keeps the list of tests that found no server, for the last test target to print.
//!
//! Each run of cargo has its own list, named after the process that started the test binaries and
//! the moment that process started: so a list of an earlier run is never mistaken for this one's,
//! and runs side by side do not mix.

use std::{
    fs::{self, OpenOptions},
    io::Write,
    path::PathBuf,
};

const HELP: &str = "`tests/run.sh` gets the servers and runs every test; or set CONSUL_BIN and \
                    ETCD_BIN to their programs, or put these on PATH, and BIND_ROOT and \
                    ZOOKEEPER_ROOT; a browser is not among them: `apt-get install chromium chromium-driver`";

/// Notes that `test` did not run for want of `server`, or fails it when servers are required.
pub fn note(test: &str, server: &str) {
    // `tests/run.sh` gets every server, but no browser.
    let variable = match server {
        "chromium" => "ROSTER_REQUIRE_BROWSER",
        _ => "ROSTER_REQUIRE_SERVERS",
    };
    if std::env::var(variable).is_ok_and(|v| v == "1") {
        panic!("{test} needs {server}, and there is none: {HELP}");
    }
    eprintln!("not run, no {server}: {test}");
    fs::create_dir_all(dir()).expect("a folder for the list of tests not run");
    let mut list = OpenOptions::new()
        .create(true)
        .append(true)
        .open(dir().join(run_id()))
        .expect("the list of tests not run");
    // One write, so that lines of several threads and processes do not mix.
    list.write_all(format!("{server} {test}\n").as_bytes())
        .expect("the list of tests not run");
}

/// Takes this run's list and removes those of runs that are over.
pub fn take() -> Vec<String> {
    let mine = run_id();
    let mut tests = Vec::new();
    for entry in fs::read_dir(dir()).into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        if name == mine {
            let list = fs::read_to_string(entry.path()).unwrap_or_default();
            tests.extend(list.lines().map(String::from));
        } else if is_running(&name) {
            continue;
        }
        let _ = fs::remove_file(entry.path());
    }
    tests.sort();
    tests.dedup();
    tests
}

/// Prints what [`take`] returns, in words; nothing when every test ran.
pub fn report() {
    let tests = take();
    if tests.is_empty() {
        return;
    }
    println!(
        "\n{} tests did NOT run, because there is no server for them:",
        tests.len()
    );
    for test in &tests {
        println!(
            "  {}",
            test.split_once(' ').map_or(&**test, |(_, test)| test)
        );
    }
    let mut servers: Vec<_> = tests
        .iter()
        .filter_map(|test| test.split(' ').next())
        .collect();
    servers.dedup();
    println!("They need {}. {HELP}.\n", servers.join(" and "));
}

fn dir() -> PathBuf {
    PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("not-run")
}

fn run_id() -> String {
    let parent = std::os::unix::process::parent_id();
    format!("{parent}-{}", start_time(parent).unwrap_or_default())
}

fn is_running(id: &str) -> bool {
    let Some((pid, started)) = id.split_once('-') else {
        return false;
    };
    pid.parse()
        .ok()
        .and_then(start_time)
        .is_some_and(|now| now == started)
}

/// The start of a process in ticks since boot, where the system tells; a process id alone may be
/// used again.
fn start_time(pid: u32) -> Option<String> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The second field is a name in parentheses and may hold spaces; the start is field 22.
    let (_, rest) = stat.rsplit_once(") ")?;
    rest.split(' ').nth(19).map(String::from)
}
