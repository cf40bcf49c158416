//! Faults of a server over TCP, scripted: BIND cannot be made to break off in the middle of an answer.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
    time::Duration,
};

use hickory_resolver::proto::{op::Message, serialize::binary::BinDecodable};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::JoinHandle,
};
use tower_roster::registry::ViewState;

use crate::{
    fake::{bytes, hosts},
    support::rt,
    until, until_ids, watch,
};

#[derive(Clone, Copy, Debug, PartialEq)]
enum Fault {
    ResetAtOnce,
    ResetMidReply,
    EndMidReply,
    Silence,
    Truncated,
    Empty,
    Garbage,
    AnotherId,
}

/// A server that answers with one address, then fails, and answers with another one once it is healed.
struct Server {
    addr: SocketAddr,
    healed: Arc<AtomicBool>,
    task: JoinHandle<()>,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Server {
    async fn start(fault: Fault) -> Self {
        let healed = Arc::new(AtomicBool::new(false));
        let heal = Arc::clone(&healed);
        let (sender, addr) = tokio::sync::oneshot::channel();
        let task = rt().spawn(async move {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            sender.send(listener.local_addr().unwrap()).unwrap();
            let answered = Arc::new(AtomicBool::new(false));
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let (healed, answered) = (Arc::clone(&heal), Arc::clone(&answered));
                tokio::spawn(async move {
                    // It ends with the connection.
                    let _ = serve(stream, fault, &healed, &answered).await;
                });
            }
        });
        let addr = addr.await.unwrap();
        Self { addr, healed, task }
    }
}

async fn serve(
    mut stream: TcpStream,
    fault: Fault,
    healed: &AtomicBool,
    answered: &AtomicBool,
) -> std::io::Result<()> {
    loop {
        let length = stream.read_u16().await?;
        let mut question = vec![0; length.into()];
        stream.read_exact(&mut question).await?;
        let question = Message::from_bytes(&question).unwrap();
        let last = match healed.load(SeqCst) {
            true => 2,
            false => 1,
        };
        let mut reply = hosts(&question, 1, &[last]);
        let good = !answered.swap(true, SeqCst) || last == 2;
        match fault {
            Fault::Truncated if !good => reply.metadata.truncation = true,
            Fault::AnotherId if !good => reply.metadata.id ^= 1,
            _ => {}
        }
        let mut reply = bytes(reply);
        let length = u16::try_from(reply.len()).unwrap();
        let mut whole = length.to_be_bytes().to_vec();
        if !good {
            match fault {
                Fault::ResetAtOnce => {
                    stream.set_zero_linger()?;
                    return Ok(());
                }
                Fault::ResetMidReply | Fault::EndMidReply => {
                    whole.extend(&reply[..reply.len() / 2]);
                    stream.write_all(&whole).await?;
                    if fault == Fault::ResetMidReply {
                        stream.set_zero_linger()?;
                    }
                    return Ok(());
                }
                Fault::Silence => std::future::pending().await,
                Fault::Empty => {
                    stream.write_all(&[0, 0]).await?;
                    continue;
                }
                Fault::Garbage => reply.fill(0xff),
                Fault::Truncated | Fault::AnotherId => {}
            }
        }
        whole.append(&mut reply);
        stream.write_all(&whole).await?;
    }
}

#[tokio::test]
async fn no_fault_of_a_connection_empties_the_set_and_each_heals() {
    for fault in [
        Fault::ResetAtOnce,
        Fault::ResetMidReply,
        Fault::EndMidReply,
        Fault::Silence,
        Fault::Truncated,
        Fault::Empty,
        Fault::Garbage,
        Fault::AnotherId,
    ] {
        let server = Server::start(fault).await;
        let url = format!(
            "dns+tcp://{}/web.svc.test:80?poll=1s&timeout=300ms&family=4",
            server.addr
        );
        let mut watch = watch(&url);
        until_ids(&mut watch, &["127.0.0.1:80"]).await;
        let view = until(&mut watch, "an error", |view| view.error.is_some()).await;
        assert_eq!(view.state, ViewState::Stale, "{fault:?}: {view:?}");
        assert_eq!(view.instances.len(), 1, "{fault:?} emptied the set");
        server.healed.store(true, SeqCst);
        let start = std::time::Instant::now();
        let view = until_ids(&mut watch, &["127.0.0.2:80"]).await;
        assert_eq!(view.state, ViewState::Live, "{fault:?}");
        let healed = start.elapsed();
        assert!(healed < Duration::from_secs(8), "{fault:?}: {healed:?}");
    }
}
