//! Addresses as text, and the formats that consist of one.

use std::{net::Ipv6Addr, sync::Arc};

use super::{error::RecordError, metadata::with_metadata};
use crate::{
    instance::{Address, Host, Instance, Status, Weight},
    registry::text::excerpt,
};

/// The most parameters that are taken from a URL of Dubbo, which has about twenty.
const MOST_PARAMETERS: usize = 256;

/// Which schemes may stand before an address.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Schemes {
    None,
    Any,
}

/// Reads `host:port`, `host:port:weight`, or a URL with a host and a port.
pub(super) fn decode_plain(
    service: &Arc<str>,
    text: &str,
    schemes: Schemes,
) -> Result<Instance, RecordError> {
    if text.contains(',') {
        return Err(RecordError::new("it lists several addresses"));
    }
    let (address, weight) = match text.contains("://") {
        false => split_weight(text)?,
        true if schemes == Schemes::Any => (of_url(text)?, None),
        true => return Err(RecordError::new("its name is a URL, and it has no value")),
    };
    let mut instance = by_address(service, address);
    instance.weight = weight.unwrap_or(Weight::ONE);
    Ok(instance)
}

/// Reads the URL that Dubbo stores as a name.
pub(super) fn decode_dubbo(service: &Arc<str>, url: &str) -> Result<Instance, RecordError> {
    let instance = by_address(service, of_url(url)?);
    let query = url.split_once('?').map_or("", |(_, query)| query);
    let pairs = form_urlencoded::parse(query.as_bytes()).take(MOST_PARAMETERS);
    let metadata = pairs.map(|(name, value)| (name.into_owned(), value.into_owned()));
    let mut instance = with_metadata(instance, metadata.collect());
    let disabled = instance.metadata.get("disabled").map(String::as_str);
    if disabled == Some("true") {
        instance.status = Status::Maintenance;
    }
    Ok(instance)
}

/// Creates an instance that is identified by its address.
pub(super) fn by_address(service: &Arc<str>, address: Address) -> Instance {
    Instance::new(Arc::clone(service), address.to_string(), address)
}

/// Reads `host:port`. Go's libraries write IPv6 addresses without brackets: the last colon is then
/// before the port.
pub(super) fn parse(text: &str) -> Result<Address, RecordError> {
    let text = text.trim();
    let unbracketed = text.rsplit_once(':').and_then(|(host, port)| {
        let host = host.parse::<Ipv6Addr>().ok()?;
        Some((Host::Ip(host.into()), port.parse::<i64>().ok()?))
    });
    match unbracketed {
        Some((host, port)) => Address::new(host, port),
        None => text.parse(),
    }
    .map_err(RecordError::new)
}

/// Splits `host:port:weight`. An IPv6 address without brackets has more colons than the two of it.
fn split_weight(text: &str) -> Result<(Address, Option<Weight>), RecordError> {
    let host_ends = text.find(']').map_or(0, |at| at + 1);
    let parts = text[host_ends..].matches(':').count();
    let Some((address, weight)) = text.rsplit_once(':').filter(|_| parts == 2) else {
        return Ok((parse(text)?, None));
    };
    let number = weight.trim().parse().map_err(|_| {
        let weight = excerpt(weight, 64);
        RecordError::new(format!("the weight {weight:?} is not a number"))
    })?;
    Ok((parse(address)?, Some(Weight::clamped(number))))
}

/// Returns the scheme of a URL.
pub(super) fn scheme(url: &str) -> &str {
    url.split_once("://").map_or("", |(scheme, _)| scheme)
}

/// Reads the host and the port of a URL.
pub(super) fn of_url(url: &str) -> Result<Address, RecordError> {
    let (scheme, rest) = url.split_once("://").unwrap_or(("", url));
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    let address = parse(authority);
    let port = match scheme {
        "http" => 80,
        "https" => 443,
        _ => return address,
    };
    let has_port = authority
        .rsplit_once(':')
        .is_some_and(|(_, port)| !port.contains(']'));
    match address {
        Err(_) if !has_port => {
            let host = authority.parse::<Host>().map_err(RecordError::new)?;
            Address::new(host, port).map_err(RecordError::new)
        }
        address => address,
    }
}
