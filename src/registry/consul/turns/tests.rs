use std::io;

use super::*;
use crate::registry::redact::Secrets;

const MOST: usize = 40;
const LONG: Duration = Duration::from_secs(10);

fn turns() -> Turns {
    Turns::new("consul".into(), MOST)
}

fn broken() -> RegistryError {
    let source = Secrets::default().cause(io::Error::from(io::ErrorKind::ConnectionReset));
    RegistryError::new(ErrorKind::Unreachable, "broke").with_source(source)
}

async fn take(turns: &Turns, places: usize) -> Vec<QueryPlace<'_>> {
    let mut taken = Vec::new();
    for _ in 0..places {
        taken.push(turns.place().await.expect("a place is free"));
    }
    taken
}

#[tokio::test(start_paused = true)]
async fn a_watch_without_a_place_looks_after_a_round_and_places_are_held_for_a_round() {
    let turns = turns();
    let held = take(&turns, MOST).await;
    let wait = Duration::from_secs(20);
    assert_eq!(held[0].wait(wait), ROUND, "there may be more");
    tokio::time::advance(ROUND).await;
    assert_eq!(held[0].wait(wait), wait, "nobody waits for a place");
    let began = Instant::now();
    assert!(turns.place().await.is_none());
    assert_eq!(began.elapsed(), ROUND);
    assert_eq!(held[0].wait(wait), ROUND);
    let (place, ()) = tokio::join!(turns.place(), async { drop(held) });
    assert!(
        place.is_some(),
        "a place that comes free goes to one that waits"
    );
}

#[tokio::test(start_paused = true)]
async fn looks_are_bounded_whatever_the_number_of_watches() {
    let turns = turns();
    let _held = take(&turns, MOST).await;
    let began = Instant::now();
    futures_util::future::join_all((0..1_008).map(|_| turns.place())).await;
    assert_eq!(began.elapsed(), ROUND + Duration::from_secs(10));
}

#[tokio::test(start_paused = true)]
async fn a_refusal_takes_places_away_and_time_brings_them_back() {
    let turns = turns();
    let mut held = take(&turns, MOST).await;
    // Thirty queries stand, and ten are refused one after the other.
    for left in (30..MOST).rev() {
        assert!(turns.is_refused(&broken(), Instant::now(), true));
        held.truncate(left);
    }
    assert_eq!(turns.state().granted, 27, "an eighth is for others");
    held.truncate(27);
    assert!(
        turns.place().await.is_none(),
        "what was taken away is not given again"
    );
    held.truncate(26);
    assert!(turns.place().await.is_some());
    tokio::time::advance(WIDEN_AFTER).await;
    let _full = take(&turns, 1).await;
    assert!(turns.place().await.is_some(), "an eighth more");
}

#[tokio::test(start_paused = true)]
async fn a_read_that_is_refused_again_and_again_takes_no_more_than_one_refusal() {
    let turns = turns();
    let _held = take(&turns, 32).await;
    for _ in 0..100 {
        assert!(turns.is_refused(&broken(), Instant::now(), false));
    }
    assert_eq!(
        turns.state().granted,
        28,
        "an eighth less than those that stand"
    );
}

#[tokio::test(start_paused = true)]
async fn reads_that_hang_hold_up_no_query_that_may_block() {
    let turns = turns();
    let mut lanes = Vec::new();
    for _ in 0..LANES {
        lanes.push(turns.lane().await);
    }
    let began = Instant::now();
    assert!(turns.place().await.is_some());
    assert_eq!(began.elapsed(), LANE_WITHIN);
}

#[tokio::test(start_paused = true)]
async fn what_breaks_late_or_alone_or_cannot_connect_is_no_refusal() {
    let turns = turns();
    assert!(
        !turns.is_refused(&broken(), Instant::now(), true),
        "no other query"
    );
    let _held = take(&turns, FEWEST).await;
    let began = Instant::now();
    tokio::time::advance(REFUSED_WITHIN).await;
    assert!(
        !turns.is_refused(&broken(), began, true),
        "it had been open for long"
    );
    let source = Secrets::default().cause(io::Error::from(io::ErrorKind::ConnectionRefused));
    let down = RegistryError::new(ErrorKind::Unreachable, "down").with_source(source);
    assert!(!turns.is_refused(&down, Instant::now(), true));
    let limited = || RegistryError::new(ErrorKind::Limited, "429");
    let later = limited().with_retry_after(Duration::from_secs(1));
    assert!(
        !turns.is_refused(&later, began, true),
        "it says when to ask again"
    );
    assert!(turns.is_refused(&limited(), began, true));
}

#[tokio::test]
async fn an_answer_that_is_cut_is_no_refusal() {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use crate::{
        connect::{Connector, Target},
        registry::http::{RegistryHttp, Request},
    };

    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let target = Target::Tcp(address.try_into().unwrap());
    let connector = Connector::new(target, Duration::from_secs(5));
    let origin = format!("http://{address}");
    let http = RegistryHttp::new([(origin, false, connector)], 1_000);
    let turns = turns();
    let _held = take(&turns, FEWEST).await;
    // A server that sends nothing at all refuses; one that sends half an answer does not.
    for (sent, refused) in [
        ("", true),
        ("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n[", false),
    ] {
        let began = Instant::now();
        let request = Request::new(http::Method::GET, "/", LONG);
        let (reply, ()) = tokio::join!(http.send(0, request), async {
            let (mut stream, _) = listener.accept().await.unwrap();
            let _ = stream.read(&mut [0; 1_000]).await.unwrap();
            stream.write_all(sent.as_bytes()).await.unwrap();
        });
        let error = reply.err().expect("no whole answer");
        assert_eq!(error.kind(), ErrorKind::Unreachable);
        assert_eq!(turns.is_refused(&error, began, true), refused, "{sent:?}");
    }
}
