//! Reads a range page by page.

use serde_json::json;

use super::{
    client::{CallError, EtcdClient, RANGE, code},
    copy::{Copy, Pages, range_end},
    wire::{Base64, Header, RangeReply},
};
use crate::error::{ErrorKind, RegistryError};

/// The number of keys of a page. A page of records of usual size has 200 KiB, and etcd reads it in
/// milliseconds.
const PAGE: u32 = 1_000;

/// How often a list begins again because its revision was compacted between two pages.
const MOST_RESTARTS: u32 = 3;

/// Reads all keys of the range of a copy, at one revision. A `serializable` read is of what one member
/// knows.
pub(super) async fn read_pages(
    client: &mut EtcdClient,
    copy: &Copy,
    serializable: bool,
) -> Result<(Header, Pages), CallError> {
    let mut restarts = 0;
    let mut limit = PAGE;
    let mut pages = Pages::default();
    let mut from = copy.prefix().to_vec();
    let mut header: Option<Header> = None;
    loop {
        let revision = header.map_or(0, |header| header.revision);
        let body = json!({
            "key": Base64(from.clone()),
            "range_end": Base64(range_end(copy.prefix())),
            "limit": limit.to_string(),
            // All pages are of the revision of the first (ED9, ED17).
            "revision": revision.to_string(),
            "serializable": serializable,
        });
        let reply: RangeReply = match client.call(RANGE, &body).await {
            Ok(reply) => reply,
            Err(failed)
                if failed.code == code::OUT_OF_RANGE
                    && header.is_some()
                    && restarts < MOST_RESTARTS =>
            {
                restarts += 1;
                (pages, header) = (Pages::default(), None);
                from = copy.prefix().to_vec();
                continue;
            }
            // A page may be too long because some of its values are. Such a record costs itself
            // only.
            Err(failed) if failed.error.kind() == ErrorKind::Malformed && limit > 1 => {
                limit = (limit / 10).max(1);
                continue;
            }
            Err(failed) => return Err(failed),
        };
        let first = *header.get_or_insert(reply.header);
        if first.revision <= 0 || first.cluster_id != reply.header.cluster_id {
            return Err(malformed("a list has no revision, or is of two clusters").into());
        }
        let ends = !reply.more;
        if !ends && reply.kvs.is_empty() {
            return Err(malformed("a list has a page without keys").into());
        }
        from = copy
            .add(&mut pages, reply.kvs)
            .map_err(|why| malformed(format!("a list cannot be used: {why}")))?;
        if ends {
            return Ok((first, pages));
        }
    }
}

fn malformed(message: impl Into<std::sync::Arc<str>>) -> RegistryError {
    RegistryError::new(ErrorKind::Malformed, message)
}
