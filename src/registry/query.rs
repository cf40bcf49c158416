//! The query of a watch.

use std::sync::Arc;

use crate::error::{ErrorKind, RegistryError};

/// A service to watch, and which of its instances. Equal queries share one watch.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Query {
    service: Arc<str>,
    tags: Vec<String>,
    pub(super) passing_only: bool,
}

impl Query {
    /// Creates a query for all instances of `service` that are passing or warning.
    ///
    /// Write a name everywhere in the same case. Consul finds a service regardless of case, and the
    /// embedded registry (`memory:` and `rest:`) finds the exact name only.
    pub fn new(service: impl Into<Arc<str>>) -> Self {
        Self {
            service: service.into(),
            tags: Vec::new(),
            passing_only: false,
        }
    }

    /// Requires a tag: only instances with every required tag are watched.
    #[must_use]
    pub fn tag(mut self, tag: impl Into<String>) -> Self {
        self.tags.push(tag.into());
        self
    }

    /// Excludes instances with a warning check. By default they get traffic too, with their warning
    /// weight.
    #[must_use]
    pub fn passing_only(mut self) -> Self {
        self.passing_only = true;
        self
    }

    /// Returns the service.
    pub fn service(&self) -> &Arc<str> {
        &self.service
    }

    /// Returns the required tags.
    pub fn tags(&self) -> &[String] {
        &self.tags
    }

    /// Checks what no backend can answer.
    pub(super) fn validate(&self) -> Result<(), RegistryError> {
        if self.service.trim().is_empty() {
            let what = "the service has no name";
            return Err(RegistryError::new(ErrorKind::Invalid, what));
        }
        Ok(())
    }

    /// Whether `tags` contains every required tag.
    pub fn matches(&self, tags: &[String]) -> bool {
        self.tags.iter().all(|tag| tags.contains(tag))
    }

    /// Returns [`matches`](Self::matches) for many lists of different tags. It looks at each of their tags
    /// once, however many tags are required.
    #[cfg(feature = "memory")]
    pub(super) fn matcher(&self) -> impl Fn(&[String]) -> bool + '_ {
        let required: std::collections::HashSet<&str> =
            self.tags.iter().map(String::as_str).collect();
        move |tags| {
            let found = tags.iter().filter(|tag| required.contains(tag.as_str()));
            required.is_empty() || found.count() == required.len()
        }
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
