//! The real Curator, as a reader and a writer of the other side.

use std::{
    io::{BufRead as _, BufReader, Write as _},
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
};

use super::{
    support::{
        FaultProxy, Mode, Zookeeper, eventually, need_zookeeper, not_run, process::between_spawns,
        zookeeper,
    },
    *,
};

/// A process of Curator. It ends with its handle.
struct Curator {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl Curator {
    fn start(servers: &str) -> Self {
        let version = zookeeper::curator().unwrap();
        let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/zookeeper/Curator.java");
        let mut command = Command::new(version.java);
        command
            .args(["-Xmx128m", "-XX:TieredStopAtLevel=1"])
            .arg("-Dorg.slf4j.simpleLogger.defaultLogLevel=off")
            .args(["-cp", &version.classpath, source, servers])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit());
        let mut child = between_spawns(|| command.spawn()).unwrap();
        let input = child.stdin.take().unwrap();
        let output = BufReader::new(child.stdout.take().unwrap());
        let mut curator = Self {
            child,
            input,
            output,
        };
        assert_eq!(curator.line(), "ready");
        curator
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        self.output.read_line(&mut line).unwrap();
        line.trim_end().to_owned()
    }

    fn ask(&mut self, what: &str) -> String {
        writeln!(self.input, "{what}").unwrap();
        self.line()
    }
}

impl Drop for Curator {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

macro_rules! need_curator {
    ($test:literal) => {
        need_zookeeper!();
        if zookeeper::curator().is_none() {
            return not_run::note($test, "curator");
        }
    };
}

#[tokio::test]
async fn curator_reads_what_is_written_here_and_the_other_way_round() {
    need_curator!("curator_reads_what_is_written_here_and_the_other_way_round");
    let server = Zookeeper::server().await;
    let addr = server.addr().to_string();
    let mut curator = tokio::task::spawn_blocking(move || Curator::start(&addr))
        .await
        .unwrap();
    let registry = connect(&server.url());
    let mut watch = registry.watch("web").unwrap();
    // All that this crate adds, none of which Curator may fail on.
    let rich = instance("web", "a")
        .weight(3)
        .zone("eu-1a")
        .tag("v2")
        .meta("@class", "java.lang.String");
    let registration = registry.register(rich).unwrap();
    registration.registered().await;
    assert_eq!(curator.ask("list web"), "a=http://127.0.0.1:8097=true");
    assert_eq!(curator.ask("register web b 8081"), "done");
    let view = until(&mut watch, "both", |v| ids(v) == ["a", "b"]).await;
    let theirs = view.instances.iter().find(|i| i.id() == "b").unwrap();
    assert_eq!(theirs.address, "10.0.0.7:8081".parse().unwrap());
    assert_eq!(
        curator.ask("list web"),
        "a=http://127.0.0.1:8097=true,b=http://10.0.0.7:8081=true"
    );
    registration.deregister().await.unwrap();
    assert_eq!(curator.ask("list web"), "b=http://10.0.0.7:8081=true");
    assert_eq!(curator.ask("unregister b"), "done");
    until(&mut watch, "the end", |v| v.instances.is_empty()).await;
    // What Curator makes itself are containers; a registration here goes into them all the same.
    assert_eq!(curator.ask("register theirs b 8081"), "done");
    let ours = registry.register(instance("theirs", "a")).unwrap();
    ours.registered().await;
    let both = curator.ask("list theirs");
    assert!(both.contains("a=") && both.contains("b="), "{both}");
}

/// ZD16, ZD25: at each new connection Curator deletes its node and creates it again.
#[tokio::test]
async fn a_provider_of_curator_is_never_missing_while_it_reconnects() {
    need_curator!("a_provider_of_curator_is_never_missing_while_it_reconnects");
    let server = Zookeeper::server().await;
    let mut proxy = FaultProxy::tcp(server.addr()).await;
    let addr = proxy.addr().to_string();
    let mut curator = tokio::task::spawn_blocking(move || Curator::start(&addr))
        .await
        .unwrap();
    assert_eq!(curator.ask("register web a 8080"), "done");
    let registry = connect(&server.url());
    let mut watch = registry.watch("web").unwrap();
    until(&mut watch, "the provider", |v| ids(v) == ["a"]).await;
    let never_empty = never_empty(&watch);
    for _ in 0..2 {
        let first = watch.view().instances.iter().next().unwrap().generation;
        proxy.set(Mode::Reset).await;
        proxy.set(Mode::Pass).await;
        eventually(LONG, "its new node", || async {
            watch.view().instances.iter().any(|i| i.generation > first)
        })
        .await;
    }
    assert!(!never_empty.is_finished(), "it was never missing");
    never_empty.abort();
}
