//! What happens in the demo, and what must come of it.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    process::Stdio,
    sync::Arc,
    time::{Duration, Instant},
};

use serde::Serialize;
use tokio::{
    io::AsyncWriteExt,
    net::TcpListener,
    process::{Child, Command},
    sync::mpsc,
    task::JoinSet,
    time::MissedTickBehavior,
};
use tower_roster::{
    catalog::{Delta, InstanceSet, diff},
    registry::{View, ViewState, Watch, memory::Memory, rest::RestServer},
};

use crate::{
    common::{
        self, Failure,
        client::Caller,
        figures::{Figures, Summary},
        page,
        settings::Settings,
        told,
    },
    table::Table,
};

const SERVICE: &str = "user-service";

/// How long the servers may take to be registered and seen.
const START_WITHIN: Duration = Duration::from_secs(10);

/// The script: when, what, and to whom.
const SCRIPT: &[(Duration, Act, &str)] = &[
    (Duration::from_secs(3), Act::Crash, "user-2"),
    (Duration::from_secs(9), Act::Leave, "user-4"),
    (Duration::from_secs(12), Act::Join, "user-6"),
    (Duration::from_secs(15), Act::Slow, "user-1"),
];
const END: Duration = Duration::from_secs(20);

#[derive(Clone, Copy, PartialEq)]
enum Act {
    Crash,
    Leave,
    Join,
    Slow,
}

/// Something that happened, as the summary lists it.
#[derive(Clone, Debug, Serialize)]
pub struct Happening {
    pub at_ms: u64,
    pub event: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub instance: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
}

#[derive(Serialize)]
struct Report {
    #[serde(flatten)]
    summary: Summary,
    /// Failures that the crash does not explain.
    unexplained: u64,
    events: Vec<Happening>,
}

/// How much later than the client's own watch the balancer may drop an endpoint: a request that
/// was given to it before is on its way. Arbitrary: a busy machine's delay between two threads.
const SEEN_SLACK: Duration = Duration::from_millis(50);

pub async fn run(
    registry: Option<String>,
    rate: u32,
    status: Option<SocketAddr>,
    json: bool,
) -> Result<(), Failure> {
    let mut signals = common::Signals::catch()?;
    // Held to the end: a dropped registry forgets its instances.
    let (url, _embedded) = match registry {
        Some(url) if url.starts_with("memory:") => {
            return Err(Failure::usage(
                "memory: lives within one process, and the servers are processes of their own; \
                 without --registry the demo serves it over REST",
            ));
        }
        Some(url) if url.starts_with("dns") || url.starts_with("fixed:") => {
            return Err(Failure::usage(format!(
                "{} takes no registrations, and the servers of the demo register themselves",
                url.split(':').next().unwrap_or_default()
            )));
        }
        Some(url) => (url, None),
        None => {
            let (url, server) = embedded().await?;
            (url, Some(server))
        }
    };
    let mut stage = Stage::new(&url, json)?;
    if let Some(address) = status {
        let served = page::serve(address, "demo".to_owned(), SERVICE, &stage.caller).await;
        let page = served.map_err(Failure::usage)?;
        stage.table.note(&format!("status    {page}"));
    }
    let outcome = tokio::select! {
        outcome = stage.perform(rate) => outcome,
        () = signals.next() => Err(Failure::stopped()),
    };
    stage.table.close();
    let is_stopped = outcome.as_ref().is_err_and(Failure::is_stop);
    if is_stopped && !json {
        let _ = common::say(format!(
            "stopped after {:.1} s; the servers leave",
            stage.began.elapsed().as_secs_f64()
        ));
    }
    tokio::select! {
        () = stage.end() => {}
        // What is left of the servers is killed with the stage.
        () = signals.next() => return Err(Failure::stopped()),
    }
    if outcome.is_ok() || is_stopped {
        stage.print(json)?;
    }
    outcome.and_then(|()| stage.verdict())
}

/// Starts the embedded registry and its REST front, on loopback and a free port.
async fn embedded() -> Result<(String, tokio::task::JoinHandle<()>), Failure> {
    let listener = TcpListener::bind("127.0.0.1:0")
        .await
        .map_err(Failure::work)?;
    let url = format!("rest://{}", listener.local_addr().map_err(Failure::work)?);
    let server = RestServer::new(Memory::new());
    Ok((
        url,
        tokio::spawn(server.serve(listener, std::future::pending())),
    ))
}

/// Sends requests at a steady rate until it is dropped.
async fn load(caller: Caller, rate: u32) {
    let mut ticks = tokio::time::interval(Duration::from_secs(1) / rate);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
    let mut requests = JoinSet::new();
    loop {
        ticks.tick().await;
        let mut caller = caller.clone();
        requests.spawn(async move {
            caller.call().await;
        });
        while requests.try_join_next().is_some() {}
    }
}

struct Stage {
    url: String,
    watch: Watch,
    figures: Arc<Figures>,
    servers: BTreeMap<String, Child>,
    table: Table,
    caller: Caller,
    news: mpsc::UnboundedReceiver<told::News>,
    began: Instant,
    happened: Vec<Happening>,
    known: InstanceSet,
    state: ViewState,
    /// Who crashed, when, and when the registry no longer listed it.
    crash: Option<(String, Instant, Option<Instant>)>,
}

impl Stage {
    fn new(url: &str, json: bool) -> Result<Self, Failure> {
        let registry = common::connect(url)?;
        let watch = registry.watch(SERVICE);
        let watch = watch.map_err(|error| Failure::usage(common::chain(&error)))?;
        let figures = Arc::new(Figures::new());
        let settings = Settings::new(Duration::from_secs(2));
        let caller = Caller::new(watch.clone(), settings, Arc::clone(&figures));
        let caller = caller.map_err(Failure::work)?;
        let (tell, news) = mpsc::unbounded_channel();
        let (handles, counted) = (caller.handles().clone(), Arc::clone(&figures));
        tokio::spawn(async move {
            let tell = |news| {
                let _ = tell.send(news);
            };
            told::follow(handles, &counted, tell).await;
        });
        Ok(Self {
            url: url.to_owned(),
            watch,
            figures,
            servers: BTreeMap::new(),
            table: Table::new(json, url),
            caller,
            news,
            began: Instant::now(),
            happened: Vec::new(),
            known: InstanceSet::default(),
            state: ViewState::Pending,
            crash: None,
        })
    }

    /// From the first server to the end of the script.
    async fn perform(&mut self, rate: u32) -> Result<(), Failure> {
        for id in ["user-1", "user-2", "user-3", "user-4", "user-5"] {
            self.start(id)?;
        }
        self.all_seen().await?;
        let caller = self.caller.clone();
        tokio::select! {
            outcome = self.play() => outcome,
            () = load(caller, rate) => Ok(()),
        }
    }

    fn start(&mut self, id: &str) -> Result<(), Failure> {
        let program = std::env::current_exe().map_err(Failure::work)?;
        let child = Command::new(program)
            .args(["--backend", &self.url, SERVICE, id])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .map_err(|error| Failure::work(format!("cannot start {id}: {error}")))?;
        self.servers.insert(id.to_owned(), child);
        Ok(())
    }

    async fn order(&mut self, id: &str, order: &str) -> Result<(), Failure> {
        let pipe = self
            .servers
            .get_mut(id)
            .and_then(|child| child.stdin.as_mut());
        let pipe = pipe.ok_or_else(|| Failure::work(format!("{id} is not there")))?;
        let told = pipe.write_all(format!("{order}\n").as_bytes()).await;
        told.map_err(|error| Failure::work(format!("{id} cannot be told: {error}")))
    }

    /// Waits until all servers are listed.
    async fn all_seen(&mut self) -> Result<(), Failure> {
        let servers = &self.servers;
        let listed = |view: &View| {
            let ids = view.instances.iter().map(|instance| instance.id());
            ids.filter(|id| servers.contains_key(*id)).count()
        };
        let seen = self.watch.wait_for(|view| listed(view) == servers.len());
        let view = match tokio::time::timeout(START_WITHIN, seen).await {
            Ok(view) => view.map_err(Failure::work)?,
            Err(_) => {
                let view = self.watch.view();
                let why = view.error.as_ref();
                let why = why.map(|error| format!(": {}", error.to_chain()));
                return Err(Failure::work(format!(
                    "of {} servers, {} were registered within {START_WITHIN:?}{}",
                    servers.len(),
                    listed(&view),
                    why.unwrap_or_default()
                )));
            }
        };
        self.began = Instant::now();
        self.see(&view);
        Ok(())
    }

    /// Goes through the script while the picture is kept up to date.
    async fn play(&mut self) -> Result<(), Failure> {
        let mut frames = tokio::time::interval(Duration::from_millis(250));
        let mut script = SCRIPT.iter();
        let mut next = script.next();
        let mut watch = self.watch.clone();
        loop {
            if self.table.is_closed() {
                return Err(Failure::stopped());
            }
            let due = next.map_or(END, |(at, ..)| *at);
            tokio::select! {
                view = watch.changed() => self.see(&view.map_err(Failure::work)?),
                Some(news) = self.news.recv() => self.hear(&news),
                _ = frames.tick() => {
                    let endpoints = self.caller.handles().balance.endpoints().await;
                    let endpoints = endpoints.map_err(Failure::work)?;
                    let (instances, summary) = (self.figures.look(), self.caller.summary());
                    self.table.draw(self.began.elapsed(), &endpoints, &instances, &summary);
                }
                () = tokio::time::sleep_until((self.began + due).into()) => match next {
                    Some((_, act, id)) => {
                        self.act(*act, id).await?;
                        next = script.next();
                    }
                    None => return Ok(()),
                },
            }
        }
    }

    async fn act(&mut self, act: Act, id: &str) -> Result<(), Failure> {
        let (event, detail) = match act {
            Act::Crash => {
                self.crash = Some((id.to_owned(), Instant::now(), None));
                if let Some(child) = self.servers.get_mut(id) {
                    child.kill().await.map_err(Failure::work)?;
                }
                ("crash", "killed without a word")
            }
            Act::Leave => {
                self.order(id, "leave").await?;
                ("leave", "told to leave politely")
            }
            Act::Join => {
                self.start(id)?;
                ("join", "started")
            }
            Act::Slow => {
                self.order(id, "delay 150ms").await?;
                ("slow", "answers in 150 ms from now on")
            }
        };
        self.happens(event, Some(id), Some(detail.to_owned()));
        Ok(())
    }

    /// Notes what the stack does about it.
    fn hear(&mut self, news: &told::News) {
        if let told::News::Balance(event) = news {
            self.table.hear(event);
        }
        if let Some(told) = news.words() {
            self.happens(told.event, told.instance.as_deref(), told.detail);
        }
    }

    /// Notes what changed in the registry.
    fn see(&mut self, view: &View) {
        for delta in diff(&self.known, &view.instances) {
            match delta {
                Delta::Insert(new) => {
                    self.happens("insert", Some(new.id()), Some(new.address.to_string()))
                }
                Delta::Update { new, .. } => self.happens("update", Some(new.id()), None),
                Delta::Remove(old) => {
                    let mut detail = None;
                    if let Some((id, at, seen @ None)) = &mut self.crash
                        && id == old.id()
                    {
                        *seen = Some(Instant::now());
                        detail = Some(format!(
                            "{:.1} s after its crash",
                            at.elapsed().as_secs_f64()
                        ));
                    }
                    self.happens("remove", Some(old.id()), detail);
                }
            }
        }
        self.known = view.instances.clone();
        if self.state != view.state {
            self.state = view.state;
            let why = view
                .error
                .as_ref()
                .map(tower_roster::RegistryError::to_chain);
            let what = match why {
                Some(why) => format!("{}: {why}", view.state),
                None => view.state.to_string(),
            };
            self.happens("state", None, Some(what));
        }
    }

    fn happens(&mut self, event: &'static str, instance: Option<&str>, detail: Option<String>) {
        let happening = Happening {
            at_ms: u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX),
            event,
            instance: instance.map(str::to_owned),
            detail,
        };
        self.table.tell(&happening);
        self.happened.push(happening);
    }

    /// Lets every server that still runs leave. The registry is left as it was found, but for the
    /// one that crashed, which it forgets after a minute.
    async fn end(&mut self) {
        let running: Vec<_> = self.servers.keys().cloned().collect();
        for id in running {
            let _ = self.order(&id, "leave").await;
        }
        for child in self.servers.values_mut() {
            drop(child.stdin.take());
            if tokio::time::timeout(Duration::from_secs(5), child.wait())
                .await
                .is_err()
            {
                let _ = child.kill().await;
            }
        }
    }

    /// The failures that the crash explains: until it was seen, requests still went to that server.
    fn explained(&self) -> u64 {
        let Some((id, at, Some(seen))) = &self.crash else {
            return 0;
        };
        let instances = self.figures.look();
        let failures = instances.get(id).map(|of| of.failures.clone());
        let until_seen = failures.unwrap_or_default().into_iter();
        let until_seen = until_seen
            .filter(|(sent, failed)| failed >= at && *sent <= *seen + SEEN_SLACK)
            .count();
        // These are attempts, most of which another server made good.
        u64::try_from(until_seen)
            .unwrap_or(u64::MAX)
            .min(self.caller.summary().failed)
    }

    fn print(&self, json: bool) -> Result<(), Failure> {
        let summary = self.caller.summary();
        let explained = self.explained();
        let unexplained = summary.failed.saturating_sub(explained);
        if !json {
            crate::table::summary(&summary, &self.figures, explained, unexplained);
            return Ok(());
        }
        let report = Report {
            summary,
            unexplained,
            events: self.happened.clone(),
        };
        // The exit code tells the outcome even if nobody reads this.
        let _ = common::say(serde_json::to_string(&report).map_err(Failure::work)?);
        Ok(())
    }

    fn verdict(&self) -> Result<(), Failure> {
        let summary = self.caller.summary();
        let unexplained = summary.failed.saturating_sub(self.explained());
        match &self.crash {
            Some((id, _, None)) => Err(Failure::work(format!("the crash of {id} was not seen"))),
            _ if summary.ok == 0 => Err(Failure::work("no request was answered")),
            _ if unexplained > 0 => Err(Failure::work(format!(
                "{unexplained} requests failed that the crash does not explain"
            ))),
            _ => Ok(()),
        }
    }
}
