//! From an instance to a service that reaches it.

use crate::{
    error::BoxError,
    instance::{Address, Instance},
};

/// Makes the service that reaches an instance.
///
/// Implemented for closures `FnMut(&Instance) -> Result<S, E>`, which then see all that the registry
/// says: address, zone, tags, metadata. Making should be cheap and not connect: it happens on the
/// task that polls the [`Discover`](super::Discover).
///
/// The service should not fail in `poll_ready` for trouble that may pass, and reconnect by itself:
/// tower's balancer drops a service that fails there for good.
///
/// # Examples
/// ```
/// use std::convert::Infallible;
/// use tower_roster::{Instance, discover::MakeEndpoint};
///
/// let mut make = |instance: &Instance| {
///     let address = instance.address.to_string();
///     Ok::<_, Infallible>(tower::service_fn(move |name: &'static str| {
///         let reply = format!("{name} to {address}");
///         async move { Ok::<_, Infallible>(reply) }
///     }))
/// };
/// let instance = Instance::new("web", "web-1", "10.0.0.1:80".parse()?);
/// let service = make.make_endpoint(&instance);
/// # Ok::<_, tower_roster::instance::AddressError>(())
/// ```
///
/// One whose services depend on more than the address says so:
/// ```
/// use std::convert::Infallible;
/// use tower_roster::{Instance, discover::MakeEndpoint};
///
/// struct ByProtocol;
///
/// impl MakeEndpoint for ByProtocol {
///     type Service = String;
///     type Error = Infallible;
///
///     fn make_endpoint(&mut self, instance: &Instance) -> Result<String, Infallible> {
///         let protocol = instance.metadata.get("protocol").map_or("http", String::as_str);
///         Ok(format!("{protocol}://{}", instance.address))
///     }
///
///     fn needs_rebuild(&self, old: &Instance, new: &Instance) -> bool {
///         old.address != new.address
///             || old.metadata.get("protocol") != new.metadata.get("protocol")
///     }
/// }
/// ```
pub trait MakeEndpoint {
    /// The service.
    type Service;

    /// Why none could be made.
    type Error: Into<BoxError>;

    /// Makes the service that reaches `instance`.
    ///
    /// # Errors
    /// When it cannot be made now. This costs the one instance only, and is tried again.
    fn make_endpoint(&mut self, instance: &Instance) -> Result<Self::Service, Self::Error>;

    /// Whether the service made for `old` cannot go on serving for `new`, which has the same key.
    /// Only a changed [`Address`] by default.
    ///
    /// Everything else (weight, zone, tags, status, metadata) reaches the endpoint without a new
    /// service, so that no connection is lost.
    fn needs_rebuild(&self, old: &Instance, new: &Instance) -> bool {
        let (old, new): (&Address, &Address) = (&old.address, &new.address);
        old != new
    }
}

impl<F, S, E> MakeEndpoint for F
where
    F: FnMut(&Instance) -> Result<S, E>,
    E: Into<BoxError>,
{
    type Service = S;
    type Error = E;

    fn make_endpoint(&mut self, instance: &Instance) -> Result<S, E> {
        self(instance)
    }
}
