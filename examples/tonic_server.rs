//! A tonic server that announces itself: `cargo run --features tonic --example tonic_server -- consul: greeter 0.0.0.0:50051`

#[path = "common/hello.rs"]
mod hello;

use hello::{HelloReply, HelloRequest, greeter_server::*};
use tonic::transport::server::{Server, TcpIncoming};
use tonic::{Request, Response, Status};
use tower_roster::{BoxError, registry};

struct Polite;

#[tonic::async_trait]
impl Greeter for Polite {
    async fn say_hello(&self, r: Request<HelloRequest>) -> Result<Response<HelloReply>, Status> {
        let message = format!("hello, {}", r.into_inner().name);
        Ok(Response::new(HelloReply { message }))
    }
}

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    let usage = "give: URL SERVICE ADDRESS";
    let [url, service, listen] = [1, 2, 3].map(|n| std::env::args().nth(n).expect(usage));

    let listener = tokio::net::TcpListener::bind(listen).await?;
    let server = registry::connect(&url)?.announce(service, &listener)?;
    let tonic = Server::builder().add_service(GreeterServer::new(Polite));
    let incoming = TcpIncoming::from(listener);
    let serve = server.serve(|leave| tonic.serve_with_incoming_shutdown(incoming, leave));
    serve.await?;
    Ok(())
}
