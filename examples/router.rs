//! Calls many services by the names in URIs: `cargo run --example router -- consul: http://user-service/ …`

use std::time::Duration;

use tower_roster::{
    BoxError,
    client::{HttpEndpoints, ResponseExt, Router, Stack},
    registry,
};

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    let mut arguments = std::env::args().skip(1);
    let url = arguments.next().unwrap_or("consul:".into());

    let usual = Stack::http().timeout(Duration::from_secs(2));
    let slow = usual.clone().timeout(Duration::from_secs(20)).hedge(None);
    let router: Router = Router::builder(&registry::connect(&url)?)
        .template(usual.over(HttpEndpoints::new()))
        .service("report-service", slow.over(HttpEndpoints::new()))
        .build()?;
    for uri in arguments {
        match router.get(&*uri).await {
            Ok(response) => println!("{uri}: {}", response.text(64 * 1024).await?.trim()),
            Err(error) => println!("{uri}: {error}"),
        }
    }
    Ok(())
}
