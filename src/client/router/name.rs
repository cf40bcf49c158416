//! Which service the URI of a request names. Pure.

use std::net::Ipv4Addr;

use http::{
    Uri,
    uri::{Authority, Scheme},
};

use super::error::RouterError;

/// The longest host name (RFC 1035, section 2.3.4).
const LONGEST: usize = 253;

/// A host without capitals.
pub(super) type Buffer = [u8; LONGEST];

/// What the authority of a URI names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Target<'a> {
    /// A service, in lower case.
    Service(&'a str),
    /// An IP address, which no registry needs to be asked for.
    Address(&'a Authority),
}

/// Reads the target of a request. `buffer` is used if the host has capitals.
///
/// # Errors
/// When the URI names none, or cannot be used.
#[inline]
pub(super) fn target<'a>(uri: &'a Uri, buffer: &'a mut Buffer) -> Result<Target<'a>, RouterError> {
    let authority = uri.authority().ok_or_else(RouterError::no_authority)?;
    match uri.scheme() {
        Some(scheme) if *scheme != Scheme::HTTP && *scheme != Scheme::HTTPS => {
            return Err(RouterError::scheme(scheme.as_str()));
        }
        _ => {}
    }
    if authority.as_str().contains('@') {
        return Err(RouterError::user_information());
    }
    let host = authority.host();
    if host.starts_with('[') || is_ipv4(host) {
        return Ok(Target::Address(authority));
    }
    Ok(Target::Service(lower(host, buffer)?))
}

fn is_ipv4(host: &str) -> bool {
    host.starts_with(|first: char| first.is_ascii_digit()) && host.parse::<Ipv4Addr>().is_ok()
}

/// The name without capitals and without the dot of the root, in which two names of a host may differ (RFC
/// 4343).
///
/// # Errors
/// When the name is empty, or longer than the name of a host.
#[inline]
pub(super) fn lower<'a>(host: &'a str, buffer: &'a mut Buffer) -> Result<&'a str, RouterError> {
    let host = host.strip_suffix('.').unwrap_or(host);
    if host.is_empty() {
        return Err(RouterError::no_name());
    }
    if host.len() > LONGEST {
        return Err(RouterError::too_long(LONGEST));
    }
    if !host.bytes().any(|byte| byte.is_ascii_uppercase()) {
        return Ok(host);
    }
    let lower = &mut buffer[..host.len()];
    lower.copy_from_slice(host.as_bytes());
    lower.make_ascii_lowercase();
    // Only ASCII was changed, so it is the text that it was.
    Ok(std::str::from_utf8(lower).unwrap_or(host))
}

/// The host and the port of a URI, as the text of an address. The port is the usual one of the scheme if there
/// is none.
pub(super) fn address(uri: &Uri) -> String {
    let usual = match uri.scheme() {
        Some(scheme) if *scheme == Scheme::HTTPS => 443,
        _ => 80,
    };
    let host = uri.host().unwrap_or_default();
    let host = host.strip_suffix('.').unwrap_or(host);
    let port = uri.port_u16().unwrap_or(usual);
    format!("{}:{port}", host.to_ascii_lowercase())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(uri: &str) -> Result<String, String> {
        let uri: Uri = uri.parse().expect("a URI");
        match target(&uri, &mut [0; LONGEST]) {
            Ok(Target::Service(name)) => Ok(name.to_owned()),
            Ok(Target::Address(authority)) => Ok(format!("address {authority}")),
            Err(error) => Err(error.to_string()),
        }
    }

    #[test]
    fn the_host_is_the_service_and_neither_port_nor_capitals_matter() {
        for (uri, service) in [
            ("http://user-service/users/42", "user-service"),
            ("https://user-service", "user-service"),
            ("http://user-service:8080/", "user-service"),
            ("http://User-Service./", "user-service"),
            ("http://a.b.c/", "a.b.c"),
            ("http://1.2.3/", "1.2.3"),
            ("user-service", "user-service"),
            ("http://10.0.0.7:8080/", "address 10.0.0.7:8080"),
            ("http://[::1]/", "address [::1]"),
        ] {
            assert_eq!(read(uri).as_deref(), Ok(service), "{uri}");
        }
    }

    #[test]
    fn what_names_no_service_is_refused() {
        let long = format!("http://{}/", "a".repeat(254));
        for (uri, why) in [
            ("/users/42", "names no service"),
            ("http://:8080/", "empty"),
            ("http://./", "empty"),
            ("ftp://web/", "ftp"),
            ("http://user:SECRET@web/", "user information"),
            (&long, "253"),
        ] {
            let error = read(uri).expect_err(uri);
            assert!(error.contains(why), "{uri}: {error}");
            assert!(!error.contains("SECRET"), "{error}");
        }
    }

    #[test]
    fn an_address_has_the_port_of_the_scheme() {
        for (uri, expected) in [
            ("http://Web.Test/", "web.test:80"),
            ("https://web.test/", "web.test:443"),
            ("http://web.test:8080/", "web.test:8080"),
            ("http://[::1]/", "[::1]:80"),
        ] {
            assert_eq!(address(&uri.parse().expect("a URI")), expected);
        }
    }
}
