//! The backend for DNS: the addresses of a name, or its SRV records.
//!
//! DNS pushes no changes and takes no registrations, so a watch asks again when the records expire. So it
//! notices changes later than the other registries: after the TTL of the record and of every cache on the
//! way. It suits services that something else keeps in DNS: Kubernetes, Nomad, Consul, a cloud.
//!
//! # Names
//! A [`DnsSettings`] holds one name for all services, or one with `{service}` in it, which the name of the
//! watched service replaces. A name is absolute unless [`search`](DnsSettings::search) is set.
//!
//! | records | instances | identity |
//! |---|---|---|
//! | A, or AAAA if there is none | one for each address, all with the port of the settings and weight 1 | `address:port` |
//! | SRV | one for each target and port, with its weight | `target:port` |
//!
//! The weight 0 of an SRV record counts as 1: RFC 2782 gives such a target little traffic, and this crate
//! would drain it. The priority becomes the metadata `priority`, as
//! [`Priority::by_metadata`](crate::balance::topology::Priority::by_metadata) reads it: the lowest comes
//! first. An instance has one address. If its target has several, it keeps the one that it has, or else gets
//! the lowest, an IPv4 address before an IPv6 address.
//!
//! # What an answer means
//! - *No such name* is [`Missing`](crate::registry::ViewState::Missing), and a name without such records is
//!   [`Empty`](crate::registry::ViewState::Empty). Both are believed only after a second look, at another
//!   server or a second later: a server that is behind, or just started, gives such answers too. An SRV
//!   record with the target `.` says that there is no such service (*empty*).
//! - Every other answer without records is an error, and the last good set stays: a failure of the server
//!   (`SERVFAIL`), a refusal (`REFUSED`), silence, a mere referral to other servers, an answer that stays
//!   truncated over TCP, or records of which none can be used.
//! - A target of an SRV record that cannot be asked for keeps its former address. One that has no address
//!   is left out, unless none has one: that is an error.
//! - An alias (`CNAME`) of a name with addresses is followed, up to eight of them; a longer chain looks like a
//!   name without records. An alias of SRV records is an error.
//! - The order of records means nothing. Many servers rotate it.
//! - Some servers return a part of the records, at random: Consul over UDP, and clouds that return eight of
//!   many. A set from such answers changes at each poll. Ask over TCP, or set
//!   [`accumulate`](DnsSettings::accumulate).

mod answer;
mod backend;
mod lookup;
mod servers;
mod settings;
mod source;

pub use self::{
    backend::Dns,
    settings::{DnsFamily, DnsSettings},
};
