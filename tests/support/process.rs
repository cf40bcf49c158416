//! One server process that ends with its handle, whatever happens to the test.

use std::{
    fs::{self, OpenOptions},
    io,
    path::Path,
    process::{Child, Command, ExitStatus, Stdio},
    sync::{Mutex, OnceLock, mpsc},
    thread,
    time::{Duration, Instant},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

/// Held while a child is between fork and exec.
static SPAWNING: Mutex<()> = Mutex::new(());

/// Runs `f` while no child is being spawned: until it runs its own program, a child shares every
/// descriptor, so that a socket closed here stays open, and its port taken, for that moment.
pub fn between_spawns<T>(f: impl FnOnce() -> T) -> T {
    let _spawning = SPAWNING.lock();
    f()
}

/// After this a socket that was closed before is closed for good.
pub fn settle() {
    between_spawns(|| ());
}

#[derive(Debug)]
pub struct Process(Child);

impl Process {
    /// Starts `bin` with its output appended to `log`.
    pub fn spawn(bin: &Path, args: &[&str], dir: &Path, log: &Path) -> io::Result<Process> {
        let log = OpenOptions::new().create(true).append(true).open(log)?;
        Process::spawn_to(bin, args, dir, log.try_clone()?, log)
    }

    /// Starts `bin` with these as its output and its standard error.
    pub fn spawn_to(
        bin: &Path,
        args: &[&str],
        dir: &Path,
        stdout: impl Into<Stdio>,
        stderr: impl Into<Stdio>,
    ) -> io::Result<Process> {
        // A test binary that is itself killed runs no destructors: let the kernel end its servers.
        let mut command = match setpriv() {
            true => {
                let mut command = Command::new("setpriv");
                command.args(["--pdeathsig", "KILL", "--"]).arg(bin);
                command
            }
            false => Command::new(bin),
        };
        command
            .args(args)
            .current_dir(dir)
            .stdin(Stdio::null())
            .stdout(stdout)
            .stderr(stderr);
        for (name, _) in std::env::vars_os() {
            // Both servers take settings from the environment.
            let name_text = name.to_string_lossy();
            if name_text.starts_with("CONSUL_") || name_text.starts_with("ETCD_") {
                command.env_remove(name);
            }
        }
        spawn_on_lasting_thread(command).map(Process)
    }

    pub fn id(&self) -> u32 {
        self.0.id()
    }

    pub fn signal(&self, signal: Signal) {
        let pid = i32::try_from(self.0.id()).expect("a process id");
        kill(Pid::from_raw(pid), signal).unwrap_or_else(|e| panic!("{signal} to {pid}: {e}"));
    }

    /// SIGSTOP; returns when no thread runs any more, where the system tells.
    pub fn stop(&self) {
        self.signal(Signal::SIGSTOP);
        let start = Instant::now();
        while self.runs() {
            assert!(
                start.elapsed() < Duration::from_secs(10),
                "{} ignores SIGSTOP",
                self.id()
            );
            thread::yield_now();
        }
    }

    fn runs(&self) -> bool {
        let threads = fs::read_dir(format!("/proc/{}/task", self.id()))
            .into_iter()
            .flatten();
        threads.flatten().any(|thread| {
            let stat = fs::read_to_string(thread.path().join("stat")).unwrap_or_default();
            // The state follows the name, which stands in parentheses. A thread may have ended.
            stat.rsplit_once(") ")
                .is_some_and(|(_, rest)| !rest.starts_with(['T', 'Z', 'X']))
        })
    }

    /// Whether it is over; never waits.
    pub fn exited(&mut self) -> Option<ExitStatus> {
        self.0.try_wait().expect("a child of this process")
    }

    /// SIGKILL, which also ends a stopped process, and the wait that leaves no zombie.
    pub fn kill(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }

    pub async fn terminate(&mut self, deadline: Duration) -> ExitStatus {
        self.signal(Signal::SIGTERM);
        let start = Instant::now();
        loop {
            if let Some(status) = self.exited() {
                return status;
            }
            assert!(
                start.elapsed() < deadline,
                "process {} ignores SIGTERM",
                self.id()
            );
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

fn setpriv() -> bool {
    static FOUND: OnceLock<bool> = OnceLock::new();
    *FOUND.get_or_init(|| {
        let mut probe = Command::new("setpriv");
        probe
            .args(["--pdeathsig", "KILL", "--", "true"])
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        let probe = between_spawns(|| probe.spawn());
        probe
            .and_then(|mut child| child.wait())
            .is_ok_and(|status| status.success())
    })
}

/// "Parent death" means the death of the thread that spawned, and test threads are short-lived.
fn spawn_on_lasting_thread(command: Command) -> io::Result<Child> {
    type Job = (Command, mpsc::Sender<io::Result<Child>>);
    static SPAWNER: OnceLock<mpsc::Sender<Job>> = OnceLock::new();
    let spawner = SPAWNER.get_or_init(|| {
        let (jobs, inbox) = mpsc::channel::<Job>();
        thread::Builder::new()
            .name("spawner".into())
            .spawn(move || {
                for (mut command, answer) in inbox {
                    let _ = answer.send(between_spawns(|| command.spawn()));
                }
            })
            .expect("a thread to spawn from");
        jobs
    });
    let (answer, spawned) = mpsc::channel();
    spawner
        .send((command, answer))
        .expect("the spawner lives as long as the process");
    spawned
        .recv()
        .expect("the spawner lives as long as the process")
}
