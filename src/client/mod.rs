//! Ready-made endpoints for the protocols that people call.

mod error;
mod http;
mod kept;
mod uri;

pub use self::{
    error::HttpError,
    http::{HttpClient, HttpEndpoints, HttpFuture},
};
