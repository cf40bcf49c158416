//! Sends a share of the requests to instances with the metadata `version=v2`, and more while it runs:
//! `cargo run --example canary -- consul: user-service`

use tower_roster::{
    BoxError,
    balance::topology::{Guard, Shares, SplitSettings, Topology},
    client::{HttpService, Stack},
    registry,
};

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    let mut arguments = std::env::args().skip(1);
    let url = arguments.next().unwrap_or("consul:".into());
    let service = arguments.next().unwrap_or("user-service".into());

    // The guard takes the share away when the canary fails more often, or is slower, than the others.
    let split = SplitSettings::new(Shares::canary("v2", 0.01)).guard(Guard::new("v2"));
    let client: HttpService = Stack::http()
        .balance(|balance| balance.topology(Topology::new().split(split)))
        .connect(&registry::connect(&url)?, service)?;
    for share in [0.01, 0.1, 0.5, 1.0] {
        let split = client.handle().split().ok_or("it was set above")?;
        split.set(Shares::canary("v2", share))?;
        for _ in 0..100 {
            client.get("/").await?;
        }
        println!("at {share}: {:?}", split.shares());
    }
    Ok(())
}
