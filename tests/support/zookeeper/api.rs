//! What tests ask of ZooKeeper itself, with a client that shares no code with the backend under test.

use std::time::Duration;

use zookeeper_client::{Acls, CreateMode, Error, Stat};

const WITHIN: Duration = Duration::from_secs(20);

/// A session of another process.
#[derive(Debug)]
pub struct Client(zookeeper_client::Client);

impl Client {
    pub async fn connect(servers: &str) -> Self {
        let connecting = async {
            loop {
                match zookeeper_client::Client::connector()
                    .with_session_timeout(Duration::from_secs(10))
                    .connect(servers)
                    .await
                {
                    Ok(client) => return Self(client),
                    Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
                }
            }
        };
        tokio::time::timeout(WITHIN, connecting).await.unwrap()
    }

    pub fn raw(&self) -> &zookeeper_client::Client {
        &self.0
    }

    pub async fn log_in(&self, user: &str, password: &str) {
        let login = format!("{user}:{password}");
        self.0.auth("digest", login.as_bytes()).await.unwrap();
    }

    /// Makes the nodes above a path.
    pub async fn parents(&self, path: &str) {
        let open = CreateMode::Persistent.with_acls(Acls::anyone_all());
        for (end, _) in path.match_indices('/').skip(1) {
            match self.0.create(&path[..end], b"", &open).await {
                Ok(_) | Err(Error::NodeExists) => {}
                Err(error) => panic!("{}: {error}", &path[..end]),
            }
        }
    }

    pub async fn create(
        &self,
        path: &str,
        data: impl AsRef<[u8]>,
        mode: CreateMode,
        acls: Acls<'_>,
    ) {
        self.parents(path).await;
        let options = mode.with_acls(acls);
        self.0.create(path, data.as_ref(), &options).await.unwrap();
    }

    /// Writes a node that stays, with the nodes above it.
    pub async fn put(&self, path: &str, data: impl AsRef<[u8]>) {
        self.parents(path).await;
        let open = CreateMode::Persistent.with_acls(Acls::anyone_all());
        match self.0.create(path, data.as_ref(), &open).await {
            Ok(_) => {}
            Err(Error::NodeExists) => {
                self.0.set_data(path, data.as_ref(), None).await.unwrap();
            }
            Err(error) => panic!("{path}: {error}"),
        }
    }

    /// Writes a node that ends with this client.
    pub async fn put_ephemeral(&self, path: &str, data: impl AsRef<[u8]>) {
        self.create(path, data, CreateMode::Ephemeral, Acls::anyone_all())
            .await;
    }

    /// Writes many nodes, in transactions of 500.
    pub async fn put_all(&self, parent: &str, nodes: impl IntoIterator<Item = (String, Vec<u8>)>) {
        self.parents(&format!("{parent}/x")).await;
        let open = CreateMode::Persistent.with_acls(Acls::anyone_all());
        let nodes: Vec<_> = nodes.into_iter().collect();
        for some in nodes.chunks(500) {
            let mut writer = self.0.new_multi_writer();
            for (name, data) in some {
                writer
                    .add_create(&format!("{parent}/{name}"), data, &open)
                    .unwrap();
            }
            writer.commit().await.unwrap();
        }
    }

    pub async fn delete(&self, path: &str) {
        self.0.delete(path, None).await.unwrap();
    }

    /// Deletes a node and creates it again, in one transaction.
    pub async fn recreate(&self, path: &str, data: impl AsRef<[u8]>) {
        let open = CreateMode::Persistent.with_acls(Acls::anyone_all());
        let mut writer = self.0.new_multi_writer();
        writer.add_delete(path, None).unwrap();
        writer.add_create(path, data.as_ref(), &open).unwrap();
        writer.commit().await.unwrap();
    }

    pub async fn stat(&self, path: &str) -> Option<Stat> {
        self.0.check_stat(path).await.unwrap()
    }

    pub async fn data(&self, path: &str) -> Option<Vec<u8>> {
        match self.0.get_data(path).await {
            Ok((data, _)) => Some(data),
            Err(Error::NoNode) => None,
            Err(error) => panic!("{path}: {error}"),
        }
    }

    pub async fn children(&self, path: &str) -> Vec<String> {
        match self.0.list_children(path).await {
            Ok(mut names) => {
                names.sort();
                names
            }
            Err(Error::NoNode) => Vec::new(),
            Err(error) => panic!("{path}: {error}"),
        }
    }
}
