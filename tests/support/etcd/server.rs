//! One etcd process, and clusters of them.

use std::{
    fs,
    future::IntoFuture,
    net::SocketAddr,
    path::PathBuf,
    pin::Pin,
    sync::{Arc, Weak},
    time::{Duration, Instant},
};

use nix::sys::signal::Signal;
use tempfile::TempDir;

use super::binary;
use crate::support::{http1, ports::Port, process::Process};

/// A machine that is busy with other tests takes several times the usual second.
const START: Duration = Duration::from_secs(30);
const TRIES: u32 = 3;

/// A handle to one server; dropping it ends the server.
#[derive(Debug)]
pub struct Etcd {
    name: String,
    client: Port,
    peer: Port,
    metrics: Port,
    dir: TempDir,
    flags: Vec<String>,
    /// `name=peer URL` of every member.
    members: String,
    process: Option<Process>,
    paused: bool,
    secure: bool,
    token: Option<String>,
    /// The program, if it is not the usual one.
    bin: Option<PathBuf>,
}

/// Configures a server; awaiting it starts the server and waits until it serves.
#[derive(Clone, Debug, Default)]
pub struct EtcdBuilder {
    flags: Vec<String>,
    secure: bool,
    bin: Option<PathBuf>,
}

impl EtcdBuilder {
    /// Runs this program instead of the usual one.
    pub fn program(mut self, bin: PathBuf) -> Self {
        self.bin = Some(bin);
        self
    }

    pub fn flag(mut self, flag: &str) -> Self {
        self.flags.push(flag.to_owned());
        self
    }

    /// Serves clients over TLS, and asks them for a certificate of this authority.
    pub fn secure(mut self, cert: &str, key: &str, ca: &str) -> Self {
        self.secure = true;
        self.flag(&format!("--cert-file={cert}"))
            .flag(&format!("--key-file={key}"))
            .flag(&format!("--trusted-ca-file={ca}"))
            .flag("--client-cert-auth")
    }

    async fn start(self) -> Etcd {
        for _ in 0..TRIES {
            let mut server = Etcd::prepare("n0", &self.flags);
            server.members = server.member();
            server.secure = self.secure;
            server.bin.clone_from(&self.bin);
            server.spawn();
            match server.ready().await {
                Ok(()) => return server,
                Err(log) if log.contains("address already in use") => {}
                Err(log) => panic!("etcd does not start: {log}"),
            }
        }
        panic!("no free ports for etcd in {TRIES} tries");
    }
}

impl IntoFuture for EtcdBuilder {
    type Output = Etcd;
    type IntoFuture = Pin<Box<dyn Future<Output = Etcd> + Send>>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(self.start())
    }
}

impl Etcd {
    /// One server with a data directory.
    pub fn server() -> EtcdBuilder {
        EtcdBuilder::default()
    }

    /// A server that the tests running now share; it ends with the last handle. Use service names of
    /// your own on it, and do not break it.
    pub async fn shared() -> Arc<Etcd> {
        static SHARED: tokio::sync::Mutex<Weak<Etcd>> = tokio::sync::Mutex::const_new(Weak::new());
        let mut shared = SHARED.lock().await;
        if let Some(server) = shared.upgrade() {
            return server;
        }
        let server = Arc::new(Etcd::server().await);
        *shared = Arc::downgrade(&server);
        server
    }

    fn prepare(name: &str, flags: &[String]) -> Etcd {
        // Under target, for a test binary that is killed leaves it behind.
        let dir = TempDir::with_prefix_in("etcd-", env!("CARGO_TARGET_TMPDIR"))
            .expect("a temporary directory");
        Etcd {
            name: name.to_owned(),
            client: Port::lease(),
            peer: Port::lease(),
            metrics: Port::lease(),
            dir,
            flags: flags.to_vec(),
            members: String::new(),
            process: None,
            paused: false,
            secure: false,
            token: None,
            bin: None,
        }
    }

    fn member(&self) -> String {
        format!("{}=http://{}", self.name, self.peer.addr())
    }

    pub fn addr(&self) -> SocketAddr {
        self.client.addr()
    }

    /// The URL for a registry.
    pub fn url(&self) -> String {
        format!("etcd://{}", self.addr())
    }

    pub(super) fn token(&self) -> Option<String> {
        self.token.clone()
    }

    pub(super) fn set_token(&mut self, token: Option<String>) {
        self.token = token;
    }

    /// What the server wrote to its log, over all its starts.
    pub fn log(&self) -> String {
        fs::read_to_string(self.log_path()).unwrap_or_default()
    }

    /// SIGKILL; returns when the process is gone.
    pub fn kill9(&mut self) {
        self.process = None;
        self.paused = false;
    }

    /// SIGSTOP: connections are still accepted by the kernel, and nothing answers.
    pub fn pause(&mut self) {
        self.process.as_ref().expect("a running server").stop();
        self.paused = true;
    }

    /// SIGCONT, when paused.
    pub fn resume(&mut self) {
        if self.paused {
            let process = self.process.as_ref().expect("a running server");
            process.signal(Signal::SIGCONT);
            self.paused = false;
        }
    }

    /// Kills the server if it runs, starts it again on the same ports with the same data, and waits
    /// until it serves.
    pub async fn restart(&mut self) {
        self.restart_nowait();
        self.wait_ready().await;
    }

    pub fn restart_nowait(&mut self) {
        self.kill9();
        self.spawn();
    }

    /// As [`restart`](Etcd::restart), with the data removed in between.
    pub async fn restart_wiped(&mut self) {
        self.wipe();
        self.restart().await;
    }

    /// Kills the server if it runs, and removes its data.
    pub fn wipe(&mut self) {
        self.kill9();
        match fs::remove_dir_all(self.data_path()) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => panic!("wipe: {e}"),
            _ => {}
        }
    }

    /// Of the process, which runs.
    pub fn pid(&self) -> u32 {
        self.process.as_ref().expect("a running server").id()
    }

    pub async fn wait_ready(&mut self) {
        if let Err(log) = self.ready().await {
            panic!("etcd is not ready: {log}");
        }
    }

    fn spawn(&mut self) {
        let scheme = if self.secure { "https" } else { "http" };
        let client = format!("{scheme}://{}", self.client.addr());
        // Over plain HTTP also where clients use TLS.
        let metrics = format!("http://{}", self.metrics.addr());
        let peer = format!("http://{}", self.peer.addr());
        let data = self.data_path().to_string_lossy().into_owned();
        let mut args = vec![
            "--name",
            &self.name,
            "--data-dir",
            &data,
            "--log-level",
            "error",
            "--listen-client-urls",
            &client,
            "--advertise-client-urls",
            &client,
            "--listen-peer-urls",
            &peer,
            "--initial-advertise-peer-urls",
            &peer,
            "--initial-cluster",
            &self.members,
            "--initial-cluster-token",
            "t",
            "--initial-cluster-state",
            "new",
            "--listen-metrics-urls",
            &metrics,
        ];
        args.extend(self.flags.iter().map(String::as_str));
        let bin = self.bin.clone().or_else(binary);
        let bin = bin.expect("an etcd binary; see need_etcd!");
        let process = Process::spawn(&bin, &args, self.dir.path(), &self.log_path());
        self.process = Some(process.unwrap_or_else(|e| panic!("{}: {e}", bin.display())));
    }

    /// Waits until the server has a leader and answers; its log when it does not.
    async fn ready(&mut self) -> Result<(), String> {
        let start = Instant::now();
        loop {
            if self
                .process
                .as_mut()
                .expect("a running server")
                .exited()
                .is_some()
            {
                self.process = None;
                return Err(self.log());
            }
            let second = Duration::from_secs(1);
            let at = self.metrics.addr();
            let health = http1::send(at, "GET", "/health", &[], b"", second).await;
            if health.is_ok_and(|reply| reply.text().contains("\"true\"")) {
                return Ok(());
            }
            if start.elapsed() > START {
                return Err(format!("not within {START:?}: {}", self.log()));
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    fn data_path(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    fn log_path(&self) -> PathBuf {
        self.dir.path().join("log")
    }
}

/// Several servers that elect a leader.
#[derive(Debug)]
pub struct EtcdCluster(pub Vec<Etcd>);

impl EtcdCluster {
    pub async fn start(n: usize) -> EtcdCluster {
        let names: Vec<_> = (0..n).map(|i| format!("n{i}")).collect();
        let mut servers: Vec<_> = names.iter().map(|name| Etcd::prepare(name, &[])).collect();
        let members: Vec<_> = servers.iter().map(Etcd::member).collect();
        for server in &mut servers {
            server.members = members.join(",");
            server.spawn();
        }
        let mut cluster = EtcdCluster(servers);
        for server in &mut cluster.0 {
            server.wait_ready().await;
        }
        cluster
    }

    pub fn url(&self) -> String {
        let addrs: Vec<_> = self
            .0
            .iter()
            .map(|server| server.addr().to_string())
            .collect();
        format!("etcd://{}", addrs.join(","))
    }

    /// Which of the servers leads.
    pub async fn leader(&self) -> usize {
        for (i, server) in self.0.iter().enumerate() {
            let body = serde_json::json!({});
            let Ok(reply) = server.try_post("/v3/maintenance/status", body).await else {
                continue;
            };
            let status = reply.json();
            if status["leader"].is_string() && status["leader"] == status["header"]["member_id"] {
                return i;
            }
        }
        panic!("no server leads");
    }
}
