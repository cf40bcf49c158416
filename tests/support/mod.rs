//! What the integration tests run against: real Consul agents and clusters, real etcd,
//! ZooKeeper and DNS servers, a proxy that breaks
//! connections and rewrites answers, a scripted server for answers no registry gives, and real
//! HTTP backends.
//!
//! Everything listens on loopback, on a port leased from [`ports`], and ends when its handle is
//! dropped. Servers written here run on a runtime of their own ([`rt`]), so that a test which
//! blocks or pauses its runtime does not block or pause them too.
//!
//! Not every test binary uses all of this, hence the `dead_code` below.
#![allow(
    clippy::unwrap_used,
    dead_code,
    missing_debug_implementations,
    missing_docs,
    unreachable_pub,
    unused_imports,
    unused_macros
)]

pub mod bind;
#[cfg(feature = "status")]
pub mod chromium;
pub mod consul;
pub mod etcd;
pub mod eventually;
pub mod http1;
pub mod http_backend;
pub mod not_run;
pub mod ports;
pub mod process;
pub mod prometheus;
pub mod proxy;
pub mod raw_server;
pub mod udp;
#[cfg(feature = "zookeeper")]
pub mod zookeeper;

pub use consul::{Agent, Cluster};
pub use etcd::{Etcd, EtcdCluster};
pub use eventually::eventually;
pub use http_backend::Backend;
pub use http1::{Reply, RequestHead};
pub use proxy::{FaultProxy, Garbage, Mode, Rule, Then};
pub use raw_server::{RawServer, Script};
#[cfg(feature = "zookeeper")]
pub use zookeeper::{Zookeeper, ZookeeperEnsemble};

use std::{env, path::PathBuf, sync::OnceLock};

use tokio::runtime::{Builder, Runtime};

/// The runtime of the proxies and servers of this module.
pub fn rt() -> &'static Runtime {
    static RT: OnceLock<Runtime> = OnceLock::new();
    RT.get_or_init(|| {
        Builder::new_multi_thread()
            .worker_threads(2)
            .thread_name("harness")
            .enable_all()
            .build()
            .expect("a runtime for the harness")
    })
}

/// The program of a server: what the environment variable names, else the program on PATH, else where
/// `tests/run.sh` unpacks it.
pub fn binary(variable: &str, program: &str, unpacked: &str) -> Option<PathBuf> {
    if let Some(bin) = env::var_os(variable).filter(|bin| !bin.is_empty()) {
        let bin = PathBuf::from(bin);
        // A wrong setting must not look like a machine without a server.
        assert!(bin.is_file(), "{variable} names no file: {}", bin.display());
        return Some(bin);
    }
    let path = env::var_os("PATH").unwrap_or_default();
    let servers = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("target/servers");
    env::split_paths(&path)
        .chain([servers.join(unpacked)])
        .map(|dir| dir.join(program))
        .find(|bin| bin.is_file())
}

/// Returns from the test when there is no such server, noting the test as not run; else is the path of
/// the binary.
///
/// With `ROSTER_REQUIRE_SERVERS=1` a missing server fails the test instead.
macro_rules! need {
    ($server:ident) => {{
        // The thread is no help: with one test thread they all run on `main`.
        fn here() {}
        let test = std::any::type_name_of_val(&here);
        let test = test
            .trim_end_matches("::here")
            .trim_end_matches("::{{closure}}");
        match $crate::support::$server::binary() {
            Some(bin) => bin,
            None => {
                $crate::support::not_run::note(test, stringify!($server));
                return;
            }
        }
    }};
}
pub(crate) use need;

/// [`need!`] for Consul.
macro_rules! need_consul {
    () => {
        $crate::support::need!(consul)
    };
}
pub(crate) use need_consul;

/// [`need!`] for etcd.
macro_rules! need_etcd {
    () => {
        $crate::support::need!(etcd)
    };
}
pub(crate) use need_etcd;

/// [`need!`] for ZooKeeper.
macro_rules! need_zookeeper {
    () => {
        $crate::support::need!(zookeeper)
    };
}
pub(crate) use need_zookeeper;
