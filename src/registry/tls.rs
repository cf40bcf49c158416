//! TLS to a registry, from PEM files.

#[cfg(feature = "tls")]
mod client;

#[cfg(feature = "tls")]
pub(super) use self::client::client_config;

use std::path::PathBuf;

/// The paths of the certificates. They are read when the client is created.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct TlsFiles {
    pub(super) ca_file: Option<PathBuf>,
    pub(super) ca_path: Option<PathBuf>,
    pub(super) cert: Option<PathBuf>,
    pub(super) key: Option<PathBuf>,
    #[cfg(feature = "consul")]
    pub(super) server_name: Option<String>,
    pub(super) unverified: bool,
}
