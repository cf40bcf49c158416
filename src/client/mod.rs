//! Clients of services: `HttpService` and `GrpcChannel` for one, `Router` for many, the [`Stack`] of balancer and
//! layers that they are made of, and endpoints for HTTP and gRPC.

#[cfg(feature = "http")]
mod body;
#[cfg(feature = "http")]
mod calls;
#[cfg(feature = "config")]
pub mod config;
#[cfg(feature = "tonic")]
mod erased;
#[cfg(feature = "http")]
mod error;
#[cfg(feature = "tonic")]
mod grpc;
#[cfg(feature = "tonic")]
mod grpc_call;
#[cfg(feature = "tonic")]
mod grpc_channel;
#[cfg(feature = "http")]
mod http;
#[cfg(feature = "http")]
mod http1;
#[cfg(any(feature = "http2", feature = "tonic"))]
mod http2;
#[cfg(feature = "http")]
mod http_client;
#[cfg(feature = "http")]
mod http_service;
#[cfg(feature = "tonic")]
mod kept_call;
#[cfg(feature = "http")]
mod life;
#[cfg(feature = "http")]
mod limits;
#[cfg(all(feature = "http", any(feature = "http2", feature = "tls")))]
mod negotiated;
#[cfg(feature = "http")]
mod pool;
#[cfg(feature = "http")]
mod reread;
#[cfg(feature = "http")]
mod response_body;
#[cfg(feature = "http")]
mod response_ext;
#[cfg(feature = "http")]
mod reuse;
#[cfg(feature = "http")]
mod router;
#[cfg(feature = "http")]
mod served;
mod stack;
#[cfg(feature = "tonic")]
mod status;
#[cfg(feature = "http")]
mod upload;
#[cfg(feature = "http")]
mod uri;

pub use self::stack::{Built, Handles, NoBreaker, Outermost, Stack, Stacked};
#[cfg(feature = "http")]
pub use self::{
    body::{HttpBody, HttpBodyError},
    error::HttpError,
    http::HttpEndpoints,
    http_client::{HttpClient, HttpFuture},
    http_service::{HttpService, HttpServiceFuture, HttpTemplate},
    response_body::ResponseBody,
    response_ext::{ReadError, ResponseExt},
    router::{
        OrElse, OrElseFuture, Router, RouterBuilder, RouterError, RouterFuture, RouterLayer,
        Unknown,
    },
    served::Served,
};
#[cfg(feature = "tonic")]
pub use self::{
    grpc::GrpcEndpoints,
    grpc_call::{GrpcClient, GrpcFuture},
    grpc_channel::{GrpcChannel, GrpcChannelFuture, GrpcTemplate},
    status::{StatusFuture, StatusLayer, WithStatus, to_status},
};
