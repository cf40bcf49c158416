//! One service of a page.

use std::sync::Arc;

use super::record::Record;
use crate::{client::Handles, telemetry::Latencies};

/// One service of a page.
#[derive(Debug)]
pub(super) struct Watched {
    pub(super) name: Arc<str>,
    pub(super) handles: Handles,
    pub(super) latencies: Option<Latencies>,
    pub(super) record: Record,
}
