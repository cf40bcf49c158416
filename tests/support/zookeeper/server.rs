//! One ZooKeeper process, and ensembles of them.

use std::{
    fmt::Write as _,
    fs,
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    path::PathBuf,
    sync::{Arc, Weak},
    time::{Duration, Instant},
};

use nix::sys::signal::Signal;
use tempfile::TempDir;

use super::{Version, api::Client, binary};
use crate::support::{ports::Port, process::Process};

/// A machine that is busy with other tests takes several times the usual second.
const START: Duration = Duration::from_secs(40);
const TRIES: u32 = 3;

/// A handle to one server; dropping it ends the server.
#[derive(Debug)]
pub struct Zookeeper {
    version: Version,
    client: Port,
    quorum: Port,
    election: Port,
    dir: TempDir,
    config: String,
    /// The number of this server, and the lines of all of them; of an ensemble.
    member: Option<(usize, String)>,
    flags: Vec<String>,
    process: Option<Process>,
    paused: bool,
}

impl Zookeeper {
    /// A server with a data directory. Sessions last from 1 s to 10 s.
    pub async fn server() -> Zookeeper {
        Self::with(binary().expect("ZooKeeper; see need_zookeeper!"), "", &[]).await
    }

    /// A server of this version with these lines in its configuration, and flags of its JVM.
    pub async fn with(version: Version, config: &str, flags: &[&str]) -> Zookeeper {
        for _ in 0..TRIES {
            let mut server = Self::prepare(version.clone());
            server.config = config.to_owned();
            server.flags = flags.iter().map(|flag| (*flag).to_owned()).collect();
            server.spawn();
            match server.ready().await {
                Ok(()) => return server,
                Err(log) if log.contains("Address already in use") => {}
                Err(log) => panic!("ZooKeeper does not start: {log}"),
            }
        }
        panic!("no free ports for ZooKeeper in {TRIES} tries");
    }

    /// A server that the tests running now share; it ends with the last handle. Use service names of
    /// your own on it, and do not break it.
    pub async fn shared() -> Arc<Zookeeper> {
        static SHARED: tokio::sync::Mutex<Weak<Zookeeper>> =
            tokio::sync::Mutex::const_new(Weak::new());
        let mut shared = SHARED.lock().await;
        if let Some(server) = shared.upgrade() {
            return server;
        }
        let server = Arc::new(Self::server().await);
        *shared = Arc::downgrade(&server);
        server
    }

    fn prepare(version: Version) -> Zookeeper {
        // Under target, for a test binary that is killed leaves it behind.
        let dir = TempDir::with_prefix_in("zookeeper-", env!("CARGO_TARGET_TMPDIR"))
            .expect("a temporary directory");
        Zookeeper {
            version,
            client: Port::lease(),
            quorum: Port::lease(),
            election: Port::lease(),
            dir,
            config: String::new(),
            member: None,
            flags: Vec::new(),
            process: None,
            paused: false,
        }
    }

    pub fn addr(&self) -> SocketAddr {
        self.client.addr()
    }

    /// The URL for a registry, with the shortest sessions that the server grants.
    pub fn url(&self) -> String {
        format!("zk://{}?session_timeout=2s", self.addr())
    }

    /// An independent client, to write and read as others do.
    pub async fn client(&self) -> Client {
        Client::connect(&self.addr().to_string()).await
    }

    /// Asks with one of the four-letter words.
    pub fn four(&self, word: &str) -> Option<String> {
        let wait = Duration::from_secs(2);
        let mut stream = TcpStream::connect_timeout(&self.addr(), wait).ok()?;
        stream.set_read_timeout(Some(wait)).ok()?;
        stream.write_all(word.as_bytes()).ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).ok()?;
        Some(answer)
    }

    /// A number of `mntr`.
    pub fn metric(&self, name: &str) -> f64 {
        let all = self.four("mntr").unwrap_or_default();
        let line = all.lines().find_map(|line| line.strip_prefix(name));
        line.and_then(|rest| rest.trim().parse().ok())
            .unwrap_or(-1.0)
    }

    /// How many paths are watched, counted for each connection.
    pub fn watches(&self) -> f64 {
        self.metric("zk_watch_count")
    }

    /// The ids of all sessions.
    pub fn sessions(&self) -> Vec<String> {
        let dump = self.four("cons").unwrap_or_default();
        let ids = dump.split("sid=").skip(1);
        let ids = ids.map(|rest| rest.split(',').next().unwrap_or_default().to_owned());
        ids.filter(|id| id != "0x0").collect()
    }

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

    /// As [`restart`](Self::restart), with the data removed in between.
    pub async fn restart_wiped(&mut self) {
        self.wipe();
        self.restart().await;
    }

    /// Kills the server if it runs, and removes its data.
    pub fn wipe(&mut self) {
        self.kill9();
        match fs::remove_dir_all(self.dir.path().join("data")) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => panic!("wipe: {e}"),
            _ => {}
        }
    }

    pub async fn wait_ready(&mut self) {
        if let Err(log) = self.ready().await {
            panic!("ZooKeeper is not ready: {log}");
        }
    }

    fn line(&self, number: usize) -> String {
        format!(
            "server.{number}=127.0.0.1:{}:{}",
            self.quorum.get(),
            self.election.get()
        )
    }

    fn spawn(&mut self) {
        let data = self.dir.path().join("data");
        fs::create_dir_all(&data).expect("a data directory");
        let mut config = format!(
            "tickTime=500\ndataDir={}\nclientPort={}\nclientPortAddress=127.0.0.1\n\
             admin.enableServer=false\n4lw.commands.whitelist=*\nmaxClientCnxns=0\n\
             minSessionTimeout=1000\nmaxSessionTimeout=10000\n{}\n",
            data.display(),
            self.client.get(),
            self.config
        );
        if let Some((number, all)) = &self.member {
            let _ = write!(
                config,
                "initLimit=20\nsyncLimit=8\nstandaloneEnabled=false\n{all}\n"
            );
            fs::write(data.join("myid"), number.to_string()).expect("a file");
        }
        let path = self.dir.path().join("zoo.cfg");
        fs::write(&path, config).expect("a configuration");
        let path = path.to_string_lossy();
        let mut args = vec![
            "-Xmx192m",
            "-XX:+UseSerialGC",
            "-XX:TieredStopAtLevel=1",
            "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn",
        ];
        args.extend(self.flags.iter().map(String::as_str));
        args.extend([
            "-cp",
            &self.version.classpath,
            "org.apache.zookeeper.server.quorum.QuorumPeerMain",
            &path,
        ]);
        let java = &self.version.java;
        let process = Process::spawn(java, &args, self.dir.path(), &self.log_path());
        self.process = Some(process.unwrap_or_else(|e| panic!("{}: {e}", java.display())));
    }

    pub fn mode(&self) -> Option<String> {
        let answer = self.four("srvr")?;
        let mode = answer.lines().find_map(|line| line.strip_prefix("Mode: "));
        mode.map(str::to_owned)
    }

    /// Waits until the server serves; its log when it does not.
    async fn ready(&mut self) -> Result<(), String> {
        let start = Instant::now();
        loop {
            let process = self.process.as_mut().expect("a running server");
            if process.exited().is_some() {
                self.process = None;
                return Err(self.log());
            }
            if self.mode().is_some() {
                return Ok(());
            }
            if start.elapsed() > START {
                return Err(format!("not within {START:?}: {}", self.log()));
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    fn log_path(&self) -> PathBuf {
        self.dir.path().join("log")
    }
}

/// Several servers that elect a leader.
#[derive(Debug)]
pub struct ZookeeperEnsemble(pub Vec<Zookeeper>);

impl ZookeeperEnsemble {
    pub async fn start(n: usize) -> ZookeeperEnsemble {
        Self::start_with(n, "").await
    }

    /// With these lines in the configuration of each.
    pub async fn start_with(n: usize, config: &str) -> ZookeeperEnsemble {
        let version = binary().expect("ZooKeeper; see need_zookeeper!");
        let mut servers: Vec<_> = (0..n)
            .map(|_| Zookeeper::prepare(version.clone()))
            .collect();
        let lines = servers.iter().enumerate();
        let lines: Vec<_> = lines.map(|(i, server)| server.line(i + 1)).collect();
        for (i, server) in servers.iter_mut().enumerate() {
            if n > 1 {
                server.member = Some((i + 1, lines.join("\n")));
            }
            config.clone_into(&mut server.config);
            server.spawn();
        }
        let mut ensemble = ZookeeperEnsemble(servers);
        for server in &mut ensemble.0 {
            server.wait_ready().await;
        }
        ensemble
    }

    pub fn servers(&self) -> String {
        let addrs: Vec<_> = self.0.iter().map(|one| one.addr().to_string()).collect();
        addrs.join(",")
    }

    pub fn url(&self) -> String {
        format!("zk://{}?session_timeout=4s", self.servers())
    }

    pub async fn client(&self) -> Client {
        Client::connect(&self.servers()).await
    }

    /// Which of the servers leads.
    pub fn leader(&self) -> usize {
        let leads = |server: &Zookeeper| server.mode().as_deref() == Some("leader");
        self.0.iter().position(leads).expect("a leader")
    }
}
