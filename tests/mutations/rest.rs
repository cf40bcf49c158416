//! Requests to the embedded registry.

use http::{Method, Request};
use http_body_util::Full;
use rand::{RngExt, SeedableRng, rngs::SmallRng};
use tower::ServiceExt;
use tower_roster::registry::{memory::Memory, rest::RestServer};

use crate::{INPUTS, mutate::mutate};

const GOOD: &[(&str, &str, &str)] = &[
    (
        "PUT",
        "/registry/register",
        r#"{"serviceId": "web-1", "serviceName": "web", "host": "10.0.0.1", "port": 80, "weight": 3,
            "tags": ["v1"], "metadata": {"zone": "a"}, "status": "passing",
            "healthCheck": {"ttlMs": 10000}, "reapAfterMs": 60000}"#,
    ),
    ("POST", "/registry/heartbeat", r#"{"serviceId": "web-1"}"#),
    ("DELETE", "/registry/heartbeat", r#"{"serviceId": "web-1"}"#),
    ("GET", "/registry/services/web?tag=v1&tag=v2&wait=1ms", ""),
    ("GET", "/registry/services", ""),
    ("GET", "/registry/health?index=3&epoch=9&wait=1ms", ""),
    (
        "DELETE",
        "/registry/web-1?host=10.0.0.1&port=80&generation=4",
        "",
    ),
];

#[tokio::test(start_paused = true)]
async fn no_request_panics_and_each_has_an_answer() {
    let server = RestServer::new(Memory::new());
    let mut rng = SmallRng::seed_from_u64(3);
    let (mut asked, mut done) = (0, 0);
    for _ in 0..INPUTS {
        let (method, target, body) = GOOD[rng.random_range(0..GOOD.len())];
        let (mut target, mut body) = (target.as_bytes().to_vec(), body.as_bytes().to_vec());
        if rng.random_bool(0.5) {
            target = mutate(&target, &mut rng);
        }
        if rng.random_bool(0.5) {
            body = mutate(&body, &mut rng);
        }
        let method = Method::from_bytes(method.as_bytes()).unwrap();
        let request = Request::builder().method(method).uri(&*target);
        let request = request.header("host", "localhost");
        let request = request.header("content-type", "application/json");
        // What is no URI never gets here.
        let Ok(request) = request.body(Full::<bytes::Bytes>::from(body)) else {
            continue;
        };
        let answer = server.clone().oneshot(request).await.unwrap();
        asked += 1;
        done += u64::from(answer.status().is_success());
        assert!(!answer.status().is_server_error(), "{}", answer.status());
    }
    assert!(
        asked > INPUTS / 2,
        "mutations leave something to ask: {asked}"
    );
    assert!(done > INPUTS / 10, "and something to do: {done}");
}
