//! The watch of one service: a list, then every change after its revision.
//!
//! ```text
//! read: range, page by page at one revision R ──▶ copy ──▶ Listing
//! next: watch from R + 1 ──▶ lines ──▶ copy ──▶ Listing
//!            │
//!            └─ no line for 15–20 s: end it, confirm the copy by a range of one key ──▶ Unchanged
//! ```

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use rand::RngExt;
use serde_json::json;
use tokio::time::{Instant, timeout, timeout_at};

use super::{
    client::{CallError, EtcdClient, RANGE, failure},
    copy::{Copy, range_end},
    pages::read_pages,
    wire::{Base64, Event, Header, RangeReply, Said, WatchLine},
};
use crate::{
    backoff::after,
    error::{ErrorKind, RegistryError},
    registry::{
        Answer, BoxFuture, Source,
        contract::STALE_AFTER,
        decoding::decoded,
        http::{LineError, Lines},
        redact::Secrets,
    },
};

/// How long a watch may be silent before the copy is confirmed: 15 s, and up to 5 s more, so that watches
/// that began together do not confirm together. With the time limit of a read, it stays below the 30 s
/// after which a set is stale.
const SILENCE: Duration = Duration::from_secs(15);
const SILENCE_SPREAD: Duration = Duration::from_secs(5);

/// The longest time between two lists, in case a change is ever missed: 5 min, and up to 5 min more (ED9).
const RELIST_EVERY: Duration = Duration::from_secs(300);

/// Within this time after a reply the service is busy: lines that follow each other are then taken
/// together.
const BUSY: Duration = Duration::from_millis(200);

/// How long further lines are waited for, each and in all, while a service is busy. Arbitrary: lines
/// that etcd has sent already arrive within less.
const GATHER: Duration = Duration::from_millis(1);
const GATHER_MOST: Duration = Duration::from_millis(20);

/// The watch of one service.
pub(super) struct EtcdSource {
    client: EtcdClient,
    copy: Copy,
    /// What the copy is a copy of; `None` before the first list, and after an error.
    position: Option<Position>,
    /// The newest state of the store that was seen. Kept after errors, to notice a store that was wiped.
    newest: Header,
    stream: Option<Lines>,
    /// What no message about the last stream may contain.
    secrets: Secrets,
    relist_at: Instant,
    answered_at: Option<Instant>,
    /// Whether any list succeeded.
    listed: bool,
    /// The number of compactions since the last change or confirmation.
    compactions: u32,
}

#[derive(Clone, Copy)]
struct Position {
    cluster: u64,
    /// The revision after the last one that is part of the copy (ED4).
    next: i64,
}

impl EtcdSource {
    pub(super) fn new(client: EtcdClient, copy: Copy) -> Self {
        Self {
            client,
            copy,
            position: None,
            newest: Header::default(),
            stream: None,
            secrets: Secrets::default(),
            relist_at: Instant::now(),
            answered_at: None,
            listed: false,
            compactions: 0,
        }
    }

    /// Reads the whole service, at one revision.
    async fn list(&mut self, serializable: bool) -> Result<Answer, CallError> {
        let (header, pages) = read_pages(&mut self.client, &self.copy, serializable).await?;
        let doubt = self.doubt(header);
        self.copy.replace(pages);
        self.newest = header;
        self.position = Some(Position {
            cluster: header.cluster_id,
            next: header.revision.saturating_add(1),
        });
        self.relist_at = after(Instant::now(), spread(RELIST_EVERY, RELIST_EVERY));
        self.listed = true;
        Ok(Answer::Listing(self.copy.listing(doubt)))
    }

    /// Says what is wrong if the store is not the one that was seen before (ED6). A wiped store may have
    /// the same cluster id.
    fn doubt(&self, now: Header) -> Option<String> {
        let Header {
            cluster_id,
            revision,
        } = self.newest;
        if revision > now.revision {
            let new = now.revision;
            return Some(format!(
                "the revision of the store went back from {revision} to {new}"
            ));
        }
        let other = cluster_id != 0 && cluster_id != now.cluster_id;
        other.then(|| "another cluster answers".to_owned())
    }

    async fn follow(&mut self) -> Result<Answer, RegistryError> {
        let Some(mut position) = self.position else {
            return Ok(Answer::Resync);
        };
        if self.relist_at <= Instant::now() {
            return Ok(Answer::Resync);
        }
        let silent_at = Instant::now() + spread(SILENCE, SILENCE_SPREAD);
        let mut renewed = false;
        loop {
            let mut stream = match self.stream.take() {
                Some(stream) => stream,
                None => self.open(position).await?,
            };
            let Ok(line) = timeout_at(silent_at, stream.next()).await else {
                // The stream is dropped: it may be silent because its connection is dead (ED12).
                return self.confirm(position).await;
            };
            let Some(line) = self.line(line).await? else {
                return Ok(Answer::Resync);
            };
            match line {
                Said::Failed(said) => {
                    let failed = failure(&said, &self.secrets);
                    self.client.failed(&failed.error);
                    return Err(failed.into());
                }
                Said::Compacted => return Ok(self.compacted().await),
                Said::Canceled(reason) => {
                    let denied = canceled(&self.secrets.shown(&reason));
                    // ED14: the token may be old. A second refusal is final.
                    if denied.kind() == ErrorKind::Denied
                        && !renewed
                        && self.client.renew_token().await
                    {
                        renewed = true;
                        continue;
                    }
                    return Err(denied);
                }
                // ED13: a store that went back would be silent for ever. Its cluster id proves
                // nothing, if it is the same.
                Said::Live { header, .. }
                    if header.cluster_id != position.cluster
                        || header.revision < position.next - 1 =>
                {
                    tracing::debug!("the store is not the one that was listed");
                    return Ok(Answer::Resync);
                }
                Said::Live { header, events, .. } => {
                    let changed = self.apply(header, events, &mut position)?;
                    let (changed, stream) = self.gather(stream, changed, &mut position).await?;
                    self.position = Some(position);
                    self.stream = stream;
                    if changed {
                        self.compactions = 0;
                        self.answered_at = Some(Instant::now());
                        return Ok(Answer::Listing(self.copy.listing(None)));
                    }
                }
            }
        }
    }

    /// While the service is busy, takes the lines that have arrived already with the one before them.
    /// Returns whether anything changed, and the stream, unless it needs another look.
    async fn gather(
        &mut self,
        mut stream: Lines,
        mut changed: bool,
        position: &mut Position,
    ) -> Result<(bool, Option<Lines>), RegistryError> {
        let busy = self.answered_at.is_some_and(|at| at.elapsed() < BUSY);
        let until = Instant::now() + GATHER_MOST;
        while changed && busy && Instant::now() < until {
            let Ok(line) = timeout(GATHER, stream.next()).await else {
                break;
            };
            let said = match line {
                Ok(Some(line)) => self.parse(line).await?,
                // The next call finds the same, and answers for it.
                _ => return Ok((changed, None)),
            };
            match said {
                Said::Live { header, events, .. } if header.cluster_id == position.cluster => {
                    changed |= self.apply(header, events, position)?;
                }
                // Opened again from the same position, the watch says it again.
                _ => return Ok((changed, None)),
            }
        }
        Ok((changed, Some(stream)))
    }

    /// Applies changes to the copy. The position follows the changes only, never another revision that
    /// a line or a call shows (ED4).
    fn apply(
        &mut self,
        header: Header,
        events: Vec<Event>,
        position: &mut Position,
    ) -> Result<bool, RegistryError> {
        let last = events.iter().map(|event| event.kv.mod_revision).max();
        let applied = self.copy.apply(events);
        let changed = applied.map_err(|why| {
            // The copy may be changed in part.
            self.position = None;
            malformed(format!("a change cannot be used: {why}"))
        })?;
        if let Some(last) = last {
            position.next = position.next.max(last.saturating_add(1));
        }
        if header.revision > self.newest.revision {
            self.newest = header;
        }
        Ok(changed)
    }

    async fn open(&mut self, position: Position) -> Result<Lines, RegistryError> {
        let body = json!({"create_request": {
            "key": Base64(self.copy.prefix().to_vec()),
            "range_end": Base64(range_end(self.copy.prefix())),
            "start_revision": position.next.to_string(),
        }});
        let lines = self.client.watch(&body).await?;
        self.secrets = lines.secrets();
        Ok(lines)
    }

    /// Interprets the end of a wait for a line. `None` if the list has to be read again.
    async fn line(
        &mut self,
        line: Result<Option<Bytes>, LineError>,
    ) -> Result<Option<Said>, RegistryError> {
        match line {
            Ok(Some(line)) => self.parse(line).await.map(Some),
            Err(LineError::TooLong) => {
                // ED16: the same line would come again, so the change is read page by page.
                tracing::warn!("a change is too long for one line; the service is listed again");
                Ok(None)
            }
            Ok(None) => {
                let what = "the server ended the watch";
                let error = RegistryError::new(ErrorKind::Unreachable, what);
                self.client.failed(&error);
                Err(error)
            }
            Err(LineError::Broke(source)) => {
                let what = "the connection of the watch broke";
                let error = RegistryError::new(ErrorKind::Unreachable, what).with_source(source);
                self.client.failed(&error);
                Err(error)
            }
        }
    }

    async fn parse(&mut self, line: Bytes) -> Result<Said, RegistryError> {
        let bytes = line.len();
        let parse = move || serde_json::from_slice(&line).map(WatchLine::judge);
        let why = match decoded(bytes, parse).await {
            Ok(Some(said)) => return Ok(said),
            Ok(None) => None,
            Err(error) => Some(error),
        };
        let mut error = malformed("a line of the watch is not etcd's");
        if let Some(why) = why {
            error = error.with_source(self.secrets.cause(why));
        }
        self.client.failed(&error);
        Err(error)
    }

    /// A list follows at once, as a rule. Where each watch is refused, the lists become rarer (ED5).
    async fn compacted(&mut self) -> Answer {
        tracing::debug!("the revision of the watch was compacted");
        let pause = Duration::from_millis(250) * self.compactions.min(8);
        self.compactions += 1;
        tokio::time::sleep(pause).await;
        Answer::Resync
    }

    /// Asks whether the copy is complete (ED12).
    async fn confirm(&mut self, position: Position) -> Result<Answer, RegistryError> {
        let body = json!({
            "key": Base64(self.copy.prefix().to_vec()),
            "range_end": Base64(range_end(self.copy.prefix())),
            "limit": "1",
            "sort_order": "DESCEND",
            "sort_target": "MOD",
            "keys_only": true,
        });
        let reply: RangeReply = self.client.call(RANGE, &body).await?;
        let Header {
            cluster_id,
            revision,
        } = reply.header;
        let same = cluster_id == position.cluster && revision >= position.next - 1;
        if same && self.copy.is_confirmed_by(&reply) {
            self.compactions = 0;
            return Ok(Answer::Unchanged);
        }
        Ok(Answer::Resync)
    }
}

impl Source for EtcdSource {
    fn read(&mut self) -> BoxFuture<'_, Result<Answer, RegistryError>> {
        (self.stream, self.position) = (None, None);
        Box::pin(async {
            let error = match self.list(false).await {
                Ok(answer) => return Ok(answer),
                Err(failed) => failed.error,
            };
            if self.listed || !error.is_unreachable() {
                return Err(error);
            }
            // ED8: a member without a leader knows what it was told last. That is better than nothing
            // at the start, and never as good as a confirmed list.
            match self.list(true).await {
                Ok(Answer::Listing(listing)) => {
                    self.position = None;
                    Ok(Answer::Unconfirmed(listing, error))
                }
                _ => Err(error),
            }
        })
    }

    /// The longest silence, and the time limit of the confirmation.
    fn stale_after(&self) -> Duration {
        STALE_AFTER.max(SILENCE + SILENCE_SPREAD + self.client.within())
    }

    fn next(&mut self) -> BoxFuture<'_, Result<Answer, RegistryError>> {
        Box::pin(async {
            let answer = self.follow().await;
            if !matches!(answer, Ok(Answer::Listing(_))) {
                // A silent stream, or one that has ended, is opened again.
                self.stream = None;
            }
            answer
        })
    }
}

/// The error for a watch that the server refuses.
fn canceled(reason: &str) -> RegistryError {
    let kind = if ["PermissionDenied", "Unauthenticated", "InvalidArgument"]
        .iter()
        .any(|code| reason.contains(code))
    {
        ErrorKind::Denied
    } else {
        ErrorKind::Unavailable
    };
    RegistryError::new(kind, format!("etcd canceled the watch: {reason}"))
}

fn malformed(message: impl Into<Arc<str>>) -> RegistryError {
    RegistryError::new(ErrorKind::Malformed, message)
}

fn spread(least: Duration, more: Duration) -> Duration {
    least + more.mul_f64(rand::rng().random())
}
