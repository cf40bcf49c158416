//! Checks over HTTP that the registry makes itself, against a listener on loopback.

use std::{
    io::ErrorKind as IoKind,
    sync::{
        Arc,
        atomic::{AtomicU16, AtomicUsize, Ordering},
    },
};

use tokio::{io::AsyncWriteExt, net::TcpListener};
use tower_roster::{instance::Status, registry::ViewState};

use super::{
    checks::{INTERVAL, checked, hurried},
    *,
};

/// Answers every connection with this status; with 0 never.
async fn http_server(status: Arc<AtomicU16>) -> (u16, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let asked = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&asked);
    tokio::spawn(async move {
        let mut held = Vec::new();
        while let Ok((mut stream, _)) = listener.accept().await {
            count.fetch_add(1, Ordering::SeqCst);
            match status.load(Ordering::SeqCst) {
                0 => held.push(stream),
                status => {
                    let answer = format!("HTTP/1.1 {status} X\r\nContent-Length: 0\r\n\r\n");
                    match stream.write_all(answer.as_bytes()).await {
                        Ok(()) => {}
                        Err(error) => assert_eq!(error.kind(), IoKind::BrokenPipe),
                    }
                    held.push(stream);
                }
            }
        }
    });
    (port, asked)
}

fn http_check() -> Health {
    Health::Http {
        target: "/health".to_owned(),
        interval: INTERVAL,
        timeout: INTERVAL * 2,
    }
}

#[tokio::test]
async fn a_failing_path_withholds_an_instance_and_one_success_restores_it() {
    let status = Arc::new(AtomicU16::new(200));
    let (port, asked) = http_server(Arc::clone(&status)).await;
    let memory = hurried().build().unwrap();
    let registry = registry(&memory);
    let mut watch = registry.watch("web").unwrap();
    let registration = registry.register(checked("a", port, http_check())).unwrap();
    until(&mut watch, &["a"]).await;
    for bad in [500, 0] {
        let before = asked.load(Ordering::SeqCst);
        status.store(bad, Ordering::SeqCst);
        let view = until(&mut watch, &[]).await;
        assert_eq!(view.state, ViewState::Empty);
        assert_eq!(view.withheld[0].status, Status::Critical);
        let failures = asked.load(Ordering::SeqCst) - before;
        assert!(failures >= 3, "critical after {failures} failures");
        status.store(204, Ordering::SeqCst);
        until(&mut watch, &["a"]).await;
    }
    registration.deregister().await.unwrap();
}

#[test]
fn a_check_that_ended_with_its_runtime_is_made_again() {
    let runtime = || {
        tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap()
    };
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let port = listener.local_addr().unwrap().port();
    let accepted = async || {
        let listener = TcpListener::from_std(listener.try_clone().unwrap()).unwrap();
        let accepted = tokio::time::timeout(SECOND * 10, listener.accept()).await;
        accepted.expect("a check").unwrap()
    };
    let memory = hurried().build().unwrap();
    let hangs = Health::Http {
        target: "/".to_owned(),
        interval: INTERVAL,
        timeout: SECOND * 60,
    };
    let first = runtime();
    let unanswered = first.block_on(async {
        memory.register(checked("a", port, hangs)).unwrap();
        accepted().await
    });
    drop(first);
    runtime().block_on(async {
        memory.heartbeat("a");
        accepted().await
    });
    drop(unanswered);
}
