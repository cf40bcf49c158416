//! Asks servers one after another, and tells *no such name*, *no such records* and failures apart.

use std::time::Duration;

use hickory_resolver::{
    lookup::Lookup,
    net::{DnsError, NetError},
    proto::{
        op::ResponseCode,
        rr::{Name, RecordType},
    },
};
use tokio::time::{Instant, sleep_until, timeout};

use super::servers::Server;
use crate::{
    backoff::after,
    error::{ErrorKind, RegistryError},
};

/// The time between two looks at one server, before *no such name* is believed.
const SECOND_LOOK: Duration = Duration::from_secs(1);

/// The answer of a server.
#[derive(Debug)]
pub(super) enum Found {
    /// There are records of the type that was asked for.
    Records(Lookup),
    /// There are none. `name` tells whether the name exists; `ttl` how long that holds.
    Nothing { name: bool, ttl: Duration },
}

impl Found {
    /// Of two answers without records, the one that claims less: a name that exists for one server exists.
    fn weaker(self, other: Self) -> Self {
        match (&self, &other) {
            (Self::Nothing { name: false, .. }, Self::Nothing { name: true, .. }) => other,
            _ => self,
        }
    }
}

/// Parses a DNS name. It is absolute unless it is looked for in the search list.
pub(super) fn absolute(text: &str, search: bool) -> Result<Name, String> {
    let allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
    if let Some(other) = text.chars().find(|c| !c.is_ascii() || !allowed(*c as u8)) {
        return Err(format!("{other:?} is no letter, digit, '-', '_' or '.'"));
    }
    let mut name = Name::from_ascii(text).map_err(|error| error.to_string())?;
    if name.num_labels() == 0 {
        return Err("it is empty".to_owned());
    }
    if !search {
        name.set_fqdn(true);
    }
    Ok(name)
}

/// Looks for records of the first of `types` that the name has. Also returns which server answered.
///
/// A name that is not absolute is looked for in the search list. A failure ends the search: it does not say
/// that there is no such name, and another name could be another service.
pub(super) async fn find(
    servers: &[Server],
    name: &Name,
    types: &[RecordType],
    limit: Duration,
) -> Result<(Found, usize), RegistryError> {
    let names = match servers.first() {
        Some(server) => server.names(name),
        None => vec![name.clone()],
    };
    let mut nothing: Option<(Found, usize)> = None;
    for name in &names {
        for &kind in types {
            let (found, at) = find_one(servers, name, kind, limit).await?;
            if matches!(found, Found::Records(_)) {
                return Ok((found, at));
            }
            let gone = matches!(found, Found::Nothing { name: false, .. });
            let found = match nothing {
                Some((before, _)) => before.weaker(found),
                None => found,
            };
            nothing = Some((found, at));
            if gone {
                // The name has no records of any type.
                break;
            }
        }
    }
    nothing.ok_or_else(|| RegistryError::new(ErrorKind::Internal, "nothing was asked for"))
}

/// Looks for records of one type.
///
/// The answer of the first server that gives one counts (DN6). If there are no records, it takes a second
/// look: at another server, or a second later (DN1).
async fn find_one(
    servers: &[Server],
    name: &Name,
    kind: RecordType,
    limit: Duration,
) -> Result<(Found, usize), RegistryError> {
    let (first, at) = look(servers, 0, name, kind, limit).await?;
    if matches!(first, Found::Records(_)) {
        return Ok((first, at));
    }
    let again = after(Instant::now(), SECOND_LOOK);
    if servers.len() == 1 {
        sleep_until(again).await;
    }
    let (mut second, mut by) = look(servers, at + 1, name, kind, limit).await?;
    if by == at && Instant::now() < again && !matches!(second, Found::Records(_)) {
        // The other servers gave no answer.
        sleep_until(again).await;
        (second, by) = look(servers, at, name, kind, limit).await?;
    }
    Ok(match second {
        Found::Records(_) => (second, by),
        nothing => (first.weaker(nothing), at),
    })
}

/// Asks the servers, beginning with `from` and around, until one gives an answer. Returns which did.
async fn look(
    servers: &[Server],
    from: usize,
    name: &Name,
    kind: RecordType,
    limit: Duration,
) -> Result<(Found, usize), RegistryError> {
    let mut failure = RegistryError::new(ErrorKind::Unreachable, "no server is known");
    for step in 0..servers.len() {
        let at = (from + step) % servers.len();
        match ask(&servers[at], name, kind, limit).await {
            Ok(found) => return Ok((found, at)),
            Err(error) => failure = error,
        }
    }
    Err(failure)
}

/// Asks one server.
async fn ask(
    server: &Server,
    name: &Name,
    kind: RecordType,
    limit: Duration,
) -> Result<Found, RegistryError> {
    let lookup = timeout(limit, server.resolver.lookup(name.clone(), kind)).await;
    match lookup.unwrap_or(Err(NetError::Timeout)) {
        Ok(lookup) if lookup.answers().iter().any(|r| r.record_type() == kind) => {
            Ok(Found::Records(lookup))
        }
        Ok(_) => Err(failure(
            server,
            ErrorKind::Malformed,
            "the answer lacks the records",
        )),
        Err(error) => judge(server, name, kind, error),
    }
}

/// Tells an answer without records from a failure.
fn judge(
    server: &Server,
    name: &Name,
    kind: RecordType,
    error: NetError,
) -> Result<Found, RegistryError> {
    let (kind, why) = match error {
        NetError::Dns(DnsError::NoRecordsFound(none)) => match none.response_code {
            // The resolver takes the target of the first record behind an alias for another alias.
            _ if kind == RecordType::SRV && none.query.name() != name => {
                let why = "an alias of SRV records cannot be followed";
                (ErrorKind::Malformed, why.to_owned())
            }
            // A server that does not answer for the name itself (RFC 2308, 2.2).
            ResponseCode::NoError if none.soa.is_none() && none.ns.is_some() => {
                let why = "it only refers to other servers";
                (ErrorKind::Unavailable, why.to_owned())
            }
            ResponseCode::NXDomain | ResponseCode::NoError => {
                let ttl = Duration::from_secs(none.negative_ttl.unwrap_or_default().into());
                return Ok(Found::Nothing {
                    name: none.response_code == ResponseCode::NoError,
                    ttl,
                });
            }
            code => from_code(code),
        },
        NetError::Dns(DnsError::ResponseCode(code)) => from_code(code),
        NetError::Timeout => (ErrorKind::Timeout, "no answer in time".to_owned()),
        NetError::Truncated => {
            let why = "the answer stays truncated over TCP";
            (ErrorKind::Malformed, why.to_owned())
        }
        NetError::Busy => (ErrorKind::Unavailable, "too many questions".to_owned()),
        NetError::Io(error) => (ErrorKind::Unreachable, error.to_string()),
        NetError::NoConnections => (ErrorKind::Unreachable, "no connection".to_owned()),
        other => (ErrorKind::Malformed, other.to_string()),
    };
    Err(failure(server, kind, &why))
}

fn failure(server: &Server, kind: ErrorKind, why: &str) -> RegistryError {
    RegistryError::new(kind, format!("server {}: {why}", server.address))
}

fn from_code(code: ResponseCode) -> (ErrorKind, String) {
    let kind = match code {
        ResponseCode::Refused | ResponseCode::NotAuth | ResponseCode::NotImp => ErrorKind::Refused,
        ResponseCode::FormErr => ErrorKind::Malformed,
        _ => ErrorKind::Unavailable,
    };
    (kind, format!("it answers {code}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_absolute_unless_it_is_searched() {
        assert_eq!(absolute("web.test", false).unwrap().to_ascii(), "web.test.");
        assert_eq!(absolute("web", true).unwrap().to_ascii(), "web");
        let long = "a".repeat(64);
        for text in [
            "",
            ".",
            "user service",
            "用户",
            "a..b",
            "a/b",
            long.as_str(),
        ] {
            assert!(absolute(text, false).is_err(), "{text:?}");
        }
    }

    #[test]
    fn a_name_that_one_server_knows_exists() {
        let nothing = |name| Found::Nothing {
            name,
            ttl: Duration::ZERO,
        };
        for (a, b, exists) in [
            (false, false, false),
            (true, false, true),
            (false, true, true),
        ] {
            let found = nothing(a).weaker(nothing(b));
            assert!(matches!(found, Found::Nothing { name, .. } if name == exists));
        }
    }
}
