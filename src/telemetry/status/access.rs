//! Who may read the page, and who may give orders.

use std::net::IpAddr;

use http::{HeaderMap, HeaderName, StatusCode, header, request::Parts, uri::Authority};

use super::{answer::StatusFailure, settings::StatusSettings};

/// Set by browsers.
const FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");

/// Checks that a request is for a host of this page.
pub(super) fn check_host(head: &Parts, settings: &StatusSettings) -> Result<(), StatusFailure> {
    let authority = authority(head)?;
    if is_known(host(&authority), settings) {
        return Ok(());
    }
    Err(StatusFailure::new(
        StatusCode::FORBIDDEN,
        "this host is not one of the page: allow it with StatusSettings::host, or use the IP address",
    ))
}

/// Checks that a request does not come from a page of another site.
pub(super) fn check_site(head: &Parts, settings: &StatusSettings) -> Result<(), StatusFailure> {
    let authority = authority(head)?;
    let is_own = |origin: &str| {
        let rest = origin.strip_prefix("http://");
        let rest = rest.or_else(|| origin.strip_prefix("https://"));
        let rest = rest.and_then(|rest| rest.parse::<Authority>().ok());
        // A proxy may have changed the host of the request, but not the origin.
        let is_set = |origin: &Authority| {
            let host = host(origin);
            settings
                .hosts
                .iter()
                .any(|own| own.eq_ignore_ascii_case(host))
        };
        rest.is_some_and(|origin| origin == authority || is_set(&origin))
    };
    let own_origin = texts(&head.headers, &header::ORIGIN).all(|it| it.is_some_and(is_own));
    let own_site =
        texts(&head.headers, &FETCH_SITE).all(|site| matches!(site, Some("same-origin" | "none")));
    if own_origin && own_site {
        return Ok(());
    }
    let message = "pages of other sites must not use this page";
    Err(StatusFailure::new(StatusCode::FORBIDDEN, message))
}

/// Checks that a request may give an order.
pub(super) fn check_order(head: &Parts, settings: &StatusSettings) -> Result<(), StatusFailure> {
    let Some(token) = &settings.token else {
        let message = "orders are switched off on this page";
        return Err(StatusFailure::new(StatusCode::FORBIDDEN, message));
    };
    check_site(head, settings)?;
    let mut given = texts(&head.headers, &header::AUTHORIZATION);
    let (given, second) = (given.next().flatten(), given.next());
    let bearer = given.and_then(|given| given.split_once(' '));
    let bearer = bearer.filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"));
    let given = bearer.map_or("", |(_, given)| given.trim());
    if second.is_some() || !is_equal(given.as_bytes(), token.as_bytes()) {
        return Err(StatusFailure::unauthorized());
    }
    let mut types = texts(&head.headers, &header::CONTENT_TYPE);
    let kind = types.next().flatten().unwrap_or_default();
    let kind = kind.split(';').next().unwrap_or_default().trim();
    if !kind.eq_ignore_ascii_case("application/json") {
        let message = "an order needs the header content-type: application/json";
        return Err(StatusFailure::new(
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            message,
        ));
    }
    Ok(())
}

/// Compares in a time that depends on the length of `given` only.
fn is_equal(given: &[u8], token: &[u8]) -> bool {
    let mut differs = usize::from(given.len() != token.len());
    for (at, byte) in given.iter().enumerate() {
        // The token is not empty.
        differs |= usize::from(byte ^ token[at % token.len()]);
        // Keeps the compiler from ending the loop early.
        differs = std::hint::black_box(differs);
    }
    differs == 0
}

fn is_known(host: &str, settings: &StatusSettings) -> bool {
    host.parse::<IpAddr>().is_ok()
        || host.eq_ignore_ascii_case("localhost")
        || settings
            .hosts
            .iter()
            .any(|own| own.eq_ignore_ascii_case(host))
}

/// Without the brackets of an IPv6 address.
fn host(authority: &Authority) -> &str {
    let host = authority.host();
    let inner = host
        .strip_prefix('[')
        .and_then(|host| host.strip_suffix(']'));
    inner.unwrap_or(host)
}

/// Returns the host and port that a request is for. HTTP/2 has them in the URI, HTTP/1 in a header.
fn authority(head: &Parts) -> Result<Authority, StatusFailure> {
    let mut named = texts(&head.headers, &header::HOST);
    let (first, second) = (named.next(), named.next());
    let named = match first {
        Some(text) => {
            let parsed = text.and_then(|text| text.parse::<Authority>().ok());
            let parsed = parsed.filter(|host| !host.as_str().contains('@') && second.is_none());
            Some(parsed.ok_or_else(|| StatusFailure::bad("host is not one host and a port"))?)
        }
        None => None,
    };
    match (head.uri.authority(), named) {
        (Some(uri), Some(named)) if *uri != named => {
            Err(StatusFailure::bad("the request has several hosts"))
        }
        (Some(uri), _) => Ok(uri.clone()),
        (None, Some(named)) => Ok(named),
        (None, None) => Err(StatusFailure::bad("the request has no host")),
    }
}

fn texts<'a>(
    headers: &'a HeaderMap,
    name: &HeaderName,
) -> impl Iterator<Item = Option<&'a str>> + use<'a> {
    let values = headers.get_all(name).iter();
    values.map(|value| value.to_str().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_whole_token_is_equal() {
        let token = b"0123456789abcdef";
        assert!(is_equal(token, token));
        for wrong in [
            &b""[..],
            b"0",
            b"0123456789abcde",
            b"0123456789abcdef0",
            b"0123456789abcdeF",
            b"0123456789abcdef0123456789abcdef",
        ] {
            assert!(!is_equal(wrong, token), "{wrong:?}");
        }
    }
}
