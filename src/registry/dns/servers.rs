//! The servers to ask, and the list of them in a file.

use std::{io, net::SocketAddr, path::PathBuf, sync::Arc};

use hickory_resolver::{
    Resolver, TokioResolver,
    config::{ConnectionConfig, NameServerConfig, ResolveHosts, ResolverConfig},
    net::runtime::TokioRuntimeProvider,
    proto::rr::Name,
    system_conf::parse_resolv_conf,
};
use tokio::task::JoinHandle;

use super::settings::DnsSettings;
use crate::error::{ErrorKind, RegistryError};

/// The longest list of servers that is read, in bytes.
const LONGEST_FILE: u64 = 64 << 10;

/// One server. Each has a resolver of its own, because a resolver asks several servers at the same time and
/// takes the first answer, also if that server is behind (DN6).
#[derive(Clone)]
pub(super) struct Server {
    pub(super) address: SocketAddr,
    pub(super) resolver: TokioResolver,
    /// The domains to try a relative name with, and the number of dots from which it is tried as it is
    /// first. The resolver does not get them: it would go on after a failure.
    search: Arc<[Name]>,
    ndots: usize,
}

impl Server {
    /// Returns the absolute names that `name` can mean, in the order of resolv.conf(5).
    pub(super) fn names(&self, name: &Name) -> Vec<Name> {
        let mut plain = name.clone();
        plain.set_fqdn(true);
        if name.is_fqdn() {
            return vec![plain];
        }
        let domains = self.search.iter();
        let longer = domains.filter_map(|domain| name.clone().append_domain(domain).ok());
        let mut names: Vec<Name> = longer.collect();
        let first = usize::from(name.num_labels()) > self.ndots;
        names.insert(if first { 0 } else { names.len() }, plain);
        names
    }
}

/// The servers of a source. They change when the file does (DN9).
pub(super) struct Servers {
    settings: Arc<DnsSettings>,
    /// The content of the file that `list` was made of.
    content: Option<Vec<u8>>,
    list: Vec<Server>,
    /// The file while it is read. It outlives a poll that is dropped, so that a file that hangs costs one
    /// thread and not one for each poll.
    reading: Option<JoinHandle<io::Result<Vec<u8>>>>,
}

impl Servers {
    pub(super) fn new(settings: Arc<DnsSettings>) -> Self {
        Self {
            settings,
            content: None,
            list: Vec::new(),
            reading: None,
        }
    }

    /// Returns the servers, in order.
    pub(super) async fn current(&mut self) -> Result<&[Server], RegistryError> {
        if self.settings.servers.is_empty() || self.settings.search {
            // A file may be slow, on a network or as a pipe.
            let start = || {
                let path = self.settings.resolv_conf.clone();
                tokio::task::spawn_blocking(move || read(path))
            };
            let content = self.reading.get_or_insert_with(start).await;
            self.reading = None;
            let content = content.map_err(|error| internal(error.to_string()))?;
            let content = content.map_err(|error| self.unreadable(&error.to_string()))?;
            if self.content.as_ref() != Some(&content) {
                self.list = self.listed(&content)?;
                self.content = Some(content);
            }
        } else if self.list.is_empty() {
            let config = ResolverConfig::default();
            self.list = self.servers(&self.settings.servers, &config, 1)?;
        }
        Ok(&self.list)
    }

    fn listed(&self, content: &[u8]) -> Result<Vec<Server>, RegistryError> {
        let given = !self.settings.servers.is_empty();
        let parsed = match given {
            // Only the search list counts, and a file without a server is an error of the parser.
            true => parse_resolv_conf([content, b"\nnameserver 127.0.0.1\n"].concat()),
            false => parse_resolv_conf(content),
        };
        let (config, options) = parsed.map_err(|error| self.unreadable(&error.to_string()))?;
        if given {
            return self.servers(&self.settings.servers, &config, options.ndots);
        }
        let listed = config.name_servers().iter();
        let listed: Vec<_> = listed.map(|s| SocketAddr::new(s.ip, 53)).collect();
        self.servers(&listed, &config, options.ndots)
    }

    /// Makes a resolver for each server. Only the search list of `config` is used.
    fn servers(
        &self,
        addresses: &[SocketAddr],
        config: &ResolverConfig,
        ndots: usize,
    ) -> Result<Vec<Server>, RegistryError> {
        let search = match self.settings.search {
            true => config.search().into(),
            false => Arc::default(),
        };
        let mut servers: Vec<Server> = Vec::new();
        for &address in addresses {
            if servers.iter().any(|server| server.address == address) {
                continue;
            }
            let mut connections = vec![ConnectionConfig::udp(), ConnectionConfig::tcp()];
            if self.settings.tcp {
                connections.remove(0);
            }
            for connection in &mut connections {
                connection.port = address.port();
            }
            let server = NameServerConfig::new(address.ip(), true, connections);
            let config = ResolverConfig::from_parts(None, Vec::new(), vec![server]);
            let provider = TokioRuntimeProvider::default();
            let mut builder = Resolver::builder_with_config(config, provider);
            let options = builder.options_mut();
            // Shorter than the limit around it: the resolver drops a dead connection only if its own time
            // ends.
            options.timeout = self.settings.timeout.mul_f64(0.9);
            // The next server is asked instead, and the watch has a backoff.
            options.attempts = 0;
            // A cache would return what this poll wants to learn.
            options.cache_size = 0;
            options.use_hosts_file = ResolveHosts::Never;
            options.edns0 = true;
            let resolver = builder.build();
            let resolver = resolver.map_err(|error| internal(error.to_string()))?;
            servers.push(Server {
                address,
                resolver,
                search: Arc::clone(&search),
                ndots,
            });
        }
        Ok(servers)
    }

    fn unreadable(&self, why: &str) -> RegistryError {
        let path = self.settings.resolv_conf.display();
        RegistryError::new(ErrorKind::Unreachable, format!("{path}: {why}"))
    }
}

fn read(path: PathBuf) -> io::Result<Vec<u8>> {
    use io::Read as _;
    let mut content = Vec::new();
    let file = std::fs::File::open(path)?;
    file.take(LONGEST_FILE + 1).read_to_end(&mut content)?;
    if content.len() as u64 > LONGEST_FILE {
        return Err(io::Error::other(format!(
            "longer than {LONGEST_FILE} bytes"
        )));
    }
    Ok(content)
}

fn internal(why: String) -> RegistryError {
    RegistryError::new(ErrorKind::Internal, why)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addresses(servers: &[Server]) -> Vec<String> {
        servers.iter().map(|s| s.address.to_string()).collect()
    }

    /// DN9.
    #[tokio::test]
    async fn a_change_of_the_file_changes_the_servers() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("resolv.conf");
        let settings = DnsSettings::addresses("web.test", 80).resolv_conf(&path);
        let mut servers = Servers::new(Arc::new(settings));
        let missing = servers.current().await.err().unwrap().to_string();
        assert!(missing.contains("resolv.conf"), "{missing}");
        for (content, expected) in [
            ("nameserver 127.0.0.2\n", vec!["127.0.0.2:53"]),
            (
                "nameserver ::1\nnameserver 127.0.0.3\n",
                vec!["[::1]:53", "127.0.0.3:53"],
            ),
        ] {
            std::fs::write(&path, content).unwrap();
            assert_eq!(addresses(servers.current().await.unwrap()), expected);
        }
        std::fs::write(&path, "search svc.test\n").unwrap();
        assert!(servers.current().await.is_err(), "it names no server");
    }

    #[tokio::test]
    async fn a_relative_name_is_tried_with_each_domain_of_the_search_list() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("resolv.conf");
        let content =
            "nameserver 127.0.0.2\nnameserver 127.0.0.2\nsearch a.test b.test\noptions ndots:2\n";
        std::fs::write(&path, content).unwrap();
        let settings = DnsSettings::addresses("web", 80).resolv_conf(&path);
        let mut servers = Servers::new(Arc::new(settings.clone().search(true)));
        let searched = servers.current().await.unwrap();
        assert_eq!(searched.len(), 1, "a server listed twice is one server");
        let names = |server: &Server, name: &str| -> Vec<String> {
            let names = server.names(&Name::from_ascii(name).unwrap());
            names.iter().map(Name::to_ascii).collect()
        };
        assert_eq!(
            names(&searched[0], "web"),
            ["web.a.test.", "web.b.test.", "web."]
        );
        assert_eq!(
            names(&searched[0], "a.b.web"),
            ["a.b.web.", "a.b.web.a.test.", "a.b.web.b.test."]
        );
        assert_eq!(names(&searched[0], "web."), ["web."]);
        let mut servers = Servers::new(Arc::new(settings));
        assert_eq!(
            names(&servers.current().await.unwrap()[0], "web."),
            ["web."]
        );
    }

    #[tokio::test]
    async fn given_servers_need_no_file_unless_names_are_searched() {
        let given = DnsSettings::addresses("web.test", 80).server("127.0.0.1:54".parse().unwrap());
        let given = given.resolv_conf("/does/not/exist");
        let mut servers = Servers::new(Arc::new(given.clone()));
        assert_eq!(
            addresses(servers.current().await.unwrap()),
            ["127.0.0.1:54"]
        );
        let mut servers = Servers::new(Arc::new(given.search(true)));
        assert!(servers.current().await.is_err());
    }
}
