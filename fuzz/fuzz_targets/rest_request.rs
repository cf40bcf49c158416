//! A request to the embedded registry: it has an answer, and that is no 5xx.
//! `cargo +nightly fuzz run rest_request`; method, target and body are parted by line ends.
#![no_main]

use std::cell::RefCell;

use http::Request;
use http_body_util::Full;
use libfuzzer_sys::fuzz_target;
use tower::ServiceExt;
use tower_roster::registry::{memory::Memory, rest::RestServer};

thread_local! {
    static RUNTIME: RefCell<Option<(tokio::runtime::Runtime, RestServer)>> = const { RefCell::new(None) };
}

fuzz_target!(|input: &[u8]| {
    let mut lines = input.splitn(3, |byte| *byte == b'\n');
    let (Some(method), Some(target), Some(body)) = (lines.next(), lines.next(), lines.next())
    else {
        return;
    };
    let request = Request::builder().method(method).uri(target);
    let request = request.header("host", "localhost");
    let request = request.header("content-type", "application/json");
    let Ok(request) = request.body(Full::<bytes::Bytes>::from(body.to_vec())) else {
        return;
    };
    RUNTIME.with_borrow_mut(|runtime| {
        let (runtime, server) = runtime.get_or_insert_with(|| {
            let mut runtime = tokio::runtime::Builder::new_current_thread();
            let runtime = runtime.enable_time().build().expect("a runtime");
            let server = RestServer::new(runtime.block_on(async { Memory::new() }));
            (runtime, server)
        });
        let answer = runtime.block_on(server.clone().oneshot(request));
        let Ok(answer) = answer;
        assert!(!answer.status().is_server_error());
    });
});
