//! Which URI a request to an endpoint carries. Pure.

use http::{
    Uri,
    uri::{Authority, Parts, PathAndQuery, Scheme},
};

use crate::instance::{Address, Instance, Key};

/// Where an endpoint is, and what a request to it says when it does not say itself.
#[derive(Debug)]
pub(super) struct Place {
    pub(super) key: Key,
    pub(super) address: Address,
    /// The name of the service, or the address where that is no authority.
    authority: Option<Authority>,
    tls: bool,
}

impl Place {
    pub(super) fn new(instance: &Instance, tls: bool) -> Self {
        let address = instance.address.to_string();
        Self {
            key: instance.key.clone(),
            address: instance.address.clone(),
            authority: authority(&instance.service).or_else(|| authority(&address)),
            tls,
        }
    }

    /// Completes the URI of a request: the authority it has stays, because that names the service to
    /// the server; the scheme says what is really done.
    pub(super) fn complete(&self, uri: Uri) -> Result<Uri, String> {
        let mut parts: Parts = uri.into_parts();
        let https = parts.scheme.as_ref() == Some(&Scheme::HTTPS);
        if https && !self.tls {
            return Err("an https URI, and the endpoint was made without TLS".into());
        }
        let scheme = if self.tls {
            Scheme::HTTPS
        } else {
            Scheme::HTTP
        };
        match parts.scheme.replace(scheme) {
            Some(given) if given != Scheme::HTTP && given != Scheme::HTTPS => {
                return Err(format!("scheme {given} is neither http nor https"));
            }
            _ => {}
        }
        if parts.authority.is_none() {
            parts.authority.clone_from(&self.authority);
        }
        if parts.path_and_query.is_none() {
            parts.path_and_query = Some(PathAndQuery::from_static("/"));
        }
        Uri::from_parts(parts).map_err(|error| format!("cannot complete the URI: {error}"))
    }
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
        let place = Place::new(&Instance::new(service, "one", address), tls);
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
    fn the_scheme_says_what_is_done_and_never_pretends_tls() {
        let made = complete("web", true, "http://web/");
        assert_eq!(made.as_deref(), Ok("https://web/"));
        assert!(complete("web", false, "https://web/").is_err());
        assert!(complete("web", false, "ftp://web/").is_err());
    }
}
