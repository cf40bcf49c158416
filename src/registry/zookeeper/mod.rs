//! The backend for ZooKeeper, from 3.4 on; tested with 3.8.0 and 3.9.3.
//!
//! # Nodes
//! An instance has the node `/services/{service}/{id}`, with an encoded `/` in either name. Its data is a
//! [record](super::record), written in Curator's format and read in those of other libraries: a service may
//! have instances that Curator, Spring Cloud, Finagle, kratos, go-kit or Armeria registered, below another
//! [prefix](ZookeeperSettings::prefix). With [`RecordFormat::dubbo`](super::record::RecordFormat::dubbo),
//! the instances are those below `/{service}/providers`.
//!
//! # The session
//! A registry has one session with the ensemble, for all its watches and registrations. It stays alive on
//! one connection at a time, and goes on with another server when a connection ends or is silent. Only the
//! servers end a session: when they are back after any time, the session is taken up first, with its
//! nodes. If it has expired, a new one begins at once, and everything is registered again.
//!
//! # Watching
//! A watch reads the list of its service and then each node, and every read asks for an event of the next
//! change. So one change of 10,000 instances costs one list of names and one node. Only events that occur
//! once are used, because every version of ZooKeeper has them. They end with their connection; on the next
//! one everything is read again, after up to 500 ms, so that the clients of a server that ended do not all
//! come at once.
//!
//! - Each connection begins with a `sync`, so that a server that is behind shows nothing old.
//! - A watch that was silent for 15 to 20 s compares the state of the list with that of the leader, which
//!   confirms the set.
//! - A node that is gone is kept for 150 ms, until another list shows that it stays away: Curator deletes
//!   and creates its node again after each lost connection. New nodes are used at once.
//! - Lists are in doubt if the transactions of the servers went back: they were wiped, or restored from a
//!   backup. A list in doubt empties no set ([`EmptyGuard`](crate::catalog::EmptyGuard)).
//! - An outage may end the sessions of all instances at once. In the 3 s after the session of the watch or
//!   its contact to the servers was lost for long, an empty list is an error, and the set is kept.
//!
//! # Registering
//! The node is ephemeral: it lives as long as the session, and after the end of a process without
//! deregistering for the [timeout of the session](ZookeeperSettings::session_timeout), 10 s by default.
//! ZooKeeper checks no instance itself, so [`Health::Ttl`](super::Health::Ttl) is the only check that it
//! supports, and the time of it has no effect: all registrations of a registry share its session.
//! [`Announcement::reap_after`](super::Announcement::reap_after) has no effect either.
//!
//! The own node is watched, so it is back within about half a second if an operator deletes it. The nodes
//! above it are persistent.
//!
//! A process that was restarted with the same id finds the node of its predecessor, which lives until the
//! end of its session, and takes it over at once. A node with another instance's record, or one that is
//! not ephemeral, is a conflict: the registration fails, and is retried slowly. If another process takes
//! the id over, the registration reports that and waits; it does not take the node back.
//!
//! # Users
//! A user is a name and a password of ZooKeeper's scheme `digest`. The servers accept any password for a
//! session and compare it with the ACL of each node, so a wrong one shows only as a missing permission.
//! [`ZookeeperSettings::acl`] says who may change the nodes of registrations.
//!
//! TLS and Kerberos are not supported; a proxy for TLS on this machine is the way round.

// Comments name the rules that a line follows, `ZD…` for watches and `ZR…` for registrations;
// `tests/zookeeper/main.rs` lists them, with the test of each.

mod backend;
mod call;
mod client;
mod copy;
mod lease;
mod listen;
mod session;
mod settings;
mod stream;
mod watch;
#[doc(hidden)]
pub mod wire;

pub use self::{backend::Zookeeper, settings::ZookeeperSettings, wire::ZookeeperAcl};
