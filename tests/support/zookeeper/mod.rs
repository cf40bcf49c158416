//! Real ZooKeeper servers: found, started, spoken to, broken and stopped.

pub mod api;
mod server;

pub use api::Client;
pub use server::{Zookeeper, ZookeeperEnsemble};

use std::{
    env,
    path::{Path, PathBuf},
};

/// A version of ZooKeeper that is there.
#[derive(Clone, Debug)]
pub struct Version {
    pub java: PathBuf,
    pub classpath: String,
}

/// `java`, and the folder into which ZooKeeper's packages are unpacked: `$ZOOKEEPER_ROOT`, else where
/// `tests/run.sh` unpacks them, else the system's root, if they are installed.
pub fn binary() -> Option<Version> {
    version(&root("ZOOKEEPER_ROOT", "libzookeeper-java")?)
}

/// ZooKeeper 3.9, for the tests that name a difference; its jars only.
pub fn binary_39() -> Option<Version> {
    let root = root("ZOOKEEPER_39_ROOT", "libzookeeper-java-3.9")?;
    (root != Path::new("/")).then(|| version(&root)).flatten()
}

/// What the real Curator needs, beside ZooKeeper.
pub fn curator() -> Option<Version> {
    let jars = jars(&root("CURATOR_ROOT", "libcurator-discovery-java")?);
    let names = [
        "curator-client",
        "curator-framework",
        "curator-x-discovery",
        "guava",
        "jackson-core",
        "jackson-databind",
        "jackson-annotations",
    ];
    let jars = names.map(|name| jars.join(format!("{name}.jar")));
    if !jars.iter().all(|jar| jar.exists()) {
        return None;
    }
    let Version { java, classpath } = binary()?;
    let jars = jars.map(|jar| jar.display().to_string()).join(":");
    Some(Version {
        java,
        classpath: format!("{classpath}:{jars}"),
    })
}

fn root(variable: &str, unpacked: &str) -> Option<PathBuf> {
    if let Some(root) = env::var_os(variable).filter(|root| !root.is_empty()) {
        let root = PathBuf::from(root);
        // A wrong setting must not look like a machine without a server.
        assert!(
            jars(&root).is_dir(),
            "{variable} has no usr/share/java: {}",
            root.display()
        );
        return Some(root);
    }
    let servers = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("target/servers");
    [servers.join(unpacked), PathBuf::from("/")]
        .into_iter()
        .find(|root| jars(root).is_dir())
}

fn jars(root: &Path) -> PathBuf {
    root.join("usr/share/java")
}

fn version(root: &Path) -> Option<Version> {
    let usual = super::binary(
        "JAVA_BIN",
        "java",
        "openjdk-17-jre-headless/usr/lib/jvm/java-17-openjdk-amd64/bin",
    )?;
    let base = jars(&self::root("ZOOKEEPER_ROOT", "libzookeeper-java")?);
    let own = ["zookeeper", "zookeeper-jute"].map(|name| jars(root).join(format!("{name}.jar")));
    let others = ["slf4j-api", "slf4j-simple", "metrics-core", "snappy-java"];
    let all: Vec<_> = own
        .into_iter()
        .chain(others.map(|name| base.join(format!("{name}.jar"))))
        .collect();
    if !all.iter().all(|jar| jar.exists()) {
        return None;
    }
    let classpath: Vec<_> = all.iter().map(|jar| jar.display().to_string()).collect();
    Some(Version {
        java: usual,
        classpath: classpath.join(":"),
    })
}
