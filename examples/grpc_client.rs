//! Calls a greeter that a registry lists: `cargo run --features tonic --example grpc_client -- consul: greeter world`

#[path = "common/hello.rs"]
mod hello;

use hello::{HelloRequest, greeter_client::GreeterClient};
use std::time::Duration;
use tower_roster::{BoxError, client::GrpcChannel, client::Stack, registry};

struct App {
    greeter: GreeterClient<GrpcChannel>,
}

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    let usage = "give: URL SERVICE NAME";
    let [url, service, name] = [1, 2, 3].map(|n| std::env::args().nth(n).expect(usage));

    let registry = registry::connect(&url)?;
    let stack = Stack::grpc().repeatable("helloworld.Greeter");
    let greeter = GreeterClient::new(stack.connect(&registry, service)?);
    let mut app = App { greeter };

    let mut call = tonic::Request::new(HelloRequest { name });
    call.set_timeout(Duration::from_secs(2));
    let reply = app.greeter.say_hello(call).await?;
    println!("{}", reply.into_inner().message);
    Ok(())
}
