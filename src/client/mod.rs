//! Ready-made endpoints for the protocols that people call.

mod error;
#[cfg(feature = "tonic")]
mod grpc;
mod http;
mod kept;
mod uri;

#[cfg(feature = "tonic")]
pub use self::grpc::{GrpcClient, GrpcEndpoints, GrpcFuture};
pub use self::{
    error::HttpError,
    http::{HttpClient, HttpEndpoints, HttpFuture},
};
