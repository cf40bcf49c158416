//! One agent: how it is configured, started, stopped and broken.

use std::{
    fs,
    future::{Future, IntoFuture},
    net::SocketAddr,
    path::PathBuf,
    pin::Pin,
    process::ExitStatus,
    sync::{
        Arc, Weak,
        atomic::{AtomicU32, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use nix::sys::signal::Signal;
use serde_json::{Value, json};
use tempfile::TempDir;

use super::binary;
use crate::support::{ports::Port, process::Process};

/// An agent starts in about a second; a loaded machine may take many times that.
const START: Duration = Duration::from_secs(60);
/// A client agent gives up leaving gracefully after 5 s.
const STOP: Duration = Duration::from_secs(20);
const TRIES: usize = 5;

/// A running agent; dropping it kills the process and removes its data.
pub struct Agent {
    spec: Spec,
    ports: Ports,
    dir: TempDir,
    process: Option<Process>,
    paused: bool,
}

/// Everything but the ports, which a new try replaces.
#[derive(Clone, Debug)]
struct Spec {
    kind: Kind,
    node_name: String,
    datacenter: String,
    token: Option<String>,
    config: Value,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// One server, all in memory.
    Dev,
    /// A server with a data directory; of how many.
    Server(usize),
    /// No server itself.
    Client,
}

#[derive(Debug)]
struct Ports {
    http: Port,
    serf_lan: Port,
    serf_wan: Port,
    server: Port,
}

pub(super) enum StartError {
    /// Someone took a port between lease and use.
    AddrInUse,
    Other(String),
}

/// Configures an agent; awaiting it starts the agent and waits until it serves, or panics with
/// the agent's log.
#[derive(Clone, Debug)]
pub struct AgentBuilder(Spec);

impl Agent {
    /// A single server in memory, as `consul agent -dev`; a restart loses everything.
    pub fn dev() -> AgentBuilder {
        AgentBuilder(Spec::new(Kind::Dev))
    }

    /// A single server with a data directory, which survives [`kill9`](Agent::kill9).
    pub fn server() -> AgentBuilder {
        AgentBuilder(Spec::new(Kind::Server(1)))
    }

    /// One of `n` servers that wait for each other.
    pub(super) fn server_of(n: usize) -> AgentBuilder {
        AgentBuilder(Spec::new(Kind::Server(n)))
    }

    /// A client agent, joined to the server of this agent and with its token and datacenter.
    pub fn client_of(server: &Agent) -> AgentBuilder {
        let mut builder = AgentBuilder(Spec::new(Kind::Client)).also_join(server);
        builder.0.datacenter.clone_from(&server.spec.datacenter);
        match server.spec.token.clone() {
            Some(token) => builder.acl_default_deny(&token),
            None => builder,
        }
    }

    /// A dev agent that the tests running now share; it ends with the last handle. Use service
    /// names of your own on it, and do not break it. A watch on a missing service wakes whenever
    /// any service loses its last instance, so one that must not wake needs an agent of its own.
    pub async fn shared() -> Arc<Agent> {
        static SHARED: tokio::sync::Mutex<Weak<Agent>> = tokio::sync::Mutex::const_new(Weak::new());
        let mut shared = SHARED.lock().await;
        if let Some(agent) = shared.upgrade() {
            return agent;
        }
        let agent = Arc::new(Agent::dev().await);
        *shared = Arc::downgrade(&agent);
        agent
    }

    pub fn http_addr(&self) -> SocketAddr {
        self.ports.http.addr()
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.http_addr())
    }

    /// Where other agents of the datacenter join.
    pub fn lan_addr(&self) -> SocketAddr {
        self.ports.serf_lan.addr()
    }

    /// Where servers of other datacenters join.
    pub fn wan_addr(&self) -> SocketAddr {
        self.ports.serf_wan.addr()
    }

    /// As `/v1/status/leader` names it.
    pub fn server_addr(&self) -> SocketAddr {
        self.ports.server.addr()
    }

    pub fn node_name(&self) -> &str {
        &self.spec.node_name
    }

    pub fn datacenter(&self) -> &str {
        &self.spec.datacenter
    }

    /// The token that requests of this handle carry.
    pub fn token(&self) -> Option<&str> {
        self.spec.token.as_deref()
    }

    pub fn is_running(&mut self) -> bool {
        self.process
            .as_mut()
            .is_some_and(|process| process.exited().is_none())
    }

    pub fn pid(&self) -> u32 {
        self.process.as_ref().expect("a running agent").id()
    }

    /// What the agent wrote to its log, over all its starts.
    pub fn log(&self) -> String {
        fs::read_to_string(self.log_path()).unwrap_or_default()
    }

    /// SIGKILL; returns when the process is gone.
    pub fn kill9(&mut self) {
        // The drop kills and reaps.
        self.process = None;
        self.paused = false;
    }

    /// SIGTERM; returns when the process is gone. A client agent leaves the cluster first.
    pub async fn terminate(&mut self) -> ExitStatus {
        self.resume();
        let mut process = self.process.take().expect("a running agent");
        process.terminate(STOP).await
    }

    /// SIGSTOP: connections are still accepted by the kernel, and nothing answers.
    pub fn pause(&mut self) {
        self.process.as_ref().expect("a running agent").stop();
        self.paused = true;
    }

    /// SIGCONT, when paused.
    pub fn resume(&mut self) {
        if self.paused {
            self.process
                .as_ref()
                .expect("a running agent")
                .signal(Signal::SIGCONT);
            self.paused = false;
        }
    }

    /// Kills the agent if it runs, starts it again on the same ports with the same data, and
    /// waits until it serves.
    pub async fn restart(&mut self) {
        self.restart_nowait();
        self.wait_ready().await;
    }

    /// As [`restart`](Agent::restart), with the data removed in between.
    pub async fn restart_wiped(&mut self) {
        self.wipe();
        self.restart().await;
    }

    /// Kills the agent if it runs, and removes its data.
    pub fn wipe(&mut self) {
        self.kill9();
        match fs::remove_dir_all(self.data_path()) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => panic!("wipe: {e}"),
            _ => {}
        }
    }

    /// As [`restart`](Agent::restart), but returns while the agent still starts up.
    pub fn restart_nowait(&mut self) {
        self.kill9();
        self.spawn();
    }

    /// Waits until the agent knows a leader and its own node is healthy in the catalog.
    pub async fn wait_ready(&mut self) {
        if let Err(e) = self.ready(START).await {
            match e {
                StartError::AddrInUse => panic!("{}: a port was taken", self.describe()),
                StartError::Other(e) => panic!("{e}"),
            }
        }
    }

    /// Writes the configuration and starts the process, without waiting.
    pub(super) fn launch(builder: AgentBuilder) -> Agent {
        let ports = Ports {
            http: Port::lease(),
            serf_lan: Port::lease(),
            serf_wan: Port::lease(),
            server: Port::lease(),
        };
        // Under target, for a test binary that is killed leaves it behind.
        let dir = TempDir::with_prefix_in("consul-", env!("CARGO_TARGET_TMPDIR"))
            .expect("a temporary directory");
        let mut agent = Agent {
            spec: builder.0,
            ports,
            dir,
            process: None,
            paused: false,
        };
        agent.spawn();
        agent
    }

    /// Adds to the configuration, for the next start.
    pub fn reconfigure(&mut self, config: Value) {
        merge(&mut self.spec.config, config);
    }

    pub(super) async fn ready(&mut self, deadline: Duration) -> Result<(), StartError> {
        let start = Instant::now();
        loop {
            if let Some(status) = self.process.as_mut().expect("a running agent").exited() {
                self.process = None;
                let log = self.log();
                return Err(if log.contains("address already in use") {
                    StartError::AddrInUse
                } else {
                    StartError::Other(format!("{} ended: {status}\n{log}", self.describe()))
                });
            }
            let left = deadline.saturating_sub(start.elapsed());
            if self.serves(left).await {
                return Ok(());
            }
            if left.is_zero() {
                let log = self.log();
                let name = self.describe();
                return Err(StartError::Other(format!(
                    "{name} not ready in {deadline:?}\n{log}"
                )));
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    async fn serves(&self, timeout: Duration) -> bool {
        let timeout = timeout.clamp(Duration::from_millis(100), Duration::from_secs(10));
        let get = |path: String| async move {
            let reply = self
                .request("GET", &path, self.token(), None, timeout)
                .await
                .ok()?;
            (reply.status == 200).then_some(reply)
        };
        let Some(leader) = get("/v1/status/leader".into()).await else {
            return false;
        };
        if leader.body.len() <= 2 {
            return false;
        }
        if self.token().is_some() && get("/v1/acl/token/self".into()).await.is_none() {
            return false;
        }
        let path = format!("/v1/health/node/{}", self.node_name());
        let Some(checks) = get(path).await else {
            return false;
        };
        checks.json().as_array().is_some_and(|checks| {
            checks
                .iter()
                .any(|c| c["CheckID"] == "serfHealth" && c["Status"] == "passing")
        })
    }

    fn spawn(&mut self) {
        let config = self.spec.file(&self.ports, self.data_path());
        let path = self.dir.path().join("config.json");
        fs::write(&path, config.to_string()).expect("the agent's configuration");
        let bin = binary().expect("a consul binary; see need_consul!");
        let mut args = vec!["agent", "-config-file", "config.json"];
        if self.spec.kind == Kind::Dev {
            args.push("-dev");
        }
        let process = Process::spawn(&bin, &args, self.dir.path(), &self.log_path());
        self.process = Some(process.unwrap_or_else(|e| panic!("{}: {e}", bin.display())));
    }

    fn data_path(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    fn log_path(&self) -> PathBuf {
        self.dir.path().join("log")
    }

    fn describe(&self) -> String {
        format!(
            "consul agent {} ({:?})",
            self.spec.node_name, self.spec.kind
        )
    }
}

impl AgentBuilder {
    pub fn datacenter(mut self, name: &str) -> Self {
        self.0.datacenter = name.into();
        self
    }

    /// Unique by default.
    pub fn node_name(mut self, name: &str) -> Self {
        self.0.node_name = name.into();
        self
    }

    /// ACLs with default policy `deny`; `token` may do everything, and is what the handle uses.
    pub fn acl_default_deny(mut self, token: &str) -> Self {
        self.0.token = Some(token.into());
        let mut tokens = json!({ "agent": token });
        if self.0.kind != Kind::Client {
            tokens["master"] = token.into();
        }
        self.config(json!({
            "acl": { "enabled": true, "default_policy": "deny", "tokens": tokens },
        }))
    }

    /// Merges more configuration over what is there; objects are merged, all else replaced.
    pub fn config(mut self, config: Value) -> Self {
        merge(&mut self.0.config, config);
        self
    }

    /// Joins one more agent of the same datacenter.
    pub fn also_join(mut self, agent: &Agent) -> Self {
        let join = &mut self.0.config["retry_join"];
        if join.is_null() {
            *join = json!([]);
        }
        join.as_array_mut()
            .expect("a list")
            .push(agent.lan_addr().to_string().into());
        self
    }

    /// Joins the datacenter of this server over the WAN pool.
    pub fn join_wan(self, addr: SocketAddr) -> Self {
        self.config(json!({ "retry_join_wan": [addr.to_string()] }))
    }

    /// The same with a node name of its own.
    pub(super) fn unique(mut self) -> Self {
        self.0.node_name = unique_name();
        self
    }

    async fn start(self) -> Agent {
        for _ in 0..TRIES {
            let mut agent = Agent::launch(self.clone());
            match agent.ready(START).await {
                Ok(()) => return agent,
                Err(StartError::AddrInUse) => {}
                Err(StartError::Other(e)) => panic!("{e}"),
            }
        }
        panic!("no free ports for a consul agent in {TRIES} tries");
    }
}

impl IntoFuture for AgentBuilder {
    type Output = Agent;
    type IntoFuture = Pin<Box<dyn Future<Output = Agent> + Send>>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(self.start())
    }
}

impl Spec {
    fn new(kind: Kind) -> Spec {
        Spec {
            kind,
            node_name: unique_name(),
            datacenter: "dc1".into(),
            token: None,
            config: json!({}),
        }
    }

    fn file(&self, ports: &Ports, data: PathBuf) -> Value {
        let mut config = json!({
            "bind_addr": "127.0.0.1",
            "client_addr": "127.0.0.1",
            "datacenter": self.datacenter,
            "node_name": self.node_name,
            "disable_update_check": true,
            "log_level": "INFO",
            // The default, 30 s, would be the time a cluster takes to form.
            "retry_interval": "100ms",
            "retry_interval_wan": "100ms",
            // The time of elections, in multiples of the least.
            "performance": { "raft_multiplier": 1 },
            "telemetry": { "disable_hostname": true },
            "ports": {
                "dns": -1,
                "grpc": -1,
                "http": ports.http.get(),
                "https": -1,
                "serf_lan": ports.serf_lan.get(),
                "serf_wan": ports.serf_wan.get(),
                "server": ports.server.get(),
            },
        });
        if self.kind != Kind::Dev {
            config["data_dir"] = data.to_string_lossy().into();
            config["disable_host_node_id"] = true.into();
        }
        if let Kind::Server(n) = self.kind {
            config["server"] = true.into();
            config["bootstrap_expect"] = n.into();
            // A server that was killed keeps its vote, so that one more may follow at once.
            config["autopilot"] = json!({
                "cleanup_dead_servers": false,
                "server_stabilization_time": "100ms",
                "last_contact_threshold": "2s",
            });
        }
        merge(&mut config, self.config.clone());
        config
    }
}

fn unique_name() -> String {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    format!(
        "node-{}-{}",
        std::process::id(),
        COUNT.fetch_add(1, Relaxed)
    )
}

fn merge(into: &mut Value, from: Value) {
    match (into, from) {
        (Value::Object(into), Value::Object(from)) => {
            for (key, value) in from {
                merge(into.entry(key).or_insert(Value::Null), value);
            }
        }
        (into, from) => *into = from,
    }
}
