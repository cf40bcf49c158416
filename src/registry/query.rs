//! What is watched.

use std::sync::Arc;

/// What to watch: a service, and which of its instances. Equal queries share one watch.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Query {
    service: Arc<str>,
    tags: Vec<String>,
    pub(super) passing_only: bool,
}

impl Query {
    /// All instances of `service` that are passing or warning.
    pub fn new(service: impl Into<Arc<str>>) -> Self {
        Self {
            service: service.into(),
            tags: Vec::new(),
            passing_only: false,
        }
    }

    /// Only instances that carry this tag, and every other tag of the query.
    #[must_use]
    pub fn tag(mut self, tag: impl Into<String>) -> Self {
        self.tags.push(tag.into());
        self
    }

    /// Only instances all of whose checks pass; by default warning ones serve too, with their
    /// warning weight.
    #[must_use]
    pub fn passing_only(mut self) -> Self {
        self.passing_only = true;
        self
    }

    /// The service.
    pub fn service(&self) -> &Arc<str> {
        &self.service
    }

    /// The tags that an instance must carry.
    pub fn tags(&self) -> &[String] {
        &self.tags
    }

    /// Whether `tags` holds every tag of the query.
    pub fn matches(&self, tags: &[String]) -> bool {
        self.tags.iter().all(|tag| tags.contains(tag))
    }
}

impl From<&str> for Query {
    fn from(service: &str) -> Self {
        Self::new(service)
    }
}

impl From<String> for Query {
    fn from(service: String) -> Self {
        Self::new(service)
    }
}

impl From<Arc<str>> for Query {
    fn from(service: Arc<str>) -> Self {
        Self::new(service)
    }
}
