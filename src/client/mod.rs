//! Ready-made endpoints for the protocols that people call.

#[cfg(feature = "tonic")]
mod erased;
mod error;
#[cfg(feature = "tonic")]
mod grpc;
mod http;
mod http1;
#[cfg(feature = "tonic")]
mod http2;
#[cfg(any(feature = "http2", feature = "tls"))]
mod kept;
#[cfg(any(feature = "http2", feature = "tls"))]
mod negotiated;
mod pool;
#[cfg(feature = "tonic")]
mod status;
mod uri;

pub use self::{
    error::HttpError,
    http::{HttpClient, HttpEndpoints, HttpFuture},
};
#[cfg(feature = "tonic")]
pub use self::{
    grpc::{GrpcClient, GrpcEndpoints, GrpcFuture},
    status::{StatusFuture, StatusLayer, WithStatus, to_status},
};
