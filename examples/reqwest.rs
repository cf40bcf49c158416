//! reqwest's client as the service of each endpoint, under this crate's balancer and retries:
//! `cargo run --example reqwest -- consul: user-service`

use std::convert::Infallible;

use http::Response;
use reqwest::{Body, Client};
use tower::{ServiceExt, service_fn};
use tower_roster::{
    BoxError, Instance,
    classify::Http,
    client::{ResponseExt, Stack},
    registry,
};

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    let mut arguments = std::env::args().skip(1);
    let url = arguments.next().unwrap_or("consul:".into());
    let service = arguments.next().unwrap_or("user-service".into());

    let reqwest = Client::new();
    let endpoints = move |instance: &Instance| {
        let (client, address) = (reqwest.clone(), instance.address.clone());
        Ok::<_, Infallible>(service_fn(move |path: String| {
            let sent = client.get(format!("http://{address}{path}")).send();
            async { sent.await.map(Response::<Body>::from) }
        }))
    };
    let discover = registry::connect(&url)?.watch(service)?.discover(endpoints);
    let client = Stack::cloned(Http::default()).build(discover)?.service;
    let response = client.oneshot("/".to_owned()).await?;
    println!(
        "{} {}",
        response.status(),
        response.text(64 * 1024).await?.trim()
    );
    Ok(())
}
