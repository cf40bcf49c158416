//! What the failures of a registry cost a client: each fault on each registry, with real servers.
//!
//! `tests/run.sh --test faults -- --all` gets the servers and prints the table of `docs::faults`; words after
//! it choose cells, such as `etcd-3` or `consul/paused`. Without `--all`, one short cell of each registry
//! runs, as a test of this program.
//!
//! In a cell, four HTTP servers are registered, and a client with the defaults of this crate sends 50
//! requests a second to the service by its name. While the fault lasts, one of the servers dies and another
//! one begins, so the client's set must change. Counted as failed is *every* request that failed for its
//! caller, for whatever reason: three servers work all the time, so that a client which knows them can serve
//! every request. A request that was sent to the server that died counts if nothing sent it again.
#![allow(clippy::unwrap_used)]

#[path = "../support/mod.rs"]
mod support;

mod cell;
mod fault;
mod garbage;
mod place;
mod table;

use std::{
    process::ExitCode,
    sync::{Arc, Mutex},
    thread,
    time::{Duration, Instant},
};

use self::{
    cell::Outcome,
    fault::Fault,
    place::{Consul, Consul3, Dns, Etcd1, Etcd3, Place, Rest, Zookeeper1, Zookeeper3},
};

/// A column of the table.
#[derive(Clone, Copy)]
struct Column {
    name: &'static str,
    title: &'static str,
    /// The server that it needs.
    needs: Option<&'static str>,
    there: fn() -> bool,
    lacks: fn(Fault) -> Option<&'static str>,
    run: fn(Fault, Starts) -> Outcome,
}

/// How many places may start their servers at once.
type Starts = Arc<tokio::sync::Semaphore>;

fn column<P: Place>(
    name: &'static str,
    title: &'static str,
    needs: Option<&'static str>,
    there: fn() -> bool,
) -> Column {
    Column {
        name,
        title,
        needs,
        there,
        lacks: P::lacks,
        run: run::<P>,
    }
}

fn columns() -> Vec<Column> {
    let consul = || support::consul::binary().is_some();
    let etcd = || support::etcd::binary().is_some();
    let zk = || support::zookeeper::binary().is_some();
    let bind = || support::bind::binary().is_some();
    vec![
        column::<Consul>("consul", "Consul", Some("consul"), consul),
        column::<Consul3>("consul-3", "Consul, 3 servers", Some("consul"), consul),
        column::<Zookeeper1>("zk", "ZooKeeper", Some("zookeeper"), zk),
        column::<Zookeeper3>("zk-3", "ZooKeeper, 3 servers", Some("zookeeper"), zk),
        column::<Etcd1>("etcd", "etcd", Some("etcd"), etcd),
        column::<Etcd3>("etcd-3", "etcd, 3 servers", Some("etcd"), etcd),
        column::<Rest>("rest", "REST", None, || true),
        column::<Dns>("dns", "DNS", Some("bind"), bind),
    ]
}

/// Runs a cell on a thread and a runtime of its own.
fn run<P: Place>(fault: Fault, starts: Starts) -> Outcome {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    runtime.block_on(async {
        let permit = starts.acquire_owned().await.expect("never closed");
        cell::run::<P>(fault, permit).await
    })
}

/// What the command line asks for.
#[derive(Default)]
struct Args {
    all: bool,
    list: bool,
    jobs: usize,
    words: Vec<String>,
    skip: Vec<String>,
}

impl Args {
    /// Takes the flags of other tests, too, because `cargo test` gives all of them the same.
    fn parse(args: impl IntoIterator<Item = String>) -> Self {
        let mut parsed = Self {
            jobs: 8,
            ..Self::default()
        };
        let mut args = args.into_iter();
        while let Some(arg) = args.next() {
            match arg.as_str() {
                "--all" => parsed.all = true,
                "--list" => parsed.list = true,
                "--jobs" | "--test-threads" => {
                    let jobs = args.next().and_then(|jobs| jobs.parse().ok());
                    parsed.jobs = jobs.unwrap_or(parsed.jobs).max(1);
                }
                "--skip" => parsed.skip.extend(args.next()),
                "--color" | "--format" | "--logfile" | "--shuffle-seed" => drop(args.next()),
                flag if flag.starts_with('-') => {}
                word => parsed.words.push(word.to_owned()),
            }
        }
        parsed
    }

    fn wants(&self, name: &str, fault: Fault) -> bool {
        let skipped = self.skip.iter().any(|word| name.contains(word));
        let short = match name.split('/').next() {
            // Its other cells come close to the bar.
            Some("zk") => fault == Fault::Revoked,
            _ => fault == Fault::Cut && !name.contains("-3/"),
        };
        let chosen = self.words.is_empty() || self.words.iter().any(|word| name.contains(word));
        (self.all || short) && chosen && !skipped
    }
}

fn main() -> ExitCode {
    let args: Vec<_> = std::env::args().skip(1).collect();
    if let [place::SERVE, addr, state, connections] =
        args.iter().map(String::as_str).collect::<Vec<_>>()[..]
    {
        let runtime = tokio::runtime::Runtime::new().expect("a runtime");
        runtime.block_on(place::serve(addr, state, connections));
        return ExitCode::SUCCESS;
    }
    let args = Args::parse(args);
    let columns = columns();
    let mut cells = Vec::new();
    for fault in Fault::ALL {
        for (n, column) in columns.iter().enumerate() {
            let name = format!("{}/{}", column.name, fault.name());
            if !args.wants(&name, fault) || (column.lacks)(fault).is_some() {
                continue;
            }
            if args.list {
                println!("{name}: test");
            } else if let Some(server) = column.needs.filter(|_| !(column.there)()) {
                support::not_run::note(&format!("faults::{name}"), server);
            } else {
                cells.push((fault, n, name));
            }
        }
    }
    if args.list {
        return ExitCode::SUCCESS;
    }
    if args.all && cells.is_empty() {
        eprintln!("no cell has such a name, or there is no server for it; see tests/run.sh");
        return ExitCode::from(2);
    }
    let began = Instant::now();
    let done = run_all(&columns, cells, args.jobs);
    let failed = done.iter().filter(|done| !done.passes()).count();
    if args.all {
        println!("\n{}", table::markdown(&columns, &done));
    }
    println!(
        "{} cells, {failed} failed, {} s",
        done.len(),
        began.elapsed().as_secs()
    );
    ExitCode::from(u8::from(failed > 0))
}

/// A cell that has run; nothing came of it when it panicked.
struct Done {
    fault: Fault,
    column: usize,
    outcome: Option<Outcome>,
}

impl Done {
    fn passes(&self) -> bool {
        self.outcome.as_ref().is_some_and(Outcome::passes)
    }
}

/// Most of a cell is waiting, so several run at once.
fn run_all(columns: &[Column], mut cells: Vec<(Fault, usize, String)>, jobs: usize) -> Vec<Done> {
    // The long ones first.
    cells.sort_by_key(|(fault, ..)| fault.lasts());
    let (cells, done) = (Mutex::new(cells), Mutex::new(Vec::new()));
    let starts = Arc::new(tokio::sync::Semaphore::new(2));
    let work = || {
        loop {
            let Some((fault, column, name)) = cells.lock().unwrap().pop() else {
                return;
            };
            let (run, starts) = (columns[column].run, Arc::clone(&starts));
            let cell = thread::Builder::new().name(name.clone());
            let cell = cell.spawn(move || run(fault, starts)).expect("a thread");
            let one = Done {
                fault,
                column,
                outcome: cell.join().ok(),
            };
            let result = if one.passes() { "ok" } else { "FAILED" };
            println!("{name} ... {result}{}", table::line(one.outcome.as_ref()));
            done.lock().unwrap().push(one);
        }
    };
    thread::scope(|scope| {
        for _ in 0..jobs {
            scope.spawn(work);
            thread::sleep(Duration::from_millis(50));
        }
    });
    done.into_inner().unwrap()
}
