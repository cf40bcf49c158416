//! A real DNS server, BIND, with one zone that a test changes while it runs.

use std::{
    env, fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use nix::sys::signal::Signal;
use tempfile::TempDir;

use super::{eventually, ports::Port, process::Process};

const SOON: Duration = Duration::from_secs(10);

/// The folder into which BIND's packages are unpacked: `$BIND_ROOT`, else where `tests/run.sh` unpacks
/// them, else the system's root, if BIND is installed.
pub fn binary() -> Option<PathBuf> {
    let whole = |root: &Path| {
        ["usr/sbin/named", "usr/bin/nsupdate"]
            .iter()
            .all(|file| root.join(file).is_file())
    };
    if let Some(root) = env::var_os("BIND_ROOT").filter(|root| !root.is_empty()) {
        let root = PathBuf::from(root);
        // A wrong setting must not look like a machine without a server.
        assert!(
            whole(&root),
            "BIND_ROOT has no named and nsupdate: {}",
            root.display()
        );
        return Some(root);
    }
    let unpacked = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("target/servers/bind9");
    [unpacked, PathBuf::from("/")]
        .into_iter()
        .find(|root| whole(root))
}

/// A name server of the zone `svc.test`. Its records have the TTL that they are given.
pub struct Bind {
    root: PathBuf,
    dir: TempDir,
    port: Port,
    process: Option<Process>,
}

impl Bind {
    /// Starts a server with these records, a line each, such as `web 1 A 127.0.0.1`.
    pub async fn start(records: &str) -> Self {
        let bind = Self {
            root: binary().expect("the test asked whether BIND is there"),
            dir: TempDir::new().unwrap(),
            port: Port::lease(),
            process: None,
        };
        bind.write_zone(records);
        let (dir, port) = (bind.dir.path().display(), bind.port.get());
        let config = format!(
            "options {{ directory \"{dir}\"; listen-on port {port} {{ 127.0.0.1; }};
                listen-on-v6 {{ none; }}; pid-file none; session-keyfile \"{dir}/session.key\";
                recursion no; dnssec-validation no; minimal-responses no;
                max-records-per-type 0; }};
            controls {{ }};
            zone \"svc.test\" {{ type primary; file \"svc.test.zone\";
                allow-update {{ 127.0.0.1; }}; }};\n"
        );
        fs::write(bind.dir.path().join("named.conf"), config).unwrap();
        bind.restart().await
    }

    /// Replaces the zone. It counts from the next start.
    pub fn write_zone(&self, records: &str) {
        let zone = format!(
            "$ORIGIN svc.test.\n@ 1 SOA ns hostmaster 1 3600 600 86400 1\n@ 1 NS ns\nns 1 A 127.0.0.1\n{records}\n"
        );
        fs::write(self.dir.path().join("svc.test.zone"), zone).unwrap();
        let _ = fs::remove_file(self.dir.path().join("svc.test.zone.jnl"));
    }

    /// Removes the zone's file. It counts from the next start.
    pub fn lose_zone(&self) {
        let _ = fs::remove_file(self.dir.path().join("svc.test.zone"));
        let _ = fs::remove_file(self.dir.path().join("svc.test.zone.jnl"));
    }

    /// Starts it, and waits until it has read its zone, or failed to.
    async fn restart(mut self) -> Self {
        self.run().await;
        self
    }

    /// The folders of its libraries, on any machine.
    fn libraries(&self) -> String {
        let dirs = [
            "usr/lib/x86_64-linux-gnu",
            "usr/lib/aarch64-linux-gnu",
            "usr/lib",
        ];
        let dirs = dirs.map(|dir| self.root.join(dir).display().to_string());
        dirs.join(":")
    }

    /// Starts it again on its port.
    pub async fn run(&mut self) {
        self.kill();
        let log = self.dir.path().join("log");
        fs::write(&log, "").unwrap();
        let path = format!("LD_LIBRARY_PATH={}", self.libraries());
        let named = self.root.join("usr/sbin/named").display().to_string();
        let config = self.dir.path().join("named.conf").display().to_string();
        let args = [path.as_str(), &named, "-g", "-n", "1", "-c", &config];
        let process = Process::spawn(Path::new("/usr/bin/env"), &args, self.dir.path(), &log);
        self.process = Some(process.unwrap());
        eventually(SOON, "BIND runs", || async {
            let said = fs::read_to_string(&log).unwrap_or_default();
            said.lines()
                .any(|line| line.ends_with(" running"))
                .then_some(())
                .ok_or(said)
        })
        .await;
    }

    pub fn addr(&self) -> SocketAddr {
        ([127, 0, 0, 1], self.port.get()).into()
    }

    /// The start of a URL: `dns://127.0.0.1:port` with this scheme.
    pub fn url(&self, scheme: &str) -> String {
        format!("{scheme}://{}", self.addr())
    }

    /// Changes the zone: lines of `nsupdate`, such as `add web.svc.test. 1 A 127.0.0.2`.
    pub async fn update(&self, lines: &[&str]) {
        let mut script = format!("server 127.0.0.1 {}\nzone svc.test\n", self.port.get());
        for line in lines {
            script.push_str(&format!("update {line}\n"));
        }
        script.push_str("send\n");
        let file = self.dir.path().join("update");
        fs::write(&file, script).unwrap();
        let done = tokio::process::Command::new(self.root.join("usr/bin/nsupdate"))
            .env("LD_LIBRARY_PATH", self.libraries())
            .arg(&file)
            .output()
            .await
            .unwrap();
        assert!(done.status.success(), "{done:?}");
    }

    pub fn kill(&mut self) {
        self.process = None;
    }

    /// Freezes it: it holds its port and says nothing.
    pub fn pause(&self) {
        self.process.as_ref().expect("it runs").stop();
    }

    pub fn resume(&self) {
        self.process
            .as_ref()
            .expect("it runs")
            .signal(Signal::SIGCONT);
    }
}
