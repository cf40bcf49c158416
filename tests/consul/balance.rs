//! What a balancer says of a Consul that has nothing for it.

use std::{convert::Infallible, time::Duration};

use tower::ServiceExt;
use tower_roster::{
    Instance,
    balance::{BalanceLayer, BalanceStatus, NoEndpoint},
    error::ErrorKind,
    registry::{ViewState, Watch},
};

use crate::{
    scene::{config, of, registry},
    support::{Agent, need_consul},
};

/// A balancer over a watch, whose endpoints answer with their id.
macro_rules! balance {
    ($watch:expr) => {{
        let watch: Watch = $watch;
        let discover = watch.discover(|instance: &Instance| {
            let id = instance.id().to_owned();
            Ok::<_, Infallible>(tower::service_fn(move |(): ()| {
                let id = id.clone();
                async move { Ok::<_, Infallible>(id) }
            }))
        });
        BalanceLayer::builder()
            .wait(Duration::ZERO)
            .build()
            .unwrap()
            .balance(discover)
    }};
}

/// Waits until the balancer's registry stands so, which may take Consul a while.
macro_rules! stands {
    ($balance:expr, $condition:expr) => {{
        let handle = $balance.handle();
        let stands = handle.wait_for($condition);
        let status = tokio::time::timeout(Duration::from_secs(20), stands).await;
        status
            .unwrap_or_else(|_| panic!("it stands otherwise: {:?}", handle.status()))
            .unwrap()
    }};
}

macro_rules! why {
    ($balance:expr) => {{
        let error = $balance.clone().oneshot(()).await.err();
        let error = error.expect("there is no endpoint");
        error.no_endpoint_reason().expect("a reason").clone()
    }};
}

fn is(state: ViewState) -> impl FnMut(&BalanceStatus) -> bool {
    move |status| status.registries.iter().any(|status| status.state == state)
}

fn fails(kind: ErrorKind) -> impl FnMut(&BalanceStatus) -> bool {
    move |status| {
        let mut errors = status.registries.iter().filter_map(|s| s.error.as_ref());
        errors.any(|error| error.kind() == kind)
    }
}

#[tokio::test]
async fn a_missing_service_an_empty_one_and_a_lost_agent_are_told_apart() {
    need_consul!();
    let mut agent = Agent::dev().await;
    let balance = balance!(registry(&agent.url()).watch("web").unwrap());
    stands!(balance, is(ViewState::Missing));
    assert_eq!(why!(balance), NoEndpoint::Missing);

    agent
        .register_with_ttl("web-1", "web", 8080, "critical")
        .await;
    stands!(balance, is(ViewState::Empty));
    assert_eq!(why!(balance), NoEndpoint::Empty);

    agent.pass_check("check:web-1").await;
    stands!(balance, |status| status.usable == 1);
    assert_eq!(balance.clone().oneshot(()).await.unwrap(), "web-1");

    agent.kill9();
    let status = stands!(balance, is(ViewState::Stale));
    assert!(status.registries[0].error.is_some(), "{status:?}");
    assert_eq!((status.endpoints, status.usable), (1, 1));
    assert_eq!(balance.clone().oneshot(()).await.unwrap(), "web-1");
}

#[tokio::test]
async fn a_token_that_is_refused_is_told_and_never_shown() {
    need_consul!();
    let agent = Agent::dev().acl_default_deny("root").await;
    let token = "6f0a8e0c-0000-4000-8000-000000000000";
    let refused = of(config(&agent.url()).token(token));
    let balance = balance!(refused.watch("web").unwrap());
    let status = stands!(balance, fails(ErrorKind::Denied));
    assert_eq!(status.registries[0].state, ViewState::Pending);
    match why!(balance) {
        NoEndpoint::Unreachable { error, .. } => {
            assert!(error.contains("403"), "{error}");
            assert!(!error.contains(token), "{error}");
        }
        other => panic!("a refusal must be told, not {other:?}"),
    }
    assert!(!format!("{status:?}").contains(token));
}

#[tokio::test]
async fn an_agent_that_is_not_there_is_told() {
    let balance = balance!(registry("http://127.0.0.1:1").watch("web").unwrap());
    stands!(balance, fails(ErrorKind::Unreachable));
    assert!(matches!(why!(balance), NoEndpoint::Unreachable { .. }));
}
