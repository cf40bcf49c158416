//! One cell: a client calls real servers while its registry fails, and the registry's list must change
//! meanwhile.

use std::{
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt, Empty};
use tokio::{sync::watch as cell, task::JoinSet};
use tower::{Service, ServiceExt};
use tower_roster::{
    BoxError,
    balance::BalanceHandle,
    client::{HttpEndpoints, Stack},
    registry::{View, Watch},
};

use crate::{
    fault::Fault,
    place::{Place, SERVICE},
    support::{Backend, Mode},
};

/// Of all cells; the machine has other work beside them.
const REQUESTS_PER_SEC: u32 = 50;

/// Above every start of a server and every election.
const PATIENCE: Duration = Duration::from_secs(90);

/// What the client may take beyond the registry's own time.
pub(crate) const BAR: Duration = Duration::from_secs(2);

const LOOK: Duration = Duration::from_millis(5);

/// What came of a cell.
#[derive(Clone, Debug)]
pub(crate) struct Outcome {
    /// Requests of the client, from before the fault until after the heal.
    pub(crate) sent: u64,
    /// Those of them that failed for their caller.
    pub(crate) failed: u64,
    /// Why the first of them failed.
    pub(crate) why: Option<String>,
    /// From the heal until the registry itself answered.
    pub(crate) own: Duration,
    /// From the heal until the client balanced over exactly the right instances.
    pub(crate) right: Duration,
    /// Whether the client balanced over them already when the heal began.
    pub(crate) early: bool,
    /// How many of the instances that ran all the time the client knew at the worst moment.
    pub(crate) kept: usize,
}

impl Outcome {
    pub(crate) fn passes(&self) -> bool {
        self.failed == 0 && self.right <= self.own + BAR
    }
}

/// Runs a cell. `permit` is held while servers start.
pub(crate) async fn run<P: Place>(fault: Fault, permit: impl Sized) -> Outcome {
    let mut place = P::start(fault).await;
    let (a, b, c, mut d) = tokio::join!(
        Backend::start("a"),
        Backend::start("b"),
        Backend::start("c"),
        Backend::start("d")
    );
    for server in [&a, &b, &c, &d] {
        place.announce(server.name(), server.addr()).await;
    }
    let ids = |servers: &[&Backend]| {
        let ids = servers.iter().map(|s| P::id(s.name(), s.addr()));
        ids.collect::<Vec<_>>()
    };
    let survivors = ids(&[&a, &b, &c]);
    let client = Client::new(&place, survivors);
    client.right(&ids(&[&a, &b, &c, &d])).await;
    drop(permit);
    client.begin();
    tokio::time::sleep(Duration::from_millis(500)).await;

    // The fault, and while it lasts one server dies and another one begins.
    let e = Backend::start("e").await;
    begin(&mut place, fault).await;
    let began = Instant::now();
    let mut change = async |place: &mut P| {
        place.withdraw(d.name()).await;
        d.stop().await;
        place.announce(e.name(), e.addr()).await;
    };
    match fault {
        // Its heal begins with it.
        Fault::LeaderKilled => change(&mut place).await,
        Fault::Garbage => {
            let all = P::PROTOCOL.garbage();
            let each = fault.lasts() / all.len() as u32;
            for (n, garbage) in all.iter().enumerate() {
                place.path().garble(garbage).await;
                tokio::time::sleep(each).await;
                if n == 2 {
                    change(&mut place).await;
                }
            }
        }
        _ => {
            tokio::time::sleep(Duration::from_secs(1)).await;
            change(&mut place).await;
            tokio::time::sleep(fault.lasts().saturating_sub(began.elapsed())).await;
        }
    }

    let healed = match fault {
        Fault::LeaderKilled => began,
        _ => Instant::now(),
    };
    let wanted = ids(&[&a, &b, &c, &e]);
    let early = client.is_right(&wanted);
    let heals = async {
        end(&mut place, fault).await;
        while !place.serves().await {
            tokio::time::sleep(LOOK).await;
        }
        healed.elapsed()
    };
    let (own, mut right) = tokio::join!(heals, async {
        client.right(&wanted).await;
        healed.elapsed()
    });
    if early {
        right = Duration::ZERO;
    }
    tokio::time::sleep(Duration::from_secs(2)).await;
    let mut outcome = client.end(own, right).await;
    outcome.early = early;
    outcome
}

async fn begin<P: Place>(place: &mut P, fault: Fault) {
    match fault {
        Fault::Blackholed => place.path().set(Mode::Blackhole).await,
        Fault::Cut => {
            place.path().disconnect().await;
            place.path().set(Mode::Cut).await;
        }
        Fault::Garbage => {}
        _ => place.inflict(fault).await,
    }
}

async fn end<P: Place>(place: &mut P, fault: Fault) {
    match fault {
        Fault::Blackholed | Fault::Cut | Fault::Garbage => place.path().set(Mode::Pass).await,
        _ => place.heal(fault).await,
    }
}

/// What the load does.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Stage {
    Waits,
    Calls,
    Ends,
}

/// A client with the defaults, and the load that it sends.
struct Client {
    watch: Watch,
    balance: BalanceHandle,
    survivors: Vec<String>,
    kept: Arc<Mutex<usize>>,
    counts: Arc<Mutex<Counts>>,
    stage: cell::Sender<Stage>,
    load: tokio::task::JoinHandle<()>,
}

#[derive(Default)]
struct Counts {
    sent: u64,
    failed: u64,
    why: Option<String>,
}

impl Client {
    fn new<P: Place>(place: &P, survivors: Vec<String>) -> Self {
        let watch = place.watching().watch(SERVICE).expect("a watch");
        let discover = watch.clone().discover(HttpEndpoints::new());
        let built = Stack::http().build(discover).expect("settings");
        let counts = Arc::new(Mutex::new(Counts::default()));
        let (stage, follows) = cell::channel(Stage::Waits);
        let load = tokio::spawn(load(built.service, Arc::clone(&counts), follows));
        Self {
            kept: Arc::new(Mutex::new(survivors.len())),
            balance: built.handles.balance,
            watch,
            survivors,
            counts,
            stage,
            load,
        }
    }

    /// Waits until the client balances over exactly these.
    async fn right(&self, wanted: &[String]) {
        let began = Instant::now();
        while !self.is_right(wanted) {
            let view = self.watch.view();
            assert!(
                began.elapsed() < PATIENCE,
                "not {wanted:?} but {:?}, {}, {:?}",
                known(&view),
                view.state,
                view.error.map(|error| error.to_chain())
            );
            tokio::time::sleep(LOOK).await;
        }
    }

    fn is_right(&self, wanted: &[String]) -> bool {
        let view = self.watch.view();
        let right = view.is_fresh() && known(&view) == wanted;
        right && self.balance.status().endpoints == wanted.len()
    }

    /// From now on, sends requests and notes how many of the servers that run all the time are known.
    fn begin(&self) {
        self.stage.send_replace(Stage::Calls);
        let (mut watch, kept) = (self.watch.clone(), Arc::clone(&self.kept));
        let survivors = self.survivors.clone();
        tokio::spawn(async move {
            while let Ok(view) = watch.changed().await {
                let known = known(&view);
                let now = survivors.iter().filter(|id| known.contains(id)).count();
                let mut kept = kept.lock().unwrap();
                *kept = now.min(*kept);
            }
        });
    }

    async fn end(self, own: Duration, right: Duration) -> Outcome {
        self.stage.send_replace(Stage::Ends);
        self.load.await.expect("the load ran");
        let counts = self.counts.lock().unwrap();
        Outcome {
            sent: counts.sent,
            failed: counts.failed,
            why: counts.why.clone(),
            own,
            right,
            early: false,
            kept: *self.kept.lock().unwrap(),
        }
    }
}

fn known(view: &View) -> Vec<String> {
    let mut ids: Vec<_> = view.instances.iter().map(|i| i.id().to_owned()).collect();
    ids.sort();
    ids
}

/// Sends requests at a steady rate, however long each takes, and counts what came of them.
async fn load<S, B>(service: S, counts: Arc<Mutex<Counts>>, mut stage: cell::Receiver<Stage>)
where
    S: Service<Request<Empty<Bytes>>, Response = http::Response<B>, Error = BoxError>,
    S: Clone + Send + 'static,
    S::Future: Send,
    B: http_body::Body<Error: Into<BoxError>> + Send + 'static,
    B::Data: Send,
{
    let mut requests = JoinSet::new();
    let _ = stage.wait_for(|stage| *stage != Stage::Waits).await;
    let mut ticks = tokio::time::interval(Duration::from_secs(1) / REQUESTS_PER_SEC);
    loop {
        tokio::select! {
            _ = ticks.tick() => {}
            _ = stage.wait_for(|stage| *stage == Stage::Ends) => break,
        }
        let service = service.clone();
        requests.spawn(async move {
            let uri = format!("http://{SERVICE}/");
            let request = Request::get(uri).body(Empty::new()).expect("a request");
            let response = service.oneshot(request).await?;
            let status = response.status();
            response.into_body().collect().await.map_err(Into::into)?;
            match status.is_success() {
                true => Ok(()),
                false => Err(BoxError::from(format!("status {status}"))),
            }
        });
        while let Some(done) = requests.try_join_next() {
            count(&counts, done.expect("no panic"));
        }
    }
    while let Some(done) = requests.join_next().await {
        count(&counts, done.expect("no panic"));
    }
}

fn count(counts: &Mutex<Counts>, outcome: Result<(), BoxError>) {
    let mut counts = counts.lock().unwrap();
    counts.sent += 1;
    if let Err(error) = outcome {
        counts.failed += 1;
        let mut text = error.to_string();
        let mut cause = error.source();
        while let Some(next) = cause {
            text.push_str(&format!(": {next}"));
            cause = next.source();
        }
        counts.why.get_or_insert(text);
    }
}
