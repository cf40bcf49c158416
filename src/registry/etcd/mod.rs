//! The backend for etcd, from 3.4 on; tested with 3.4.23 and 3.5.16.
//!
//! It uses the JSON gateway, which every etcd serves on its port for clients, with the HTTP client of
//! the other backends. A gRPC client would need a compiler for protocol buffers on each machine that
//! builds the crate, and sixty more crates. The gateway of 3.3 has other paths (`/v3beta`) and is not
//! supported.
//!
//! # Keys
//! An instance has the key `/services/{service}/{id}`, with an encoded `/` in either name. Its value is a
//! [record](super::record), written in Curator's format and read in those of other libraries: a service may
//! have instances that go-zero, kratos, kitex, go-micro, go-kit or gRPC's naming registered, below another
//! [prefix](EtcdSettings::prefix).
//!
//! # Watching
//! A watch lists the keys of its service at one revision, and then gets each change after that revision.
//! Unlike Consul, etcd sends changes only, so one change of 10,000 instances costs one key.
//!
//! - A watch can be silent although it has failed: its connection is dead, its server hangs, or the store
//!   was wiped and counts from a lower revision. So a watch that was silent for 15 to 20 s is ended, and a
//!   read of one key, the one that changed last, shows whether the copy is complete. If it is, the set is
//!   confirmed, and the watch goes on; if not, the service is listed again.
//! - A member that lost its leader ends its watches, because each of them asks for that.
//! - A revision that was compacted is followed by a list. No instance is removed meanwhile.
//! - A store whose revision went back was wiped, or restored from a backup. Its list is in doubt: it
//!   empties no set ([`EmptyGuard`](crate::catalog::EmptyGuard)).
//!
//! # Registering
//! The key lives as long as a lease, 15 s by default, which this process renews every third of that. A
//! process that ends without deregistering is listed until then. etcd checks no instance itself, so
//! [`Health::Ttl`](super::Health::Ttl) is the only check that it supports, and
//! [`Announcement::reap_after`](super::Announcement::reap_after) has no effect.
//!
//! Each second the registration also looks whether its key is there: an operator may delete it, and a store
//! that was wiped has neither key nor lease.
//!
//! A process that was restarted with the same id finds the key of its predecessor, which lives for one more
//! TTL, and takes it over at once. A key with another instance's record is a conflict: the registration
//! fails, and is retried slowly. If another process takes the id over, the registration reports that and
//! waits; it does not take the key back.
//!
//! # Users
//! With a user, the first request asks for a token. etcd forgets tokens (after five minutes by default, and
//! at each restart), so a refused token is replaced once before an error is reported. Leases need no token.

// Comments name the rules that a line follows, `ED…` for watches and `ER…` for registrations;
// `tests/etcd/main.rs` lists them, with the test of each.

mod backend;
mod client;
mod copy;
mod lease;
mod pages;
mod settings;
mod watch;
#[doc(hidden)]
pub mod wire;

pub use self::{backend::Etcd, settings::EtcdSettings};
