//! A router from a file, which variables of the environment may change:
//! `ROSTER__DEFAULTS__TIMEOUT=2s cargo run --example client_config --features config -- examples/client.toml`

use config::{Config, Environment, File};
use tower_roster::{
    BoxError,
    client::{Router, config::ClientConfig},
};

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    let path = std::env::args()
        .nth(1)
        .unwrap_or("examples/client.toml".into());
    // Of a file alone: toml::from_str::<ClientConfig>(&std::fs::read_to_string(&path)?)?
    let environment = Environment::with_prefix("ROSTER")
        .prefix_separator("__")
        .separator("__");
    let config = Config::builder()
        .add_source(File::with_name(&path))
        .add_source(environment)
        .build()?;
    let config: ClientConfig = config.try_deserialize()?;

    let router: Router = Router::from_config(&config)?;
    println!(
        "timeout of user-service: {:?}",
        config.service("user-service").timeout
    );
    // Later, when the file has changed, what can change while it runs:
    router.apply(&config)?;
    Ok(())
}
