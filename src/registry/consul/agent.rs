//! The address of an agent, in the forms of the `consul` command.

use crate::{
    connect::Target,
    error::ConfigError,
    instance::Address,
    registry::{http::is_local, redact::shown},
};

/// One address of Consul's HTTP API.
#[derive(Clone, Debug)]
pub(super) struct AgentAddress {
    pub(super) target: Target,
    /// Scheme, authority and path prefix; `/v1/…` is appended.
    pub(super) origin: String,
    /// Whether requests are sent over TLS.
    pub(super) secure: bool,
}

/// The ports of an address without one.
#[derive(Clone, Copy, Debug)]
pub(super) struct DefaultPorts {
    http: u16,
    https: u16,
}

impl DefaultPorts {
    /// Those of the schemes, as the command takes them.
    pub(super) const OF_SCHEME: Self = Self {
        http: 80,
        https: 443,
    };
    /// Those of agents, for the URLs of this crate.
    pub(super) const OF_AGENT: Self = Self {
        http: 8500,
        https: 8501,
    };
}

impl AgentAddress {
    /// Parses one address. `secure` is the default for a text without a scheme.
    pub(super) fn parse(
        text: &str,
        secure: bool,
        ports: DefaultPorts,
    ) -> Result<Self, ConfigError> {
        let invalid =
            |why: String| ConfigError::new("consul.address", format!("{:?}: {why}", shown(text)));
        let (secure, rest) = match text.split_once("://") {
            // Never plain where TLS is asked for, as in the command.
            Some(("http" | "tcp" | "unix", rest)) => (secure, rest),
            Some(("https" | "unix+https", rest)) => (true, rest),
            Some(_) => return Err(invalid("its scheme is unknown".to_owned())),
            None => (secure, text),
        };
        if secure && cfg!(not(feature = "tls")) {
            return Err(invalid(
                "TLS needs the feature `tls` of this crate".to_owned(),
            ));
        }
        let scheme = if secure { "https" } else { "http" };
        if text.starts_with("unix") && text.contains("://") {
            #[cfg(unix)]
            if rest.starts_with('/') {
                return Ok(Self {
                    target: Target::Unix(rest.into()),
                    origin: format!("{scheme}://localhost"),
                    secure,
                });
            }
            return Err(invalid(format!(
                "{:?} is no absolute path of a socket",
                shown(rest)
            )));
        }
        // The address becomes part of the backend's name, which every message contains, so it must not
        // contain secrets.
        if rest.contains('@') {
            let why = "credentials do not belong in an address: use CONSUL_HTTP_AUTH";
            return Err(invalid(why.to_owned()));
        }
        if rest.contains(['?', '#']) {
            return Err(invalid("an address has no parameters".to_owned()));
        }
        let (authority, prefix) = match rest.find('/') {
            Some(at) => (&rest[..at], rest[at..].trim_end_matches('/')),
            None => (rest, ""),
        };
        let has_port = match authority.rfind(':') {
            Some(at) => !authority[at..].contains(']'),
            None => false,
        };
        let address = if has_port {
            authority.parse::<Address>()
        } else {
            let port = if secure { ports.https } else { ports.http };
            format!("{authority}:{port}").parse()
        };
        let address = address.map_err(|error| invalid(error.to_string()))?;
        let origin = format!("{scheme}://{address}{prefix}");
        if origin.parse::<http::Uri>().is_err() {
            return Err(invalid(format!("{prefix:?} is no path of a URL")));
        }
        Ok(Self {
            origin,
            target: Target::Tcp(address),
            secure,
        })
    }

    /// Whether traffic to this address stays on this machine.
    pub(super) fn is_local(&self) -> bool {
        match &self.target {
            Target::Tcp(address) => is_local(address.host()),
            #[cfg(unix)]
            Target::Unix(_) => true,
        }
    }

    /// What parses as this address, whatever the defaults are.
    pub(super) fn url(&self) -> String {
        match &self.target {
            Target::Tcp(_) => self.origin.clone(),
            #[cfg(unix)]
            Target::Unix(path) if self.secure => format!("unix+https://{}", path.display()),
            #[cfg(unix)]
            Target::Unix(path) => format!("unix://{}", path.display()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<AgentAddress, ConfigError> {
        AgentAddress::parse(text, false, DefaultPorts::OF_SCHEME)
    }

    #[test]
    fn an_address_with_a_secret_is_refused_without_telling_it() {
        for address in [
            "http://user:secret@h:8500",
            "user:secret@h",
            "http://h:8500/prefix?token=secret",
            "http://h:8500/#secret",
            "ftp://user:secret@h",
            "unix://user:secret@x",
            "user:secret@h://x",
            "http://user:se/cret@h:1",
        ] {
            let error = parse(address).unwrap_err().to_string();
            assert!(!error.contains("secret"), "{address}: {error}");
            let config = super::super::ConsulConfig::new(address);
            assert!(!format!("{config:?}").contains("secret"), "{config:?}");
        }
    }

    #[test]
    fn a_prefix_that_cannot_stand_in_a_request_is_refused() {
        for address in ["http://h:1/a b", "h:1/a\nb", "h:1/a\0"] {
            let error = parse(address).unwrap_err().to_string();
            assert!(error.contains("no path of a URL"), "{error}");
        }
    }

    #[cfg(all(unix, feature = "tls"))]
    #[test]
    fn tls_that_is_asked_for_is_never_dropped() {
        for text in [
            "h",
            "h:1",
            "http://h:1",
            "tcp://h:1",
            "https://h:1",
            "unix:///s",
            "unix+https:///s",
        ] {
            let address = AgentAddress::parse(text, true, DefaultPorts::OF_AGENT).unwrap();
            assert!(address.secure, "{text}");
            assert!(address.origin.starts_with("https://"), "{text}");
            assert!(address.url().contains("https://"), "{text}");
        }
    }

    #[test]
    fn an_address_is_what_its_url_parses_as() {
        for (text, url) in [
            ("h", "http://h:80"),
            ("[::1]:85", "http://[::1]:85"),
            ("tcp://h:1/consul/", "http://h:1/consul"),
            #[cfg(feature = "tls")]
            ("https://h/consul/", "https://h:443/consul"),
            #[cfg(unix)]
            ("unix:///run/consul.sock", "unix:///run/consul.sock"),
            #[cfg(all(unix, feature = "tls"))]
            ("unix+https:///run/c.sock", "unix+https:///run/c.sock"),
        ] {
            let address = parse(text).unwrap();
            assert_eq!(address.url(), url);
            assert_eq!(parse(url).unwrap().url(), url);
        }
    }
}
