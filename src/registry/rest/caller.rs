//! Whether a request comes from a client of the registry, or from the page of another site in a browser.
//!
//! A browser lets any page send requests to any address. It does not let the page choose the headers that
//! are checked here, and asks before it sends `PUT`, `DELETE` or `application/json`, which is never
//! allowed.

use std::net::IpAddr;

use http::{HeaderMap, HeaderName, StatusCode, header, request::Parts, uri::Authority};

use super::answer::RestFailure;
use crate::instance::Host;

/// Set by browsers.
const FETCH_SITE: &str = "sec-fetch-site";

/// Checks for which host a request is, and from which site it comes. The address of `listener` and `hosts`
/// are allowed, and `localhost` on loopback. `None` is a listener that is not known: then any address and
/// `localhost` are, because only a name can be made to lead elsewhere.
pub(super) fn check(
    head: &Parts,
    hosts: &[Host],
    listener: Option<IpAddr>,
) -> Result<(), RestFailure> {
    let authority = authority(head)?;
    let host = authority.host().parse::<Host>();
    let host = host.map_err(|error| RestFailure::bad(format!("host: {error}")))?;
    let is_localhost =
        |host: &Host| matches!(host, Host::Name(name) if name.eq_ignore_ascii_case("localhost"));
    let own = match (&host, listener) {
        (Host::Ip(ip), Some(own)) => ip.to_canonical() == own.to_canonical(),
        (host, Some(own)) => own.to_canonical().is_loopback() && is_localhost(host),
        (Host::Ip(_), None) => true,
        (host, None) => is_localhost(host),
    };
    if !own && !hosts.iter().any(|allowed| is_same(allowed, &host)) {
        let message = format!(
            "host {:?} is not one of this registry; allow it, or use the address of the registry",
            host.to_string()
        );
        return Err(RestFailure::new(StatusCode::FORBIDDEN, message));
    }
    let is_own = |origin: &str| {
        let rest = origin.strip_prefix("http://");
        let rest = rest.or_else(|| origin.strip_prefix("https://"));
        rest.is_some_and(|rest| rest.eq_ignore_ascii_case(authority.as_str()))
    };
    let own_origin = texts(&head.headers, &header::ORIGIN).all(|origin| origin.is_some_and(is_own));
    let site = HeaderName::from_static(FETCH_SITE);
    let own_site =
        texts(&head.headers, &site).all(|site| matches!(site, Some("same-origin" | "none")));
    if own_origin && own_site {
        Ok(())
    } else {
        let message = "pages of other sites must not use this registry";
        Err(RestFailure::new(StatusCode::FORBIDDEN, message))
    }
}

/// Checks that a body is declared as JSON.
pub(super) fn is_json(headers: &HeaderMap) -> Result<(), RestFailure> {
    let mut types = texts(headers, &header::CONTENT_TYPE);
    let (first, second) = (types.next().flatten(), types.next());
    let kind = first.unwrap_or_default().split(';').next();
    let kind = kind.unwrap_or_default().trim();
    if kind.eq_ignore_ascii_case("application/json") && second.is_none() {
        return Ok(());
    }
    Err(RestFailure::new(
        StatusCode::UNSUPPORTED_MEDIA_TYPE,
        "a body needs the header content-type: application/json",
    ))
}

fn texts<'a>(
    headers: &'a HeaderMap,
    name: &HeaderName,
) -> impl Iterator<Item = Option<&'a str>> + use<'a> {
    headers
        .get_all(name)
        .iter()
        .map(|value| value.to_str().ok())
}

/// Returns the host and port that a request is for. HTTP/2 has them in the URI, HTTP/1 in a header.
fn authority(head: &Parts) -> Result<Authority, RestFailure> {
    let mut named = texts(&head.headers, &header::HOST);
    let (first, second) = (named.next(), named.next());
    if second.is_some() {
        return Err(RestFailure::bad("the request has several hosts"));
    }
    let named = match first {
        Some(text) => {
            let parsed = text.and_then(|text| text.parse::<Authority>().ok());
            let parsed = parsed.filter(|host| !host.as_str().contains('@'));
            Some(parsed.ok_or_else(|| RestFailure::bad("host is not a host and a port"))?)
        }
        None => None,
    };
    match (head.uri.authority(), named) {
        (Some(uri), Some(named)) if *uri != named => {
            Err(RestFailure::bad("the request has several hosts"))
        }
        (Some(uri), _) => Ok(uri.clone()),
        (None, Some(named)) => Ok(named),
        (None, None) => Err(RestFailure::bad("the request has no host")),
    }
}

fn is_same(one: &Host, other: &Host) -> bool {
    match (one, other) {
        (Host::Ip(one), Host::Ip(other)) => one.to_canonical() == other.to_canonical(),
        (Host::Name(one), Host::Name(other)) => one.eq_ignore_ascii_case(other),
        _ => false,
    }
}
