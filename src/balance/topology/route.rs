//! What a request asks the balancer for.
//!
//! A [`Route`] looks at each request once, before the pick, and makes a [`Wish`] from it: three numbers.
//! It runs for every request, so it should neither allocate nor wait. The plan for each possible wish is
//! made when the set of endpoints changes.

use super::{split::Version, subset::Subset};
use crate::balance::pick::hash::hash_key;

/// What one request asks for: a key, a subset, a version. All are optional and absent by default.
///
/// # Examples
/// ```
/// use tower_roster::balance::topology::{Subset, Wish};
///
/// const LARGE: Subset = Subset::new("model", "large");
/// let wish = Wish::new().key("user-17").subset(LARGE);
/// assert_eq!(wish, Wish::new().key("user-17").subset(LARGE), "the same in every process");
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct Wish {
    /// The hash of the request's key. Consistent hashing and sticky splits use it.
    pub hash: Option<u64>,
    /// The part of the endpoints that may serve the request. [`Subsets`](super::Subsets) sets what
    /// happens when it has no endpoint. It has no effect when the balancer has no subsets.
    pub subset: Option<Subset>,
    /// The version that must serve the request, whatever its share in the [`Split`](super::Split). It
    /// has no effect when the shares do not name the version (a share of 0 is enough), or when the
    /// version has no available endpoint.
    pub version: Option<Version>,
}

impl Wish {
    /// Creates a wish without key, subset and version.
    pub const fn new() -> Self {
        Self {
            hash: None,
            subset: None,
            version: None,
        }
    }

    /// Sets the key. Requests with equal keys go to the same endpoint under consistent hashing, and to
    /// the same version in a sticky split. The hash of the key is [`hash_key`], which is the same in
    /// every process; clients in other languages can compute it.
    #[must_use]
    pub fn key(self, key: impl AsRef<[u8]>) -> Self {
        self.hash(hash_key(key.as_ref()))
    }

    /// Sets the hash of the key, for a key that is already hashed.
    #[must_use]
    pub const fn hash(mut self, hash: u64) -> Self {
        self.hash = Some(hash);
        self
    }

    /// Sets the subset.
    #[must_use]
    pub const fn subset(mut self, subset: Subset) -> Self {
        self.subset = Some(subset);
        self
    }

    /// Sets the version.
    #[must_use]
    pub const fn version(mut self, version: Version) -> Self {
        self.version = Some(version);
        self
    }
}

/// Makes the [`Wish`] of a request. It is implemented by closures, by `()` for requests without wishes,
/// and by [`ByHeaders`] for HTTP.
///
/// A panic propagates to the caller, and the request is not sent.
///
/// # Examples
/// The user decides the version, and the requested model decides the endpoints:
/// ```
/// use tower_roster::balance::topology::{Route, Subset, Version, Wish};
///
/// struct Ask {
///     user: u64,
///     staff: bool,
///     model: &'static str,
/// }
///
/// const CANARY: Version = Version::new("v2");
/// let route = |ask: &Ask| {
///     let wish = Wish::new().key(ask.user.to_le_bytes()).subset(Subset::new("model", ask.model));
///     if ask.staff { wish.version(CANARY) } else { wish }
/// };
/// let wish = route.route(&Ask { user: 1, staff: true, model: "large" });
/// assert_eq!(wish.version, Some(CANARY));
/// ```
pub trait Route<Request>: Send + Sync + 'static {
    /// Returns the wish of `request`. It is called for each request, and again when the request could
    /// not be sent to the chosen endpoint.
    fn route(&self, request: &Request) -> Wish;
}

impl<Request> Route<Request> for () {
    fn route(&self, _: &Request) -> Wish {
        Wish::new()
    }
}

impl<Request, F> Route<Request> for F
where
    F: Fn(&Request) -> Wish + Send + Sync + 'static,
{
    fn route(&self, request: &Request) -> Wish {
        self(request)
    }
}

#[cfg(feature = "_hyper")]
pub use self::headers::ByHeaders;

#[cfg(feature = "_hyper")]
mod headers {
    use std::sync::Arc;

    use http::{HeaderName, Request};

    use super::{Route, Subset, Version, Wish};

    /// Makes the wish of an HTTP request from its headers.
    ///
    /// An absent or empty header has no effect. Of a repeated header, the first value counts. Values are
    /// compared byte for byte.
    ///
    /// Headers come from clients. Use only headers that any client may set, or that a proxy in front of
    /// this process removes.
    ///
    /// # Examples
    /// ```
    /// use http::{HeaderName, Request};
    /// use tower_roster::balance::topology::{ByHeaders, Route, Subset};
    ///
    /// let route = ByHeaders::new()
    ///     .key(HeaderName::from_static("x-user"))
    ///     .subset(HeaderName::from_static("x-stage"), "stage");
    /// let request = Request::get("/").header("x-stage", "beta").body(())?;
    /// let wish = route.route(&request);
    /// assert_eq!(wish.subset, Some(Subset::new("stage", "beta")));
    /// assert_eq!(wish.hash, None, "the request has no x-user header");
    /// # Ok::<_, http::Error>(())
    /// ```
    #[derive(Clone, Debug, Default)]
    pub struct ByHeaders {
        key: Option<HeaderName>,
        subset: Vec<(HeaderName, Arc<str>)>,
        version: Option<HeaderName>,
    }

    impl ByHeaders {
        /// Creates a route that uses no headers.
        pub fn new() -> Self {
            Self::default()
        }

        /// Sets the header whose value is the request's key; none by default.
        #[must_use]
        pub fn key(mut self, header: HeaderName) -> Self {
            self.key = Some(header);
            self
        }

        /// Adds a header whose value must equal the endpoint's metadata `name`; none by default. With
        /// several such headers, a request asks for the subset that matches all of those that it has.
        #[must_use]
        pub fn subset(mut self, header: HeaderName, name: impl Into<Arc<str>>) -> Self {
            self.subset.push((header, name.into()));
            self
        }

        /// Sets the header whose value is the wished version; none by default.
        #[must_use]
        pub fn version(mut self, header: HeaderName) -> Self {
            self.version = Some(header);
            self
        }
    }

    impl<B> Route<Request<B>> for ByHeaders {
        fn route(&self, request: &Request<B>) -> Wish {
            let value = |header: &HeaderName| {
                let value = request.headers().get(header)?.as_bytes();
                (!value.is_empty()).then_some(value)
            };
            let mut wish = Wish::new();
            if let Some(key) = self.key.as_ref().and_then(value) {
                wish = wish.key(key);
            }
            for (header, name) in &self.subset {
                let Some(value) = value(header) else { continue };
                let pair = Subset::from_bytes(name, value);
                wish.subset = Some(wish.subset.map_or(pair, |subset| subset.with(pair)));
            }
            wish.version = self
                .version
                .as_ref()
                .and_then(value)
                .map(Version::from_bytes);
            wish
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_wishes_nothing() {
        assert_eq!(().route(&"any request"), Wish::new());
        assert_eq!(Wish::new(), Wish::default());
    }

    #[cfg(feature = "_hyper")]
    #[test]
    fn headers_combine_and_empty_ones_count_for_nothing() {
        use http::{HeaderName, Request};

        let name = HeaderName::from_static;
        let route = ByHeaders::new()
            .key(name("x-user"))
            .subset(name("x-stage"), "stage")
            .subset(name("x-model"), "model")
            .version(name("x-version"));
        let ask = |headers: &[(&str, &str)]| {
            let mut request = Request::get("/");
            for (name, value) in headers {
                request = request.header(*name, *value);
            }
            route.route(&request.body(()).unwrap())
        };
        let both = Subset::new("model", "large").and("stage", "beta");
        assert_eq!(
            ask(&[("x-stage", "beta"), ("x-model", "large")]).subset,
            Some(both)
        );
        assert_eq!(
            ask(&[("x-stage", ""), ("x-model", "large"), ("x-version", "v2")]),
            Wish::new()
                .subset(Subset::new("model", "large"))
                .version(Version::new("v2"))
        );
        assert_eq!(ask(&[("x-user", "a")]), Wish::new().key("a"));
        assert_eq!(ask(&[]), Wish::new());
    }
}
