//! Generated clients over the whole stack, against servers that fail in their trailers or are killed.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed},
    },
};

use futures_util::{future::join_all, stream};
use tonic::{Code, Status, body::Body};
use tower_roster::{
    Registry,
    balance::{
        BalanceEvent, EndpointState,
        policy::{DefaultPolicy, RoundRobin},
    },
    classify::{self, Grpc},
    client::{Built, GrpcClient, GrpcEndpoints, Handles, Stack, Stacked},
    endpoint::eject::{EjectCause, Restored},
    registry::fixed::Fixed,
    service::retry::{Replay, ReplayBody, ShareReplay},
};

use crate::{
    greeter::{Answer, greeter_client::GreeterClient},
    outcomes::ask,
    server::{Server, Wire, instance, until},
};

type Whole<P = DefaultPolicy> = Stacked<GrpcClient, P, Grpc, Replay, ShareReplay>;
type Client<P = DefaultPolicy> = GreeterClient<Whole<P>>;

/// Three greeters, and a client of them through everything.
struct Scene<P: tower_roster::balance::policy::Policy = DefaultPolicy> {
    servers: [Option<Server>; 3],
    client: Client<P>,
    handles: Handles,
}

impl Scene {
    async fn new() -> Self {
        Self::with(Stack::grpc()).await
    }
}

impl<P: tower_roster::balance::policy::Policy> Scene<P> {
    async fn with(stack: Stack<P, Grpc, Replay, ShareReplay>) -> Self {
        let servers = [
            Server::start().await,
            Server::start().await,
            Server::start().await,
        ];
        let addrs = servers.each_ref().map(|server| server.addr);
        let listed = addrs.map(|addr| (addr.try_into().unwrap(), 1.into()));
        let registry = Registry::new(Fixed::new(listed));
        let discover = registry
            .watch("greeter")
            .unwrap()
            .discover(GrpcEndpoints::new());
        let Built {
            service, handles, ..
        } = stack.build(discover).unwrap();
        let balance = &handles.balance;
        balance.wait_for(|status| status.usable == 3).await.unwrap();
        Self {
            servers: servers.map(Some),
            client: GreeterClient::new(service),
            handles,
        }
    }

    fn server(&self, at: usize) -> &Server {
        self.servers[at].as_ref().expect("it runs")
    }

    /// The state of the endpoint at the address of a server.
    async fn state(&self, addr: std::net::SocketAddr) -> (EndpointState, usize) {
        let endpoints = self.handles.balance.endpoints().await.unwrap();
        let endpoint = endpoints
            .iter()
            .find(|endpoint| endpoint.key.id() == addr.to_string())
            .expect("it is listed");
        (endpoint.state, endpoint.in_flight)
    }

    async fn in_flight(&self) -> usize {
        let endpoints = self.handles.balance.endpoints().await.unwrap();
        endpoints.iter().map(|endpoint| endpoint.in_flight).sum()
    }
}

async fn greet<P>(client: &Client<P>, name: &str) -> Result<Answer, Status>
where
    P: tower_roster::balance::policy::Policy,
{
    let answer = client.clone().greet(ask(name, 0)).await;
    answer.map(tonic::Response::into_inner)
}

/// The messages of a stream, and what ended it.
async fn greet_all<P>(client: &Client<P>, answers: u32) -> (usize, Result<(), Status>)
where
    P: tower_roster::balance::policy::Policy,
{
    let stream = client.clone().greet_all(ask("all", answers)).await;
    let mut stream = match stream {
        Ok(stream) => stream.into_inner(),
        Err(status) => return (0, Err(status)),
    };
    let mut messages = 0;
    loop {
        match stream.message().await {
            Ok(Some(_)) => messages += 1,
            Ok(None) => return (messages, Ok(())),
            Err(status) => return (messages, Err(status)),
        }
    }
}

#[test]
fn a_generated_client_over_the_stack_goes_wherever_its_caller_goes() {
    fn is_shareable<T: Clone + Send + Sync + 'static>() {}
    is_shareable::<Client>();
    fn takes_calls<T: tower::Service<http::Request<Body>>>()
    where
        T::Future: Send,
    {
    }
    takes_calls::<Whole>();
    fn takes_wrapped<T: tower::Service<http::Request<ReplayBody<Body>>>>() {}
    takes_wrapped::<GrpcClient>();
}

#[tokio::test]
async fn calls_of_every_kind_go_through_all_layers() {
    let scene = Scene::new().await;
    let mut by_server = BTreeMap::<_, usize>::new();
    for _ in 0..20 {
        let calls = (0..6).map(|_| greet(&scene.client, "you"));
        for answer in join_all(calls).await {
            *by_server.entry(answer.unwrap().server).or_default() += 1;
        }
    }
    assert_eq!(by_server.len(), 3, "{by_server:?}");

    assert!(matches!(greet_all(&scene.client, 5).await, (5, Ok(()))));

    let greetings = stream::iter(["one", "two", "three"].map(|name| ask(name, 0)));
    let answers = scene.client.clone().converse(greetings).await.unwrap();
    let mut answers = answers.into_inner();
    for name in ["one", "two", "three"] {
        let answer = answers.message().await.unwrap().unwrap();
        assert_eq!(answer.text, format!("hello, {name}"));
    }
    assert!(answers.message().await.unwrap().is_none());

    // The caller's own mistakes are its own.
    let status = greet(&scene.client, "fail 3").await.unwrap_err();
    assert_eq!(
        (status.code(), status.message()),
        (Code::InvalidArgument, "as asked")
    );
    assert_eq!(scene.handles.budget.as_ref().unwrap().withdrawn(), 0);
    assert_eq!(scene.in_flight().await, 0);
}

#[tokio::test]
async fn a_server_that_fails_in_its_trailers_is_ejected_and_comes_back() {
    let scene = Scene::new().await;
    // Known to be good, so that nobody is shunned for being new.
    for _ in 0..5 {
        join_all((0..6).map(|_| greet(&scene.client, "you"))).await;
    }
    let mut events = scene.handles.balance.subscribe().await.unwrap();
    let bad = scene.server(1).addr;
    scene.server(1).fail_streams(true);

    let ends = join_all((0..60).map(|_| greet_all(&scene.client, 2))).await;
    let failed = ends.iter().filter(|(_, end)| end.is_err()).count();
    assert!(failed >= 5, "only {failed} of 60 streams went there");
    for (messages, end) in &ends {
        assert_eq!(*messages, 2, "each came to its end");
        if let Err(status) = end {
            assert_eq!(status.code(), Code::Unavailable);
        }
    }
    until("it is ejected", || async {
        scene.state(bad).await.0 == EndpointState::Ejected
    })
    .await;
    let ejected = loop {
        if let BalanceEvent::Ejected { key, cause, .. } = events.recv().await.unwrap() {
            break (key, cause);
        }
    };
    assert_eq!(ejected.0.id(), bad.to_string());
    assert!(
        matches!(ejected.1, EjectCause::ConsecutiveFailures { n } if n >= 5),
        "{:?}",
        ejected.1
    );
    // Its first probe comes half a second later.
    for (messages, end) in join_all((0..60).map(|_| greet_all(&scene.client, 2))).await {
        assert!(messages == 2 && end.is_ok(), "{end:?}");
    }

    scene.server(1).fail_streams(false);
    let calls = scene.server(1).calls();
    until("it gets calls again", || async {
        join_all((0..6).map(|_| greet_all(&scene.client, 1))).await;
        scene.server(1).calls() > calls + 1
    })
    .await;
    let restored = loop {
        if let BalanceEvent::Restored { key, by: why, .. } = events.recv().await.unwrap() {
            break (key, why);
        }
    };
    assert_eq!(
        (restored.0.id(), restored.1),
        (&*bad.to_string(), Restored::Probe)
    );
    assert_eq!(scene.in_flight().await, 0);
}

/// Has eight callers call while one of three servers is killed and comes back. Returns what failed.
async fn kill_while_calling<P>(scene: &mut Scene<P>) -> Vec<Status>
where
    P: tower_roster::balance::policy::Policy,
{
    for _ in 0..5 {
        for answer in join_all((0..6).map(|_| greet(&scene.client, "you"))).await {
            answer.unwrap();
        }
    }
    // Some that are surely under way there when it happens.
    let held: Vec<_> = (0..9)
        .map(|_| {
            let client = scene.client.clone();
            tokio::spawn(async move { greet(&client, "hold").await })
        })
        .collect();
    until("each server holds some", || async {
        (0..3).all(|at| scene.server(at).held() > 0)
    })
    .await;

    let stop = Arc::new(AtomicBool::new(false));
    let answered = Arc::new(AtomicUsize::new(0));
    let callers: Vec<_> = (0..8)
        .map(|_| {
            let client = scene.client.clone();
            let (stop, answered) = (Arc::clone(&stop), Arc::clone(&answered));
            tokio::spawn(async move {
                let mut failed = Vec::new();
                while !stop.load(Relaxed) {
                    match greet(&client, "you").await {
                        Ok(_) => {
                            answered.fetch_add(1, Relaxed);
                        }
                        Err(status) => failed.push(status),
                    }
                }
                failed
            })
        })
        .collect();
    let more = |calls: usize| {
        let (answered, before) = (Arc::clone(&answered), answered.load(Relaxed));
        async move {
            until("calls are answered", || async {
                answered.load(Relaxed) >= before + calls
            })
            .await;
        }
    };
    more(100).await;
    let addr = scene.server(1).addr;
    scene.servers[1] = None;
    more(300).await;
    let back = Server::on(addr, Wire::Plain).await;
    until("it gets calls again", || async { back.calls() >= 10 }).await;
    back.release();
    scene.servers[1] = Some(back);
    (0..3).for_each(|at| scene.server(at).release());
    stop.store(true, Relaxed);

    let mut failed = Vec::new();
    for caller in callers {
        failed.extend(caller.await.unwrap());
    }
    for call in held {
        failed.extend(call.await.unwrap().err());
    }
    assert_eq!(scene.in_flight().await, 0);
    failed
}

#[tokio::test]
async fn a_call_that_was_not_sent_survives_the_death_of_its_server() {
    // In turn, so that the dead one is tried again and again.
    let stack = Stack::grpc().balance(|balance| balance.policy(RoundRobin::new()));
    let mut scene = Scene::with(stack).await;
    let mut events = scene.handles.balance.subscribe().await.unwrap();
    let failed = kill_while_calling(&mut scene).await;
    for status in &failed {
        assert!(!classify::is_unsent(status), "it was not sent: {status:?}");
        assert_eq!(status.code(), Code::Unavailable, "{status:?}");
    }
    // What was under way: three of the nine, and at most one for each caller.
    assert!((3..=11).contains(&failed.len()), "{failed:?}");
    assert_eq!(
        scene.handles.budget.as_ref().unwrap().withdrawn(),
        0,
        "another endpoint costs nothing"
    );

    let dead = scene.server(1).addr.to_string();
    let (mut ejected, mut others) = (false, BTreeSet::new());
    while let Ok(event) = events.try_recv() {
        if let BalanceEvent::Ejected { key, .. } = event {
            ejected |= key.id() == dead;
            others.extend((key.id() != dead).then(|| key.id().to_owned()));
        }
    }
    assert!(
        ejected && others.is_empty(),
        "not the dead one alone: {others:?}"
    );
}

#[tokio::test]
async fn no_call_fails_that_may_be_repeated() {
    let stack = Stack::grpc()
        .balance(|balance| balance.policy(RoundRobin::new()))
        .reissue(Replay::new().idempotent(|_| true));
    let mut scene = Scene::with(stack).await;
    let failed = kill_while_calling(&mut scene).await;
    assert!(failed.is_empty(), "{failed:?}");
    assert!(
        scene.handles.budget.as_ref().unwrap().withdrawn() >= 3,
        "those that were under way"
    );
}

#[tokio::test]
async fn a_call_that_its_caller_gives_up_is_in_flight_nowhere() {
    let scene = Scene::new().await;
    let held: Vec<_> = (0..6)
        .map(|_| {
            let client = scene.client.clone();
            tokio::spawn(async move { greet(&client, "hold").await })
        })
        .collect();
    let mut stream = scene.client.clone();
    let stream = stream.greet_all(ask("hang", 1)).await.unwrap();
    until("all are under way", || async {
        scene.in_flight().await == 7
    })
    .await;
    held.iter().for_each(tokio::task::JoinHandle::abort);
    drop(stream);
    until("none is", || async { scene.in_flight().await == 0 }).await;
    let addr = instance(scene.server(0).addr).address.to_string();
    let addr = addr.parse().unwrap();
    assert_eq!(scene.state(addr).await.1, 0);
}
