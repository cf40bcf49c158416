//! What is known of a call: from its head, from its trailers, or from neither.

use std::time::Duration;

use tonic::Code;
use tower_roster::{
    classify::{Pushback, Verdict, is_over_limit},
    client::GrpcEndpoints,
    discover::MakeEndpoint,
};

use crate::{
    greeter::{Greeting, greeter_client::GreeterClient},
    judged::{
        Judged,
        Word::{End, Head, Over},
    },
    server::Server,
};

fn client(server: &Server) -> (GreeterClient<Judged>, Judged) {
    let mut endpoints = GrpcEndpoints::new();
    let judged = Judged::new(endpoints.make_endpoint(&server.instance()).unwrap());
    (GreeterClient::new(judged.clone()), judged)
}

pub(crate) fn ask(name: &str, answers: u32) -> Greeting {
    let name = name.to_owned();
    Greeting { name, answers }
}

#[tokio::test]
async fn a_call_succeeds_with_its_trailers() {
    let server = Server::start().await;
    let (mut client, judged) = client(&server);
    let answer = client.greet(ask("you", 0)).await.unwrap();
    assert_eq!(answer.get_ref().text, "hello, you");
    assert_eq!(judged.told(), [End(Verdict::SUCCESS), Over]);
}

#[tokio::test]
async fn a_server_that_fails_in_its_trailers_has_failed() {
    let server = Server::start().await;
    let (mut client, judged) = client(&server);
    let mut answers = client
        .greet_all(ask("fail 14", 3))
        .await
        .unwrap()
        .into_inner();
    for _ in 0..3 {
        assert_eq!(answers.message().await.unwrap().unwrap().text, "hello, all");
        assert_eq!(judged.told(), [], "so far nobody knows");
    }
    let status = answers.message().await.unwrap_err();
    assert_eq!(
        (status.code(), status.message()),
        (Code::Unavailable, "as asked")
    );
    assert_eq!(judged.told(), [End(Verdict::FAILURE), Over]);
}

#[tokio::test]
async fn a_status_in_the_head_is_known_at_once() {
    let server = Server::start().await;
    let (mut client, judged) = client(&server);
    let status = client.greet(ask("fail 14", 0)).await.unwrap_err();
    assert_eq!(status.code(), Code::Unavailable);
    assert_eq!(judged.told(), [Head(Verdict::FAILURE), Over]);
    let status = client.greet(ask("fail 5", 0)).await.unwrap_err();
    assert_eq!(status.code(), Code::NotFound);
    assert_eq!(judged.told(), [Head(Verdict::SUCCESS), Over]);
}

#[tokio::test]
async fn pushback_is_heard_from_head_and_trailers() {
    let server = Server::start().await;
    let (mut client, judged) = client(&server);
    let after = Pushback::Exactly(Duration::from_millis(250));
    client.greet(ask("fail 8 after 250", 0)).await.unwrap_err();
    let expected = Verdict::OVERLOADED.pushback(after);
    assert_eq!(judged.told(), [Head(expected), Over]);

    let answers = client.greet_all(ask("fail 14 after -1", 1)).await;
    let mut answers = answers.unwrap().into_inner();
    while answers.message().await.is_ok_and(|answer| answer.is_some()) {}
    let expected = Verdict::FAILURE.pushback(Pushback::Never);
    assert_eq!(judged.told(), [End(expected), Over]);
}

#[tokio::test]
async fn a_call_that_its_caller_drops_is_neutral() {
    let server = Server::start().await;
    let (mut client, judged) = client(&server);
    for read in 0..3 {
        let mut answers = client.greet_all(ask("hang", 3)).await.unwrap().into_inner();
        for _ in 0..read {
            answers.message().await.unwrap().unwrap();
        }
        drop(answers);
        assert_eq!(judged.told(), [Over], "after {read} messages");
    }
}

#[tokio::test]
async fn a_call_whose_server_is_killed_has_failed() {
    let server = Server::start().await;
    let (mut client, judged) = client(&server);
    let mut answers = client.greet_all(ask("hang", 1)).await.unwrap().into_inner();
    answers.message().await.unwrap().unwrap();
    drop(server);
    answers.message().await.unwrap_err();
    assert_eq!(judged.told(), [End(Verdict::FAILURE), Over]);
}

#[tokio::test]
async fn trailers_beyond_the_limit_of_the_client_are_no_failure_of_the_server() {
    let server = Server::start().await;
    // The head of a response has 125 bytes, and these trailers have 154.
    let mut endpoints = GrpcEndpoints::new().max_header_size(140);
    let judged = Judged::new(endpoints.make_endpoint(&server.instance()).unwrap());
    let mut client = GreeterClient::new(judged.clone());
    let answers = client.greet_all(ask("fail 14 after 250", 1)).await;
    let mut answers = answers.unwrap().into_inner();
    answers.message().await.unwrap().unwrap();
    let status = answers.message().await.unwrap_err();
    assert_eq!(status.code(), Code::ResourceExhausted, "{status:?}");
    assert!(status.message().contains("140 bytes"), "{status:?}");
    assert!(is_over_limit(&status), "{status:?}");
    assert_eq!(judged.told(), [End(Verdict::SUCCESS), Over]);
}
