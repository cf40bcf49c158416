//! Everything that the crate and its programs say at trace level, on each registry that takes a secret:
//! none of it may hold the secret.
//!
//! One test, because it is the subscriber of the whole process: what other threads say, and the libraries
//! below, counts too. What a server quotes of a secret is in the suites of the backends.
#![allow(clippy::unwrap_used)]

#[path = "../support/log.rs"]
#[allow(dead_code)]
mod log;
#[path = "../support/mod.rs"]
mod support;

use std::{path::Path, time::Duration};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use nix::sys::signal::Signal;
use tower_roster::{
    Instance, Registry,
    registry::{
        self, Registration, ViewState, Watch,
        consul::{Consul, ConsulConfig},
    },
};
use tracing_subscriber::{EnvFilter, fmt::MakeWriter};

use self::support::{Agent, Etcd, FaultProxy, Mode, Zookeeper, need, process::Process};

const SOON: Duration = Duration::from_secs(30);

/// What must not be seen, and what stands for it. Not in any other word of the output.
const SECRET: &str = "hUsh-9f81c0de";
const RULES: &str = r#"service_prefix "" { policy = "write" } node_prefix "" { policy = "read" }"#;

/// The forms of a secret.
fn forms(user: &str, secret: &str) -> Vec<String> {
    let login = format!("{user}:{secret}");
    let digest = sha1_base64(&login);
    vec![
        secret.to_lowercase(),
        secret.replace('-', "%2d").to_lowercase(),
        STANDARD.encode(secret).to_lowercase(),
        STANDARD.encode(&login).to_lowercase(),
        // What ZooKeeper stores of a login.
        digest.to_lowercase(),
        // As `Debug` of bytes shows it.
        format!("{:?}", secret.as_bytes())[1..]
            .trim_end_matches(']')
            .to_owned(),
    ]
}

/// SHA-1 (RFC 3174), to know the digest of a login without a library for it.
fn sha1_base64(text: &str) -> String {
    let mut h = [
        0x6745_2301_u32,
        0xEFCD_AB89,
        0x98BA_DCFE,
        0x1032_5476,
        0xC3D2_E1F0,
    ];
    let mut data = text.as_bytes().to_vec();
    data.push(0x80);
    while data.len() % 64 != 56 {
        data.push(0);
    }
    data.extend((text.len() as u64 * 8).to_be_bytes());
    for block in data.chunks(64) {
        let words = block
            .chunks(4)
            .map(|b| u32::from_be_bytes([b[0], b[1], b[2], b[3]]));
        let mut w: Vec<u32> = words.collect();
        for i in 16..80 {
            w.push((w[i - 3] ^ w[i - 8] ^ w[i - 14] ^ w[i - 16]).rotate_left(1));
        }
        let [mut a, mut b, mut c, mut d, mut e] = h;
        for (i, word) in w.iter().enumerate() {
            let (f, k) = match i / 20 {
                0 => ((b & c) | (!b & d), 0x5A82_7999_u32),
                1 => (b ^ c ^ d, 0x6ED9_EBA1),
                2 => ((b & c) | (b & d) | (c & d), 0x8F1B_BCDC),
                _ => (b ^ c ^ d, 0xCA62_C1D6),
            };
            let next = a.rotate_left(5).wrapping_add(f).wrapping_add(e);
            let next = next.wrapping_add(k).wrapping_add(*word);
            (e, d, c, b, a) = (d, c, b.rotate_left(30), a, next);
        }
        for (sum, part) in h.iter_mut().zip([a, b, c, d, e]) {
            *sum = sum.wrapping_add(part);
        }
    }
    let bytes: Vec<u8> = h.iter().flat_map(|word| word.to_be_bytes()).collect();
    STANDARD.encode(bytes)
}

/// Everything said so far.
#[derive(Clone, Default)]
struct Said(log::Log);

impl<'a> MakeWriter<'a> for Said {
    type Writer = log::Log;

    fn make_writer(&'a self) -> log::Log {
        self.0.clone()
    }
}

impl Said {
    /// Checks what was said, and what is shown of these.
    #[track_caller]
    fn check(&self, place: &str, user: &str, shown: &[String]) {
        let log = self.0.take();
        assert!(log.contains("TRACE"), "{place}: the log is at trace level");
        for text in shown.iter().chain([&log]) {
            let plain = text.to_lowercase();
            for form in forms(user, SECRET) {
                if let Some(at) = plain.find(&form) {
                    let line = plain[..at].rfind('\n').map_or(0, |line| line + 1);
                    let end = plain[at..].find('\n').map_or(plain.len(), |end| at + end);
                    panic!("{place}: {form} in: {:.2000}", &plain[line..end]);
                }
            }
        }
    }
}

fn shown(registry: &Registry, watch: &Watch, registration: &Registration) -> Vec<String> {
    let view = watch.view();
    let errors = view
        .error
        .iter()
        .map(|e| format!("{e} {e:?} {}", e.to_chain()));
    let mut shown: Vec<_> = errors.collect();
    shown.push(format!(
        "{registry:?} {registry:#?} {watch:?} {registration:?} {view:?}"
    ));
    shown
}

/// A life with a secret: it works, loses the server, and works again; and one with a wrong secret.
async fn live(registry: Registry, proxy: &mut FaultProxy) -> Vec<String> {
    let instance = Instance::new("web", "a", "127.0.0.1:80".parse().unwrap());
    let registration = registry.register(instance).unwrap();
    let mut watch = registry.watch("web").unwrap();
    let listed = watch.wait_for(|view| !view.instances.is_empty());
    tokio::time::timeout(SOON, listed).await.unwrap().unwrap();
    let mut all = shown(&registry, &watch, &registration);
    proxy.set(Mode::Cut).await;
    proxy.disconnect().await;
    let failed = watch.wait_for(|view| view.state == ViewState::Stale);
    tokio::time::timeout(SOON, failed).await.unwrap().unwrap();
    all.extend(shown(&registry, &watch, &registration));
    proxy.set(Mode::Pass).await;
    let back = watch.wait_for(|view| view.state == ViewState::Live);
    tokio::time::timeout(SOON, back).await.unwrap().unwrap();
    let left = registration.deregister().await;
    all.push(format!("{left:?}"));
    all
}

/// One that is refused, which is told.
async fn fail(registry: Registry) -> Vec<String> {
    let mut watch = registry.watch("closed").unwrap();
    let instance = Instance::new("closed", "a", "127.0.0.1:80".parse().unwrap());
    let registration = registry.register(instance).unwrap();
    let failed = watch.wait_for(|view| view.error.is_some());
    tokio::time::timeout(SOON, failed).await.unwrap().unwrap();
    shown(&registry, &watch, &registration)
}

/// What a program writes while it works with this URL.
async fn run(program: &str, args: &[&str]) -> String {
    let mut path = std::env::current_exe().unwrap();
    path.pop();
    path.pop();
    let path = path.join("examples").join(program);
    let dir = tempfile::tempdir().unwrap();
    let log = dir.path().join("log");
    let path = path.to_str().unwrap();
    let args = [&["RUST_LOG=trace", path], args].concat();
    let mut process = Process::spawn(Path::new("/usr/bin/env"), &args, dir.path(), &log).unwrap();
    tokio::time::sleep(Duration::from_secs(2)).await;
    if process.exited().is_none() {
        process.signal(Signal::SIGINT);
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    let said = std::fs::read_to_string(&log).unwrap();
    // Not every backend has events of the lowest level.
    assert!(
        said.contains("TRACE") || said.contains("INFO"),
        "{program}: {said:.2000}"
    );
    said
}

#[tokio::test]
async fn nothing_that_is_said_at_trace_level_holds_a_secret() {
    need!(consul);
    need!(etcd);
    need!(zookeeper);
    let said = Said::default();
    let subscriber = tracing_subscriber::fmt()
        .with_ansi(false)
        .with_env_filter(EnvFilter::new("trace"))
        .with_writer(said.clone())
        .finish();
    tracing::subscriber::set_global_default(subscriber).unwrap();

    // It finds what it looks for.
    tracing::trace!(password = SECRET);
    let found = std::panic::catch_unwind(|| said.check("the test", "", &[]));
    assert!(found.is_err(), "a secret that is said is found");

    // Consul, whose token is in no URL.
    let agent = Agent::dev().acl_default_deny("root").await;
    agent.acl_token("all", RULES).await;
    let accessor = "a2c8c0de-0000-4000-8000-000000000001";
    let secret = "b2c8c0de-0000-4000-8000-000000000002";
    agent.acl_restore(accessor, secret, "all").await;
    let mut proxy = FaultProxy::tcp(agent.http_addr()).await;
    let consul = |token: &str| {
        let config = ConsulConfig::new(format!("http://{}", proxy.addr())).token(token);
        Registry::new(Consul::new(config).unwrap())
    };
    let (right, wrong) = (consul(secret), consul(SECRET));
    let texts = live(right, &mut proxy).await;
    let log = said.0.take();
    for text in texts.iter().chain([&log]) {
        assert!(!text.contains(secret), "consul: {:.4000}", text);
    }
    let texts = fail(wrong).await;
    said.check("consul, wrong token", "", &texts);

    let mut etcd = Etcd::server().await;
    etcd.enable_auth(SECRET).await;
    let mut proxy = FaultProxy::tcp(etcd.addr()).await;
    let url = format!("etcd://root:{SECRET}@{}", proxy.addr());
    let texts = live(registry::connect(&url).unwrap(), &mut proxy).await;
    said.check("etcd", "root", &texts);
    let wrong = format!("etcd://reader:{SECRET}@{}", proxy.addr());
    let texts = fail(registry::connect(&wrong).unwrap()).await;
    said.check("etcd, wrong password", "reader", &texts);
    let mut outputs = vec![("root", run("watch", &[&url, "web"]).await)];
    outputs.push(("root", run("register", &[&url, "web", "127.0.0.1:9"]).await));
    outputs.push(("reader", run("watch", &[&wrong, "web"]).await));

    let server = Zookeeper::server().await;
    let mut proxy = FaultProxy::tcp(server.addr()).await;
    let url = format!("zk://owner:{SECRET}@{}?acl=creator", proxy.addr());
    let texts = live(registry::connect(&url).unwrap(), &mut proxy).await;
    said.check("zookeeper", "owner", &texts);
    outputs.push(("owner", run("watch", &[&url, "web"]).await));
    outputs.push((
        "owner",
        run("register", &[&url, "web", "127.0.0.1:9"]).await,
    ));

    for (user, text) in &outputs {
        let plain = text.to_lowercase();
        for form in forms(user, SECRET) {
            assert!(!plain.contains(&form), "a program of {user}: {form}");
        }
    }
}

#[test]
fn the_digest_is_what_zookeeper_makes_of_a_login() {
    // The example of ZooKeeper's own documentation.
    assert_eq!(sha1_base64("super:test"), "D/InIHSb7yEEbrWz8b9l71RjZJU=");
}
