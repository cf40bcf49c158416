//! The channel as a plain type: what generated clients get through it, and what they are told.

use std::{
    collections::BTreeSet,
    error::Error,
    fmt::Debug,
    future::{Future, poll_fn},
    pin::pin,
    task::Poll,
    time::Duration,
};

use futures_util::{future::join_all, stream};
use tonic::{Code, Request, Status, client::Grpc, service::interceptor::InterceptedService};
use tonic_prost::ProstCodec;
use tower_roster::{
    Registry,
    balance::{BalanceError, policy::RoundRobin},
    classify::is_unsent,
    client::{GrpcChannel, GrpcEndpoints, Stack},
    error::ErrorKind,
    registry::{fixed::Fixed, memory::Memory},
    service::retry::Repeatable,
};

use crate::{
    greeter::{Answer, Greeting, greeter_client::GreeterClient},
    outcomes::ask,
    server::{Server, Wire, refusing, until},
};

/// As a program holds it.
#[derive(Clone, Debug)]
struct App {
    greeter: GreeterClient<GrpcChannel>,
    named: GreeterClient<InterceptedService<GrpcChannel, NameIt>>,
}

type Named = Result<Request<()>, Status>;
type NameIt = fn(Request<()>) -> Named;

/// What the caller's program adds to each call.
fn name_it(mut call: Request<()>) -> Named {
    call.metadata_mut()
        .insert("x-program", "tests".parse().unwrap());
    Ok(call)
}

fn listed(addrs: impl IntoIterator<Item = std::net::SocketAddr>) -> Registry {
    let listed = addrs.into_iter();
    let listed = listed.map(|addr| (addr.try_into().unwrap(), 1.into()));
    Registry::new(Fixed::new(listed))
}

async fn usable(channel: &GrpcChannel, count: usize) {
    let usable = channel.handle().wait_for(|status| status.usable == count);
    usable.await.unwrap();
}

#[tokio::test]
async fn a_channel_is_a_plain_type_that_clients_and_interceptors_take() {
    fn is_plain<T: Clone + Send + Sync + Debug + 'static>() {}
    is_plain::<App>();
    let server = Server::start().await;
    let channel = GrpcChannel::connect(&listed([server.addr]), "greeter").unwrap();
    assert_eq!(channel.service(), "greeter");
    assert!(format!("{channel:?}").contains("greeter"), "{channel:?}");
    let App {
        mut greeter,
        mut named,
    } = App {
        greeter: GreeterClient::new(channel.clone()),
        named: GreeterClient::with_interceptor(channel, name_it as NameIt),
    };
    greeter.greet(ask("you", 0)).await.unwrap();
    assert_eq!(server.last("x-program").1, "");
    named.greet(ask("you", 0)).await.unwrap();
    let (origin, program) = server.last("x-program");
    assert_eq!((&*origin, &*program), ("http://greeter", "tests"));
}

#[tokio::test]
async fn calls_of_all_four_kinds_go_through_a_channel() {
    let servers = [Server::start().await, Server::start().await];
    let channel = listed(servers.each_ref().map(|server| server.addr));
    let channel = GrpcChannel::connect(&channel, "greeter").unwrap();
    let mut client = GreeterClient::new(channel.clone());
    let answer = client.greet(ask("you", 0)).await.unwrap().into_inner();
    assert_eq!(answer.text, "hello, you");

    let mut answers = client.greet_all(ask("all", 3)).await.unwrap().into_inner();
    for _ in 0..3 {
        answers.message().await.unwrap().unwrap();
    }
    assert!(answers.message().await.unwrap().is_none());

    let names = stream::iter(["one", "two"].map(|name| ask(name, 0)));
    let mut answers = client.converse(names).await.unwrap().into_inner();
    for name in ["one", "two"] {
        let answer = answers.message().await.unwrap().unwrap();
        assert_eq!(answer.text, format!("hello, {name}"));
    }
    assert!(answers.message().await.unwrap().is_none());

    // Of the service, no method takes a stream and answers once; on the wire this is one.
    let mut grpc = Grpc::new(channel.clone());
    grpc.ready().await.unwrap();
    let path = http::uri::PathAndQuery::from_static("/greeter.Greeter/Converse");
    let codec = ProstCodec::<Greeting, Answer>::default();
    let names = Request::new(stream::iter([ask("once", 0)]));
    let answer = grpc.client_streaming(names, path, codec).await.unwrap();
    assert_eq!(answer.into_inner().text, "hello, once");

    let status = client.greet(ask("fail 7", 0)).await.unwrap_err();
    assert_eq!(
        (status.code(), status.message()),
        (Code::PermissionDenied, "as asked")
    );
    let mut answers = client
        .greet_all(ask("fail 14", 1))
        .await
        .unwrap()
        .into_inner();
    answers.message().await.unwrap().unwrap();
    let status = answers.message().await.unwrap_err();
    assert_eq!(
        (status.code(), status.message()),
        (Code::Unavailable, "as asked")
    );
}

/// Each part of a message says something else.
fn says_each_fact_once(status: &Status) {
    let parts: Vec<_> = status.message().split(": ").collect();
    let distinct: BTreeSet<_> = parts.iter().collect();
    assert_eq!(parts.len(), distinct.len(), "{:?}", status.message());
    let words = status.message().to_lowercase();
    for fact in [
        "no connection",
        "cannot connect",
        "refused",
        "greeter\"",
        "deadline",
        "broke",
        "no endpoint",
    ] {
        assert!(
            words.matches(fact).count() <= 1,
            "{fact}: {:?}",
            status.message()
        );
    }
    println!("{:?} {}", status.code(), status.message());
}

#[tokio::test]
async fn a_status_tells_why_no_server_answered_and_each_fact_once() {
    let stack = || {
        Stack::grpc()
            .balance(|balance| balance.wait(Duration::from_millis(50)))
            .timeout(Duration::from_millis(500))
    };
    let status = async |registry: Registry, name: &str| {
        let channel = stack().connect(&registry, "greeter").unwrap();
        let mut client = GreeterClient::new(channel);
        let status = client.greet(ask(name, 0)).await.unwrap_err();
        says_each_fact_once(&status);
        status
    };

    let unknown = status(Registry::new(Memory::new()), "you").await;
    assert_eq!(unknown.code(), Code::Unavailable);
    assert!(unknown.message().contains("\"greeter\""), "{unknown:?}");
    assert!(unknown.message().contains("no such service"), "{unknown:?}");
    assert!(is_unsent(&unknown), "it may go elsewhere");

    let (_socket, gone) = refusing();
    let refused = status(listed([gone]), "you").await;
    assert_eq!(refused.code(), Code::Unavailable);
    assert!(refused.message().contains(&gone.to_string()), "{refused:?}");
    assert!(is_unsent(&refused));

    let server = Server::start().await;
    let late = status(listed([server.addr]), "hold").await;
    assert_eq!(late.code(), Code::DeadlineExceeded);

    let paused = Memory::new();
    paused.pause();
    let silent = status(Registry::new(paused), "you").await;
    assert_eq!(silent.code(), Code::Unavailable, "the registry is down");
    let mut cause: Option<&(dyn Error + 'static)> = silent.source();
    while let Some(error) = cause.filter(|error| !error.is::<BalanceError>()) {
        cause = error.source();
    }
    assert!(cause.is_some(), "the error is the source of the status");

    let channel = stack().connect(&listed([server.addr]), "greeter").unwrap();
    let (mut client, held) = (GreeterClient::new(channel), server.held());
    let call = tokio::spawn(async move { client.greet(ask("hold", 0)).await });
    until("it is held", async || server.held() > held).await;
    drop(server);
    let broke = call.await.unwrap().unwrap_err();
    says_each_fact_once(&broke);
    assert_eq!(broke.code(), Code::Unavailable);
    assert!(!is_unsent(&broke), "it was in flight");
}

#[tokio::test]
async fn only_what_may_be_carried_out_twice_is_repeated() {
    let server = Server::start().await;
    let stack = || Stack::grpc().hedge(None);
    let calls = async |channel: Result<GrpcChannel, _>| {
        let mut client = GreeterClient::new(channel.unwrap());
        let before = server.calls();
        let status = client.greet(ask("fail 14", 0)).await.unwrap_err();
        assert_eq!(
            (status.code(), status.message()),
            (Code::Unavailable, "as asked")
        );
        server.calls() - before
    };
    let registry = listed([server.addr]);
    assert_eq!(calls(stack().connect(&registry, "greeter")).await, 1);
    for (repeatable, repeated) in [
        (Repeatable::from("greeter.Greeter"), true),
        (Repeatable::from("/greeter.Greeter/Greet"), true),
        (Repeatable::from(["a.B", "greeter.Greeter/Greet"]), true),
        (Repeatable::from("greeter.Greeter/GreetAll"), false),
        (Repeatable::from("greeter.Greet"), false),
        (
            Repeatable::when(|head| head.uri.path().ends_with("/Greet")),
            true,
        ),
        (Repeatable::when(|_| false), false),
    ] {
        let what = format!("{repeatable:?}");
        let channel = stack().repeatable(repeatable).connect(&registry, "greeter");
        assert_eq!(calls(channel).await > 1, repeated, "{what}");
    }
    let refused = stack()
        .repeatable("greeter Greet")
        .connect(&registry, "greeter");
    let error = refused.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid);
    assert!(error.to_string().contains("stack.repeatable"), "{error}");
}

/// tonic's own list of channels takes 1,024 changes.
#[tokio::test]
async fn more_endpoints_than_a_thousand_are_all_called() {
    const COUNT: u32 = 1_100;
    let server = Server::on("0.0.0.0:0".parse().unwrap(), Wire::Plain).await;
    // All of 127.0.0.0/8 is this machine.
    let addrs = (0..COUNT).map(|n| {
        let ip = std::net::Ipv4Addr::from(0x7f01_0000 + n);
        (ip, server.addr.port()).into()
    });
    let stack = Stack::grpc().balance(|balance| balance.policy(RoundRobin::new()));
    let channel = stack.connect(&listed(addrs), "greeter").unwrap();
    usable(&channel, COUNT as usize).await;
    let client = GreeterClient::new(channel);
    for _ in 0..COUNT / 100 {
        let calls = (0..100).map(|_| {
            let mut client = client.clone();
            async move { client.greet(ask("you", 0)).await }
        });
        join_all(calls)
            .await
            .into_iter()
            .for_each(|answer| drop(answer.unwrap()));
    }
    assert_eq!(server.connections(), COUNT as usize, "each has been called");
}

#[tokio::test]
async fn calls_and_channels_that_are_dropped_leave_nothing_behind() {
    let server = Server::start().await;
    let memory = Memory::new();
    let registry = Registry::new(memory.clone());
    let registration = registry.register(server.instance()).unwrap();
    registration.registered().await;
    // Dropped after so many polls: before the set is known, before a connection, in flight, in its body.
    for polls in 0..40 {
        let channel = GrpcChannel::connect(&registry, "greeter").unwrap();
        let handle = channel.handle().clone();
        let mut client = GreeterClient::new(channel);
        let call = async {
            let mut answers = client.greet_all(ask("hang", 1)).await?.into_inner();
            while answers.message().await?.is_some() {}
            Ok::<_, Status>(())
        };
        {
            let mut call = pin!(call);
            for _ in 0..polls {
                let polled = poll_fn(|cx| Poll::Ready(call.as_mut().poll(cx).is_ready()));
                assert!(!polled.await, "it hangs");
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        }
        let endpoints = handle.endpoints().await.unwrap();
        let in_flight: usize = endpoints.iter().map(|endpoint| endpoint.in_flight).sum();
        assert_eq!(in_flight, 0, "after {polls} polls");
        drop(client);
        assert!(handle.wait_for(|_| false).await.is_err(), "its task ends");
    }
    assert!(server.connections() > 0, "some were sent");
    until("all connections are closed", async || server.open() == 0).await;
    until("no watch is left", async || memory.watchers("greeter") == 0).await;
}

#[tokio::test]
async fn a_template_makes_channels_that_share_nothing() {
    let server = Server::start().await;
    let registry = listed([server.addr]);
    let template = Stack::grpc().over(GrpcEndpoints::new());
    let [one, other] = [(); 2].map(|()| template.connect(&registry, "greeter").unwrap());
    usable(&one, 1).await;
    usable(&other, 1).await;
    GreeterClient::new(one).greet(ask("you", 0)).await.unwrap();
    GreeterClient::new(other)
        .greet(ask("you", 0))
        .await
        .unwrap();
    assert_eq!(server.connections(), 2);
}
