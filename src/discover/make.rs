//! Makes the service that sends requests to an instance.

use crate::{
    error::BoxError,
    instance::{Address, Instance},
};

/// Makes the service that sends requests to an instance.
///
/// Closures `FnMut(&Instance) -> Result<S, E>` implement it. They can use all data of the registry:
/// address, zone, tags, metadata. Making a service should be cheap and not connect, because it runs on
/// the task that polls the [`Discover`](super::Discover).
///
/// The service should reconnect by itself, and not fail in `poll_ready` because of a temporary fault:
/// tower's balancer permanently drops a service that fails there.
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
/// An implementation whose services depend on more than the address overrides
/// [`needs_rebuild`](Self::needs_rebuild):
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
#[diagnostic::on_unimplemented(
    message = "`{Self}` does not make endpoints",
    note = "`HttpEndpoints` and `GrpcEndpoints` do, as does a closure of type `FnMut(&Instance) -> Result<Service, Error>` \
            whose argument has its type written out"
)]
pub trait MakeEndpoint {
    /// The service.
    type Service;

    /// Why a service could not be made.
    type Error: Into<BoxError>;

    /// Makes the service that sends requests to `instance`.
    ///
    /// # Errors
    /// When the service cannot be made now. The instance then has no endpoint until a later attempt;
    /// other instances are not affected.
    fn make_endpoint(&mut self, instance: &Instance) -> Result<Self::Service, Self::Error>;

    /// Returns whether the service made for `old` cannot be used for `new`, which has the same key. By
    /// default only a changed [`Address`] requires a new service.
    ///
    /// All other data (weight, zone, tags, status, metadata) reach the endpoint without a new service,
    /// so no connection is lost.
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
