//! A page in the browser that shows what the clients of this process know and do.
//!
//! At night an operator asks: which instances does this client know, and how old is that knowledge? Where do
//! the requests go, and why? What is ejected, what do retries cost, is the breaker open, which registry is
//! silent? The page answers from the handles that exist anyway. While nobody looks at it, it costs only a
//! short list of recent events.
//!
//! ```text
//!                        GET /              one HTML page: markup, style and script, nothing from elsewhere
//! browser ──▶ Status ──▶ GET /events        one event per interval, with the state of everything
//!             Service    GET /status.json   the same state once: for scripts, and where streams are cut
//!                        POST /orders       eject, restore, weigh, split: only if switched on
//! ```
//!
//! [`StatusPage`] collects what is shown, and builds the [`StatusService`], a tower service. Mount it in axum,
//! hyper or any other server. `nest_service` of axum removes the prefix from the path. For a server that does
//! not, [`StatusSettings::at`] names the prefix.
//!
//! # The data
//! `status.json` has a `version`, which is 1. A member may be added within a version; none is removed or
//! changes its meaning. Parameters: `service`, `sort` (`id`, `state`, `weight`, `share`, `rate`, `load`,
//! `in_flight`, `latency`, `requests`, `failures`, `ejections`, `age`), `order` (`asc`, `desc`), `state`,
//! `filter`, `offset`, `limit` (1 to 200, 50 by default). Each response has one page of the endpoints of one
//! service, so its size does not depend on the number of endpoints, except for a map with two characters for
//! each of the first 2,000.
//!
//! # Security
//! *Untrusted text.* Names and metadata come from a registry that others may write to. The script of the page
//! sets them as text and never as markup. The Content-Security-Policy allows only the script with the nonce of
//! the response, and Trusted Types switch off the functions that parse markup.
//!
//! *Reading.* The page has no login: mount it on loopback or behind your own. Requests must be for an IP
//! address, `localhost`, or a [set](StatusSettings::host) host, so that no page of another site can read it by
//! a name that it makes lead here. Browsers tell where a request comes from; pages of other sites are refused.
//!
//! *Writing* is off until [`StatusSettings::orders`] sets a token. Then an order must be a `POST` with this
//! token in its `Authorization` header, compared in constant time, and with the `Origin` of the page if it has
//! one. The page keeps the token in the memory of its tab.
//!
//! *Load.* All viewers share one sample per [interval](StatusSettings::interval). Event streams are
//! [limited](StatusSettings::streams); further pages poll. A stream makes its next event when the last one was
//! taken, so a slow reader holds one event. Queries, bodies, texts and lists are bounded.
//!
//! # Examples
//! ```
//! # #[cfg(feature = "http")]
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), tower_roster::BoxError> {
//! use tower_roster::{
//!     client::{HttpEndpoints, Stack},
//!     registry,
//!     telemetry::status::{StatusPage, StatusSettings},
//! };
//!
//! let registry = registry::connect("fixed:10.0.0.1:80,10.0.0.2:80")?;
//! let discover = registry.watch("user-service")?.discover(HttpEndpoints::<http_body_util::Empty<bytes::Bytes>>::new());
//! let client = Stack::http().build(discover)?;
//!
//! let page = StatusPage::new()
//!     .service("user-service", client.handles)
//!     .settings(StatusSettings::new().title("checkout on web-7"))
//!     .build()?;
//! let app: axum::Router = axum::Router::new().nest_service("/status", page);
//! # Ok(())
//! # }
//! # #[cfg(not(feature = "http"))]
//! # fn main() {}
//! ```

mod access;
mod answer;
mod body;
mod builder;
mod orders;
mod record;
mod registrations;
mod sample;
mod select;
mod service;
mod settings;
mod shared;
mod shown;
mod slots;
mod trend;
mod watched;

pub use self::{
    body::StatusBody, builder::StatusPage, service::StatusService, settings::StatusSettings,
};
