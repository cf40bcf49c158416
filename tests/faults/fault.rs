//! What is done to a registry.

use std::time::Duration;

/// A row of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    Restarted,
    Wiped,
    Paused,
    Blackholed,
    Cut,
    LeaderKilled,
    QuorumLost,
    Revoked,
    Full,
    Garbage,
}

use Fault::*;

impl Fault {
    pub(crate) const ALL: [Fault; 10] = [
        Restarted,
        Wiped,
        Paused,
        Blackholed,
        Cut,
        LeaderKilled,
        QuorumLost,
        Revoked,
        Full,
        Garbage,
    ];

    /// As it is chosen on the command line.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Restarted => "restarted",
            Wiped => "wiped",
            Paused => "paused",
            Blackholed => "blackholed",
            Cut => "cut",
            LeaderKilled => "leader-killed",
            QuorumLost => "quorum-lost",
            Revoked => "revoked",
            Full => "full",
            Garbage => "garbage",
        }
    }

    pub(crate) fn title(self) -> &'static str {
        match self {
            Restarted => "all servers killed, restarted with their state",
            Wiped => "all servers killed, restarted without their state",
            Paused => "the server in use paused (SIGSTOP)",
            Blackholed => "every byte between client and registry swallowed",
            Cut => "every reply reset in its middle",
            LeaderKilled => "the leader killed",
            QuorumLost => "two of three servers killed, then restarted",
            Revoked => "the client's rights revoked, then restored",
            Full => "no connection left on the servers",
            Garbage => "garbage of 20 kinds instead of replies",
        }
    }

    /// How long it lasts, until the heal.
    pub(crate) fn lasts(self) -> Duration {
        Duration::from_secs(match self {
            // Longer than the TTL of every registration, and than the silence that a watch accepts.
            Paused | Blackholed => 20,
            // A blocking query of Consul does not notice it before its wait ends.
            Revoked => 25,
            Garbage => 16,
            // The registry heals itself: it elects another leader.
            LeaderKilled => 0,
            Restarted | Wiped | QuorumLost | Full => 8,
            Cut => 5,
        })
    }
}
