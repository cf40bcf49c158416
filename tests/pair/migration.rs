//! Moves a fleet from one registry to another under load, step by step, as `src/docs/migration.md` says.
//! The servers and the registries are real.

use std::{
    num::NonZeroU32,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst},
    },
};

use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt, Full};
use tower::{ServiceExt, service_fn, util::BoxCloneSyncService};
use tower_roster::{
    BoxError,
    balance::BalanceHandle,
    client::{HttpEndpoints, Stack},
    registry::{Registration, connect},
    service::retry::RetrySettings,
};

use super::{
    support::{Agent, Backend, Etcd, Zookeeper, eventually, need},
    *,
};

const LONG: Duration = Duration::from_secs(40);

/// How long a server that leaves serves on without a request. The load sends some in each millisecond.
const QUIET: Duration = Duration::from_millis(100);

/// A process that serves and is registered.
struct Server {
    backend: Backend,
    registration: Registration,
}

impl Server {
    async fn start(id: usize, url: &str) -> Self {
        let backend = Backend::start(&format!("web-{id}")).await;
        let registration = register(&backend, url).await;
        Self {
            backend,
            registration,
        }
    }

    /// Restarts it at the same address with another registry, as a deployment does: it leaves the
    /// registry, serves on until the clients know, answers what is in flight, and begins anew.
    async fn redeploy(self, url: &str, client: &Client) -> Self {
        let Self {
            mut backend,
            registration,
        } = self;
        let before = client.endpoints();
        registration.deregister().await.unwrap();
        client.until(before - 1).await;
        // Requests for which it was chosen before are still on their way to it.
        eventually(LONG, "no requests for a while", || async {
            let requests = backend.requests();
            tokio::time::sleep(QUIET).await;
            backend.requests() == requests
        })
        .await;
        backend.drain().await;
        backend.restart().await;
        let registration = register(&backend, url).await;
        client.until(before).await;
        Self {
            backend,
            registration,
        }
    }
}

async fn register(backend: &Backend, url: &str) -> Registration {
    let address = backend.addr().to_string().parse().unwrap();
    let instance = Instance::new("web", backend.name(), address);
    let registration = connect(url).unwrap().register(instance).unwrap();
    let registered = timeout(LONG, registration.registered()).await;
    registered.expect("it is registered in each registry");
    registration
}

type Service = BoxCloneSyncService<Request<Full<Bytes>>, u16, BoxError>;

/// A client process. It sends nothing again, so each request that fails is lost.
#[derive(Clone)]
struct Client {
    service: Service,
    balance: BalanceHandle,
}

impl Client {
    /// Starts it, and waits until it knows the servers.
    async fn start(url: &str, servers: usize) -> Self {
        let watch = connect(url).unwrap().watch("web").unwrap();
        let once = RetrySettings::new().max_attempts(NonZeroU32::MIN);
        let stack = Stack::http().retry(once).hedge(None);
        let built = stack.build(watch.discover(HttpEndpoints::new())).unwrap();
        let service = service_fn(move |request| {
            let service = built.service.clone();
            async move {
                let response = service.oneshot(request).await?;
                let status = response.status().as_u16();
                response.into_body().collect().await?;
                Ok::<_, BoxError>(status)
            }
        });
        let client = Self {
            service: BoxCloneSyncService::new(service),
            balance: built.handles.balance,
        };
        client.until(servers).await;
        client
    }

    fn endpoints(&self) -> usize {
        self.balance.status().endpoints
    }

    async fn until(&self, endpoints: usize) {
        let known = self
            .balance
            .wait_for(|status| status.endpoints == endpoints);
        let known = timeout(LONG, known).await;
        known
            .unwrap_or_else(|_| panic!("not {endpoints}: {:?}", self.balance.status()))
            .unwrap();
    }
}

/// Eight callers that send all the time, through whichever client is there now.
struct Load {
    client: Arc<Mutex<Client>>,
    answered: Arc<AtomicUsize>,
    lost: Arc<Mutex<Vec<String>>>,
    over: Arc<AtomicBool>,
    callers: Vec<tokio::task::JoinHandle<()>>,
}

impl Load {
    fn start(client: Client) -> Self {
        let mut load = Self {
            client: Arc::new(Mutex::new(client)),
            answered: Arc::default(),
            lost: Arc::default(),
            over: Arc::default(),
            callers: Vec::new(),
        };
        load.callers = (0..8).map(|_| tokio::spawn(load.call())).collect();
        load
    }

    fn call(&self) -> impl Future<Output = ()> + use<> {
        let (client, answered) = (Arc::clone(&self.client), Arc::clone(&self.answered));
        let (lost, over) = (Arc::clone(&self.lost), Arc::clone(&self.over));
        async move {
            while !over.load(SeqCst) {
                let service = client.lock().unwrap().service.clone();
                let request = Request::get("http://web/").body(Full::default()).unwrap();
                match service.oneshot(request).await {
                    Ok(200) => drop(answered.fetch_add(1, SeqCst)),
                    other => lost.lock().unwrap().push(format!("{other:?}")),
                }
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        }
    }

    /// Replaces the client, and checks that the load goes on and nothing was lost so far.
    async fn use_client(&self, step: &str, client: Client) {
        *self.client.lock().unwrap() = client;
        self.goes_on(step).await;
    }

    async fn goes_on(&self, step: &str) {
        let before = self.answered.load(SeqCst);
        eventually(LONG, "200 more answers", || async {
            self.answered.load(SeqCst) >= before + 200
        })
        .await;
        let lost = self.lost.lock().unwrap();
        assert!(
            lost.is_empty(),
            "{step}: {} lost: {:?}",
            lost.len(),
            lost.first()
        );
    }

    async fn end(self) -> usize {
        self.over.store(true, SeqCst);
        for caller in self.callers {
            caller.await.unwrap();
        }
        self.answered.load(SeqCst)
    }
}

async fn redeploy(servers: Vec<Server>, url: &str, client: &Client) -> Vec<Server> {
    let mut new = Vec::new();
    for server in servers {
        new.push(server.redeploy(url, client).await);
    }
    new
}

/// `lose` ends the old registry for good or brings it back, as it is told.
async fn migrate(old: &str, new: &str, mut lose: impl AsyncFnMut(Outage)) {
    let merged = format!("merge:{old}|{new}");
    let mut servers = Vec::new();
    for id in 1..=3 {
        servers.push(Server::start(id, old).await);
    }
    let load = Load::start(Client::start(old, 3).await);
    load.goes_on("before").await;

    // 1. Clients read both. The new registry does not know the service yet.
    let client = Client::start(&merged, 3).await;
    load.use_client("clients read both", client.clone()).await;
    // 2. Servers register in both. Each counts once.
    servers = redeploy(servers, &merged, &client).await;
    load.goes_on("servers register in both").await;
    // The check of the guide.
    let listed = client.balance.wait_for(|status| {
        let parts = &status.registries[0].parts;
        parts.iter().map(|part| part.instances).eq([3, 3])
    });
    timeout(LONG, listed)
        .await
        .expect("each lists all")
        .unwrap();
    // Meanwhile the old one may be lost for a while.
    lose(Outage::Begins).await;
    load.goes_on("the old registry is gone").await;
    lose(Outage::Ends).await;
    client.until(3).await;
    load.goes_on("the old registry is back").await;
    // 3. Clients read the new one only.
    let client = Client::start(new, 3).await;
    load.use_client("clients read the new one", client.clone())
        .await;
    // 4. Servers register in the new one only.
    servers = redeploy(servers, new, &client).await;
    load.goes_on("servers register in the new one").await;
    // 5. The old one is shut down.
    lose(Outage::Begins).await;
    servers.push(Server::start(4, new).await);
    client.until(4).await;
    load.goes_on("the old registry is shut down").await;

    let answered = load.end().await;
    assert!(answered > 1_000, "{answered} answers are no load");
    drop(servers);
}

#[derive(Clone, Copy)]
enum Outage {
    Begins,
    Ends,
}

#[tokio::test]
async fn a_fleet_moves_from_zookeeper_to_consul_and_no_request_is_lost() {
    need!(zookeeper);
    need!(consul);
    let mut zookeeper = Zookeeper::server().await;
    let consul = Agent::dev().await;
    let (old, new) = (zookeeper.url(), format!("consul://{}", consul.http_addr()));
    migrate(&old, &new, async |outage| match outage {
        Outage::Begins => zookeeper.kill9(),
        Outage::Ends => zookeeper.restart().await,
    })
    .await;
}

#[tokio::test]
async fn a_fleet_moves_from_etcd_to_consul_and_no_request_is_lost() {
    need!(etcd);
    need!(consul);
    let mut etcd = Etcd::server().await;
    let consul = Agent::dev().await;
    let (old, new) = (etcd.url(), format!("consul://{}", consul.http_addr()));
    migrate(&old, &new, async |outage| match outage {
        Outage::Begins => etcd.kill9(),
        Outage::Ends => etcd.restart().await,
    })
    .await;
}
