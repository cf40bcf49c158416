//! What a request wishes of the balancer.
//!
//! A [`Route`] looks at each request once, before the pick, and says what matters for it in three
//! numbers: a [`Wish`]. It runs on the path of every request, so it should neither allocate nor wait;
//! what the numbers mean was worked out when the set of endpoints changed.

use super::{split::Version, subset::Subset};
use crate::balance::pick::hash::hash_key;

/// What one request wishes: a key, a subset, a version. Nothing by default.
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
    /// The hash of the request's key: what consistent hashing and sticky splits go by.
    pub hash: Option<u64>,
    /// The part of the endpoints that may serve it; see [`Subsets`](super::Subsets) for what happens
    /// when there is none. Without effect when the balancer has no subsets.
    pub subset: Option<Subset>,
    /// The version it wants whatever the shares of the [`Split`](super::Split) say, as long as that
    /// version is named in the shares (0 will do) and an endpoint of it lives.
    pub version: Option<Version>,
}

impl Wish {
    /// No wish.
    pub const fn new() -> Self {
        Self {
            hash: None,
            subset: None,
            version: None,
        }
    }

    /// Requests with equal keys go the same way. The hash of the key is [`hash_key`], the same in every
    /// process, and clients in other languages can compute it.
    #[must_use]
    pub fn key(self, key: impl AsRef<[u8]>) -> Self {
        self.hash(hash_key(key.as_ref()))
    }

    /// The same for a key that is hashed already.
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

/// Says what a request wishes. Implemented by closures, by `()` for no wishes, and by
/// [`ByHeaders`] for HTTP.
///
/// A panic is the caller's: the request goes nowhere.
///
/// # Examples
/// Who asks decides about the version, and what is asked for about the endpoints:
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
    /// Says what `request` wishes. Called on the path of each request, and again for one that an
    /// endpoint could not be sent.
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

    /// Takes the wishes of an HTTP request from its headers.
    ///
    /// A header that is absent or empty wishes nothing; of a repeated header the first value counts.
    /// Values are compared byte for byte.
    ///
    /// Headers come from outside: name here only those that a stranger may set, or that a proxy in
    /// front strips.
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
    /// assert_eq!(wish.hash, None, "nobody said who asks");
    /// # Ok::<_, http::Error>(())
    /// ```
    #[derive(Clone, Debug, Default)]
    pub struct ByHeaders {
        key: Option<HeaderName>,
        subset: Vec<(HeaderName, Arc<str>)>,
        version: Option<HeaderName>,
    }

    impl ByHeaders {
        /// No header means anything.
        pub fn new() -> Self {
            Self::default()
        }

        /// The header whose value is the request's key; none by default.
        #[must_use]
        pub fn key(mut self, header: HeaderName) -> Self {
            self.key = Some(header);
            self
        }

        /// A header whose value must be that of the endpoint's metadata `name`; none by default. With
        /// several, a request asks for the subset of those that it has.
        #[must_use]
        pub fn subset(mut self, header: HeaderName, name: impl Into<Arc<str>>) -> Self {
            self.subset.push((header, name.into()));
            self
        }

        /// The header whose value is the wanted version; none by default.
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
