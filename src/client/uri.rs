//! The URI and `Host` of a request to an endpoint. Pure.

#[cfg(any(test, feature = "http2", feature = "tonic"))]
use http::uri::{Parts, PathAndQuery};
use http::{
    HeaderValue, Uri,
    uri::{Authority, Scheme},
};

use crate::instance::{Address, Instance, Key};

/// The address of an endpoint, and the authority for requests that have none.
#[derive(Debug)]
pub(super) struct Place {
    pub(super) key: Key,
    pub(super) address: Address,
    /// The name of the service, or the address if that name is not a valid authority.
    authority: Option<Authority>,
    /// The same as a header.
    host: Option<HeaderValue>,
    tls: bool,
    /// The host that certificates must name, if it is not that of the URI.
    #[cfg_attr(not(any(feature = "http2", feature = "tls")), allow(dead_code))]
    server_name: Option<String>,
}

impl Place {
    /// `server_name` is what certificates must name, whatever a URI says.
    ///
    /// With TLS and without it, an endpoint has no name but that of its service. Its address comes from the
    /// registry: verified against the address, whoever can write there could name any server with a
    /// certificate for its own address.
    pub(super) fn new(instance: &Instance, tls: bool, server_name: Option<String>) -> Self {
        let address = instance.address.to_string();
        let service = authority(&instance.service);
        let authority = match (tls, &server_name) {
            (false, _) => service.or_else(|| authority(&address)),
            (true, Some(name)) => service.or_else(|| authority(name)),
            (true, None) => service.filter(|own| is_server_name(own.host())),
        };
        Self {
            key: instance.key.clone(),
            address: instance.address.clone(),
            host: authority.as_ref().and_then(|own| host(own, tls)),
            authority,
            tls,
            server_name,
        }
    }

    /// Checks whether a request with this URI can be sent here. The error is the reason.
    ///
    /// User information is refused, not dropped: a caller that writes a password expects it to be sent, and RFC
    /// 9113 (section 8.3.1) forbids it in `:authority`. The reason does not show it.
    pub(super) fn check(&self, uri: &Uri) -> Result<(), String> {
        if uri
            .authority()
            .is_some_and(|given| given.as_str().contains('@'))
        {
            return Err("a URI with user information, which HTTP does not send: set the header Authorization".into());
        }
        if self.authority(uri).is_none() {
            return Err(match self.tls {
                true => "the name of the service cannot be the name of a server, which TLS verifies: set a \
                         server name, or write a host in the URI"
                    .into(),
                false => "a URI that names no service, for an endpoint that has no name".into(),
            });
        }
        match uri.scheme() {
            None => Ok(()),
            Some(scheme) if *scheme == Scheme::HTTP => Ok(()),
            Some(scheme) if *scheme == Scheme::HTTPS && self.tls => Ok(()),
            Some(scheme) if *scheme == Scheme::HTTPS => {
                Err("an https URI, and the endpoint was made without TLS".into())
            }
            Some(scheme) => Err(format!("scheme {scheme} is neither http nor https")),
        }
    }

    /// The authority of a request with this URI.
    pub(super) fn authority<'a>(&'a self, uri: &'a Uri) -> Option<&'a Authority> {
        uri.authority().or(self.authority.as_ref())
    }

    /// Whether requests with this host name the service.
    #[cfg(any(feature = "http2", feature = "tls"))]
    pub(super) fn serves(&self, host: &str) -> bool {
        // Without TLS the name makes no difference to a connection, and neither if it is set.
        let own = self.authority.as_ref().map(Authority::host);
        !self.tls
            || self.server_name.is_some()
            || own.is_some_and(|own| own.eq_ignore_ascii_case(host))
    }

    /// The host that the certificate of the server must name.
    #[cfg(feature = "tls")]
    pub(super) fn name(&self) -> Option<&str> {
        let own = self.authority.as_ref().map(Authority::host);
        self.server_name.as_deref().or(own)
    }

    /// The same as a header.
    pub(super) fn host(&self, uri: &Uri) -> Option<HeaderValue> {
        match (uri.authority(), &self.authority) {
            (Some(given), Some(own)) if given.as_str() == own.as_str() => self.host.clone(),
            (Some(given), _) => host(given, self.tls),
            (None, _) => self.host.clone(),
        }
    }

    /// Completes the URI of a request. Its authority stays, because it names the service to the
    /// server. The scheme is set to the one that is used.
    #[cfg(any(test, feature = "http2", feature = "tonic"))]
    pub(super) fn complete(&self, uri: Uri) -> Result<Uri, String> {
        self.check(&uri)?;
        let mut parts: Parts = uri.into_parts();
        parts.scheme = Some(if self.tls {
            Scheme::HTTPS
        } else {
            Scheme::HTTP
        });
        if parts.authority.is_none() {
            parts.authority.clone_from(&self.authority);
        }
        if parts.path_and_query.is_none() {
            parts.path_and_query = Some(PathAndQuery::from_static("/"));
        }
        Uri::from_parts(parts).map_err(|error| format!("cannot complete the URI: {error}"))
    }
}

/// An authority as the header `Host`: without the user information, which the header must not
/// contain (RFC 9110, section 7.2), and without the default port.
fn host(authority: &Authority, tls: bool) -> Option<HeaderValue> {
    let name = authority.host();
    let default = if tls { 443 } else { 80 };
    let port = authority.port_u16().filter(|port| *port != default);
    let host = match port {
        Some(port) => HeaderValue::try_from(format!("{name}:{port}")),
        None => HeaderValue::from_str(name),
    };
    host.ok()
}

/// Whether a certificate can name this host.
#[cfg(feature = "tls")]
fn is_server_name(host: &str) -> bool {
    let host = host.trim_start_matches('[').trim_end_matches(']');
    rustls::pki_types::ServerName::try_from(host).is_ok()
}

#[cfg(not(feature = "tls"))]
fn is_server_name(_: &str) -> bool {
    false
}

/// A name as an authority, if it is a host with an optional port and nothing else.
fn authority(name: &str) -> Option<Authority> {
    let authority: Authority = name.parse().ok()?;
    let port = authority.as_str().strip_prefix(authority.host())?;
    let usable = port.is_empty() || authority.port_u16().is_some();
    (usable && !authority.host().is_empty()).then_some(authority)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn complete(service: &str, tls: bool, uri: &str) -> Result<String, String> {
        let address = "[::1]:8080".parse().expect("an address");
        let place = Place::new(&Instance::new(service, "one", address), tls, None);
        let uri = place.complete(uri.parse().expect("a URI"))?;
        Ok(uri.to_string())
    }

    #[test]
    fn an_authority_stays_and_a_missing_one_is_the_service() {
        for (service, uri, completed) in [
            ("web", "http://user-service/a?b", "http://user-service/a?b"),
            ("web", "http://other:81", "http://other:81/"),
            ("web", "/a?b", "http://web/a?b"),
            ("web:80", "/", "http://web:80/"),
            ("no authority", "/", "http://[::1]:8080/"),
            ("用户", "/", "http://[::1]:8080/"),
            ("a/b?c#d", "/", "http://[::1]:8080/"),
            ("user:secret@web", "/", "http://[::1]:8080/"),
            ("web:port", "/", "http://[::1]:8080/"),
            ("", "/", "http://[::1]:8080/"),
        ] {
            let made = complete(service, false, uri);
            assert_eq!(made.as_deref(), Ok(completed), "{service:?} {uri:?}");
        }
    }

    #[test]
    fn the_header_names_whom_the_uri_names() {
        let place = |service| {
            let address = "[::1]:8080".parse().expect("an address");
            Place::new(&Instance::new(service, "one", address), false, None)
        };
        for (service, uri, host) in [
            ("web", "/", "web"),
            ("web", "http://web/", "web"),
            ("web", "http://other:81/", "other:81"),
            ("web", "http://other:80/", "other"),
            ("web", "http://user:secret@other/", "other"),
            ("web:80", "/", "web"),
            ("web:81", "http://web:81/", "web:81"),
            ("no authority", "/", "[::1]:8080"),
        ] {
            let made = place(service).host(&uri.parse().expect("a URI"));
            assert_eq!(made.expect("a header"), host, "{service:?} {uri:?}");
        }
    }

    #[cfg(feature = "tls")]
    #[test]
    fn with_tls_the_address_never_stands_for_a_name() {
        for service in [
            "user service",
            "用户",
            "",
            "a/b",
            "user:secret@web",
            "web:port",
            "a!b",
            "-",
        ] {
            let error = complete(service, true, "/").unwrap_err();
            assert!(error.contains("server name"), "{service}: {error}");
            let named = complete(service, true, "https://web/");
            assert_eq!(named.as_deref(), Ok("https://web/"), "{service}");
            let address = "[::1]:8080".parse().expect("an address");
            let instance = Instance::new(service, "one", address);
            let place = Place::new(&instance, true, Some("db.internal".into()));
            assert_eq!(place.name(), Some("db.internal"));
            assert!(place.check(&Uri::from_static("/")).is_ok(), "{service}");
        }
    }

    #[test]
    fn the_scheme_says_what_is_done_and_never_pretends_tls() {
        let made = complete("web", true, "http://web/");
        assert_eq!(made.as_deref(), Ok("https://web/"));
        assert!(complete("web", false, "https://web/").is_err());
        assert!(complete("web", false, "ftp://web/").is_err());
    }
}
