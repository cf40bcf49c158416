//! Event streams: what they send, and that readers who are slow or many hold little.

use std::time::Duration;

use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, BufReader},
    net::TcpStream,
};

use crate::{
    kit::{Rig, WITHIN, settings},
    support::eventually,
};

/// Reads the head and returns the status.
async fn head(reader: &mut BufReader<TcpStream>) -> u16 {
    let mut first = String::new();
    reader.read_line(&mut first).await.unwrap();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).await.unwrap();
        if line == "\r\n" {
            return first[9..12].parse().unwrap();
        }
    }
}

/// Reads the next event.
async fn event(reader: &mut BufReader<TcpStream>) -> serde_json::Value {
    loop {
        let mut line = String::new();
        let read = tokio::time::timeout(WITHIN, reader.read_line(&mut line)).await;
        assert!(read.unwrap().unwrap() > 0, "the stream has ended");
        if let Some(data) = line.strip_prefix("data: ") {
            return serde_json::from_str(data).unwrap();
        }
    }
}

#[tokio::test]
async fn a_stream_sends_the_state_again_and_again() {
    let rig = Rig::start(settings()).await;
    let mut reader = BufReader::new(rig.page.open("/events?limit=2").await);
    assert_eq!(head(&mut reader).await, 200);
    let first = event(&mut reader).await;
    assert_eq!(first["endpoints"].as_array().unwrap().len(), 2);
    rig.call(30).await;
    loop {
        let next = event(&mut reader).await;
        assert!(next["at"].as_u64() >= first["at"].as_u64());
        if next["services"][0]["requests"] == 30 {
            break;
        }
    }
}

#[tokio::test]
async fn of_a_hundred_pages_as_many_follow_as_are_allowed_and_the_others_poll() {
    let rig = Rig::start(settings().streams(32)).await;
    let (mut followed, mut refused) = (Vec::new(), 0);
    for _ in 0..100 {
        let mut reader = BufReader::new(rig.page.open("/events").await);
        match head(&mut reader).await {
            200 => followed.push(reader),
            503 => refused += 1,
            other => panic!("{other}"),
        }
    }
    assert_eq!((followed.len(), refused), (32, 68));
    for reader in &mut followed {
        event(reader).await;
    }
    rig.page.get("/status.json").await.ok();
    drop(followed);
    eventually(WITHIN, "closed pages make room", || async {
        let mut reader = BufReader::new(rig.page.open("/events").await);
        head(&mut reader).await == 200
    })
    .await;
}

#[tokio::test]
async fn a_reader_that_takes_nothing_holds_little() {
    let rig = Rig::start(settings().streams(1)).await;
    let stalled = rig.page.open("/events?limit=200").await;
    // Longer than the buffers of the sockets last would take minutes: the stream makes an event only when
    // the one before was taken, so what it holds does not grow. The page itself is not held up.
    for _ in 0..10 {
        tokio::time::timeout(Duration::from_secs(1), rig.page.get("/status.json"))
            .await
            .expect("others are not held up")
            .ok();
    }
    let mut reader = BufReader::new(rig.page.open("/events").await);
    assert_eq!(head(&mut reader).await, 503, "it has the only place");
    drop(stalled);
    eventually(WITHIN, "its place is free", || async {
        let mut reader = BufReader::new(rig.page.open("/events").await);
        head(&mut reader).await == 200
    })
    .await;
}

#[tokio::test]
async fn a_stream_that_is_cut_in_the_middle_of_an_event_leaves_the_page_whole() {
    let rig = Rig::start(settings()).await;
    for bytes in [1, 100, 1_000] {
        let mut stream = rig.page.open("/events").await;
        let mut some = vec![0; bytes];
        stream.read_exact(&mut some).await.unwrap();
        drop(stream);
        assert_eq!(rig.page.json("").await["view"]["total"], 3);
    }
}
