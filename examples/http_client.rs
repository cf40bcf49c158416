//! Calls one service by its name: `cargo run --example http_client -- consul://127.0.0.1:8500 user-service`

use tower_roster::{
    BoxError,
    client::{HttpService, ResponseExt},
    registry,
};

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    let mut arguments = std::env::args().skip(1);
    let url = arguments.next().unwrap_or("consul:".into());
    let service = arguments.next().unwrap_or("user-service".into());

    let client = HttpService::connect(&registry::connect(&url)?, service)?;
    for _ in 0..10 {
        let response = client.get("/").await?; // balanced, and repeated where that is safe
        println!(
            "{} {}",
            response.status(),
            response.text(64 * 1024).await?.trim()
        );
    }
    Ok(())
}
