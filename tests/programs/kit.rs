//! A running example program: what it printed, and how it ends.

use std::{
    fs::{self, File},
    io::Read as _,
    net::SocketAddr,
    os::{fd::OwnedFd, unix::net::UnixStream},
    path::PathBuf,
    process::ExitStatus,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU32, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use nix::sys::signal::Signal;
use serde_json::Value;
use tempfile::TempDir;
use tokio::net::TcpListener;
use tower_roster::registry::{memory::Memory, rest::RestServer};

use crate::support::{Agent, process::Process, rt};

/// For what takes moments on an idle machine.
pub(crate) const SOON: Duration = Duration::from_secs(20);

const EVERY: Duration = Duration::from_millis(5);

/// A running program; dropping it kills it.
pub(crate) struct Program {
    name: String,
    process: Process,
    dir: TempDir,
    /// The lines of its output that were awaited, and those passed over on the way.
    read: usize,
}

/// What a program has written to its terminal, control sequences included.
pub(crate) struct Terminal(Arc<Mutex<String>>);

impl Terminal {
    fn read(mut master: File) -> Terminal {
        let text = Arc::new(Mutex::new(String::new()));
        let shared = Arc::clone(&text);
        // It ends with the program: then nobody holds the other side any more.
        std::thread::spawn(move || {
            let mut buffer = [0; 4_096];
            while let Ok(n @ 1..) = master.read(&mut buffer) {
                let part = String::from_utf8_lossy(&buffer[..n]);
                shared.lock().expect("no panic").push_str(&part);
            }
        });
        Terminal(text)
    }

    pub(crate) fn text(&self) -> String {
        self.0.lock().expect("no panic").clone()
    }
}

/// How a program ended.
#[derive(Debug)]
pub(crate) struct End {
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Program {
    pub(crate) fn start(name: &str, args: &[&str]) -> Program {
        Program::start_to(name, args, None)
    }

    /// Its output goes to a reader that is gone.
    pub(crate) fn start_unread(name: &str, args: &[&str]) -> Program {
        let (ours, its) = UnixStream::pair().expect("a pair of sockets");
        drop(ours);
        Program::start_to(name, args, Some(its.into()))
    }

    /// Its output goes to a terminal of 80 columns and so many rows.
    pub(crate) async fn start_on_terminal(
        name: &str,
        args: &[&str],
        rows: u16,
    ) -> (Program, Terminal) {
        let size = nix::pty::Winsize {
            ws_row: rows,
            ws_col: 80,
            ws_xpixel: 0,
            ws_ypixel: 0,
        };
        let pty = nix::pty::openpty(&size, None).expect("a terminal");
        let program = Program::start_to(name, args, Some(pty.slave));
        (program, Terminal::read(File::from(pty.master)))
    }

    fn start_to(name: &str, args: &[&str], stdout: Option<OwnedFd>) -> Program {
        let dir = TempDir::with_prefix_in("program-", env!("CARGO_TARGET_TMPDIR"));
        let dir = dir.expect("a temporary directory");
        let file = |name| File::create(dir.path().join(name)).expect("a file for output");
        let (out, err) = (file("out"), file("err"));
        let process = match stdout {
            Some(stdout) => Process::spawn_to(&program(name), args, dir.path(), stdout, err),
            None => Process::spawn_to(&program(name), args, dir.path(), out, err),
        };
        let name = format!("{name} {}", args.join(" "));
        let process = process.unwrap_or_else(|e| panic!("{name}: {e}"));
        Program {
            name,
            process,
            dir,
            read: 0,
        }
    }

    pub(crate) fn id(&self) -> u32 {
        self.process.id()
    }

    pub(crate) fn signal(&self, signal: Signal) {
        self.process.signal(signal);
    }

    pub(crate) fn kill(&mut self) {
        self.process.kill();
    }

    pub(crate) fn is_running(&mut self) -> bool {
        self.process.exited().is_none()
    }

    /// The whole lines that it printed so far.
    pub(crate) fn lines(&self) -> Vec<String> {
        let text = self.text("out");
        let whole = text.rfind('\n').map_or("", |end| &text[..end]);
        whole.lines().map(String::from).collect()
    }

    fn text(&self, name: &str) -> String {
        fs::read_to_string(self.dir.path().join(name)).unwrap_or_default()
    }

    /// Waits for a line after those that were awaited before.
    pub(crate) async fn line(&mut self, what: &str, wanted: impl Fn(&str) -> bool) -> String {
        let start = Instant::now();
        loop {
            let ended = self.process.exited();
            let lines = self.lines();
            let found = lines.iter().skip(self.read).position(|line| wanted(line));
            if let Some(at) = found {
                self.read += at + 1;
                return lines[self.read - 1].clone();
            }
            if start.elapsed() > SOON || ended.is_some() {
                panic!(
                    "{}: {} without a line with {what}; {} lines were read before; printed:\n{}\n{}",
                    self.name,
                    ended.map_or("running".to_owned(), |status| status.to_string()),
                    self.read,
                    lines.join("\n"),
                    self.text("err")
                );
            }
            tokio::time::sleep(EVERY).await;
        }
    }

    /// Waits for a line that is a JSON object with `field` = `value`.
    pub(crate) async fn json(&mut self, field: &str, value: &str) -> Value {
        let object = |line: &str| serde_json::from_str::<Value>(line).unwrap_or_default();
        let what = format!("{field} = {value}");
        let line = self.line(&what, |line| object(line)[field] == value).await;
        object(&line)
    }

    /// Waits for its end.
    pub(crate) async fn end(&mut self, within: Duration) -> End {
        let status = self.status(within).await;
        End {
            code: status.code(),
            stdout: self.text("out"),
            stderr: self.text("err"),
        }
    }

    async fn status(&mut self, within: Duration) -> ExitStatus {
        let start = Instant::now();
        loop {
            if let Some(status) = self.process.exited() {
                return status;
            }
            assert!(
                start.elapsed() < within,
                "{} must end within {within:?}; printed:\n{}\n{}",
                self.name,
                self.text("out"),
                self.text("err")
            );
            tokio::time::sleep(EVERY).await;
        }
    }

    /// SIGTERM, and its end, which must be a good one.
    pub(crate) async fn stop(&mut self) -> End {
        self.signal(Signal::SIGTERM);
        self.end_well(SOON).await
    }

    /// Waits for its end, which must be a good one.
    pub(crate) async fn end_well(&mut self, within: Duration) -> End {
        let end = self.end(within).await;
        assert_eq!(end.code, Some(0), "{}: {end:?}", self.name);
        assert_eq!(end.stderr, "", "{}: nothing to complain of", self.name);
        end
    }
}

/// Cargo builds the examples beside the tests.
fn program(name: &str) -> PathBuf {
    let mut path = std::env::current_exe().expect("the path of this test");
    path.pop();
    path.pop();
    path.push("examples");
    path.push(name);
    assert!(
        path.exists(),
        "there is no {}: `cargo test` builds it, `cargo test --test programs` alone does not",
        path.display()
    );
    path
}

/// Runs a program to its end.
pub(crate) async fn run(name: &str, args: &[&str]) -> End {
    Program::start(name, args).end(SOON).await
}

/// A running `serve`.
pub(crate) struct Serve {
    pub(crate) program: Program,
    pub(crate) id: String,
    pub(crate) addr: SocketAddr,
}

impl Serve {
    /// On a free port.
    pub(crate) async fn start(args: &[&str]) -> Serve {
        let listen = ["--listen", "127.0.0.1:0"];
        let mut program = Program::start("serve", &[&listen, args].concat());
        let line = program
            .line("its address", |l| l.contains(" listening on "))
            .await;
        let (id, addr) = line.split_once(" listening on ").expect("just found");
        Serve {
            id: id.to_owned(),
            addr: addr.parse().expect("an address"),
            program,
        }
    }

    /// Three of them, registered.
    pub(crate) async fn three(url: &str, service: &str, args: &[&str]) -> [Serve; 3] {
        let args = [&["--register", url, service], args].concat();
        let (a, b, c) = tokio::join!(
            Serve::start(&args),
            Serve::start(&args),
            Serve::start(&args)
        );
        [a, b, c]
    }
}

/// A running `call`, until it is stopped.
pub(crate) struct Load(Program);

impl Load {
    /// At 200 requests a second.
    pub(crate) fn start(url: &str, service: &str) -> Load {
        Load::start_at(200, url, service)
    }

    /// At so many requests a second.
    pub(crate) fn start_at(rate: u32, url: &str, service: &str) -> Load {
        Load::start_with(rate, url, service, &[])
    }

    /// At so many requests a second, with flags.
    pub(crate) fn start_with(rate: u32, url: &str, service: &str, flags: &[&str]) -> Load {
        let rate = rate.to_string();
        let args = [url, service, "--rate", &rate, "--duration", "10m", "--json"];
        Load(Program::start("call", &[&args, flags].concat()))
    }

    /// The summary.
    pub(crate) async fn finish(mut self) -> Value {
        self.0.signal(Signal::SIGINT);
        let end = self.0.end_well(SOON).await;
        summary(&end)
    }
}

pub(crate) fn summary(end: &End) -> Value {
    serde_json::from_str(&end.stdout)
        .unwrap_or_else(|e| panic!("{e}: one JSON object must be printed: {end:?}"))
}

/// The sum and the keys of `per_instance`.
pub(crate) fn instances(summary: &Value) -> (u64, Vec<String>) {
    let counts = summary["per_instance"].as_object().expect("an object");
    let sum = counts.values().map(|n| n.as_u64().expect("a count")).sum();
    (sum, counts.keys().cloned().collect())
}

/// The fields of an object, sorted.
pub(crate) fn fields(object: &Value) -> Vec<&str> {
    let object = object.as_object().expect("an object");
    let mut fields: Vec<_> = object.keys().map(String::as_str).collect();
    fields.sort_unstable();
    fields
}

pub(crate) fn consul(agent: &Agent) -> String {
    format!("consul://{}", agent.http_addr())
}

/// A name that no other test uses.
pub(crate) fn unique(name: &str) -> String {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    format!("{name}-{}", COUNT.fetch_add(1, Relaxed))
}

/// The embedded registry behind its REST front.
pub(crate) async fn rest() -> (Memory, String) {
    let memory = Memory::new();
    let server = RestServer::new(memory.clone());
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let url = format!("rest://{}", listener.local_addr().expect("an address"));
    let listener = listener.into_std().expect("a listener");
    rt().spawn(async move {
        let listener = TcpListener::from_std(listener).expect("a listener");
        server.serve(listener, std::future::pending()).await;
    });
    (memory, url)
}

/// The processes whose parent this is.
pub(crate) fn children(pid: u32) -> Vec<u32> {
    let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
    let ids = processes.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    ids.filter(|id| parent(*id) == Some(pid)).collect()
}

/// Whether a process runs; one that has ended and waits for its parent does not.
pub(crate) fn runs(pid: u32) -> bool {
    stat(pid).is_some_and(|(state, _)| !["Z", "X"].contains(&state.as_str()))
}

fn parent(pid: u32) -> Option<u32> {
    stat(pid).map(|(_, parent)| parent)
}

/// State and parent.
fn stat(pid: u32) -> Option<(String, u32)> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // They follow the name, which stands in parentheses.
    let (_, rest) = stat.rsplit_once(") ")?;
    let mut words = rest.split(' ');
    Some((words.next()?.to_owned(), words.next()?.parse().ok()?))
}
