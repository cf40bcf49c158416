//! The headers of a response, and when an empty list may be wrong.

use std::time::Duration;

use crate::registry::http::Reply;

/// Returns the index of a successful response. Error responses have one too, which means nothing.
///
/// # Errors
/// When there is none; says why.
pub(super) fn index(reply: &Reply) -> Result<u64, String> {
    let text = reply.header("x-consul-index");
    let text = text.ok_or("an answer has no X-Consul-Index")?;
    let index: u64 = text.trim().parse().map_err(|_| {
        let shown = reply.secrets.shown(text);
        format!("X-Consul-Index is {shown:?}, not a number")
    })?;
    // A query with index 0 would never block.
    Ok(index.max(1))
}

/// How long ago the server that answered heard from the leader.
pub(super) fn last_contact(reply: &Reply) -> Option<Duration> {
    let millis = reply.header("x-consul-lastcontact")?.trim().parse().ok()?;
    Some(Duration::from_millis(millis))
}

/// Whether access rules removed instances from the list. Only newer agents report that.
pub(super) fn is_cut(reply: &Reply) -> bool {
    reply.header("x-consul-results-filtered-by-acls") == Some("true")
}

/// The last good list. Kept after errors, to judge the list that follows.
#[derive(Debug, Default)]
pub(super) struct LastList {
    /// Its index, and whether it listed anything.
    last: Option<(u64, bool)>,
}

impl LastList {
    pub(super) fn note(&mut self, index: u64, listed: bool) {
        self.last = Some((index, listed));
    }

    /// Returns why an empty list may be wrong, which the list itself does not show.
    pub(super) fn doubt(&self, reply: &Reply, index: u64) -> Option<String> {
        if is_cut(reply) {
            return Some("access rules cut the list".to_owned());
        }
        if index <= 1 {
            return Some("its index is 1".to_owned());
        }
        match self.last {
            Some((last, true)) if index == last => {
                Some(format!("there were instances at the same index, {last}"))
            }
            _ => self.regressed(index),
        }
    }

    /// Returns a reason if the index went back: the registry lost its state, and the list may be
    /// incomplete.
    pub(super) fn regressed(&self, index: u64) -> Option<String> {
        let (last, _) = self.last?;
        (index < last).then(|| format!("its index went back from {last} to {index}"))
    }
}
