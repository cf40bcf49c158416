//! What BIND cannot be made to do: silence for one question, answers that break the rules, random parts of
//! the records, an order that changes. Each test scripts a socket.

use std::{
    net::{Ipv4Addr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    time::{Duration, Instant},
};

use hickory_resolver::proto::{
    op::{Message, ResponseCode},
    rr::{
        Name, RData, Record, RecordType,
        rdata::{A, SRV},
    },
    serialize::binary::BinDecodable,
};
use tokio::net::UdpSocket;
use tower_roster::{
    error::ErrorKind,
    registry::{
        ViewState,
        dns::{DnsFamily, DnsSettings},
    },
};

use crate::{
    support::{eventually, rt},
    until, until_ids, watch,
};

const SOON: Duration = Duration::from_secs(10);

/// A name server of a script: what to send for the question with this number and this text.
struct Fake {
    addr: SocketAddr,
    asked: Arc<AtomicUsize>,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Fake {
    fn drop(&mut self) {
        self.task.abort();
    }
}

type Replies = Vec<Vec<u8>>;

impl Fake {
    async fn start(script: impl Fn(usize, &Message) -> Replies + Send + 'static) -> Self {
        let asked = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&asked);
        let (sender, addr) = tokio::sync::oneshot::channel();
        let task = rt().spawn(async move {
            let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
            sender.send(socket.local_addr().unwrap()).unwrap();
            let mut buffer = [0; 4_096];
            loop {
                let (length, from) = socket.recv_from(&mut buffer).await.unwrap();
                let question = Message::from_bytes(&buffer[..length]).unwrap();
                let number = count.fetch_add(1, SeqCst);
                for reply in script(number, &question) {
                    socket.send_to(&reply, from).await.unwrap();
                }
            }
        });
        let addr = addr.await.unwrap();
        Self { addr, asked, task }
    }

    fn url(&self) -> String {
        format!(
            "dns://{}/web.svc.test:80?poll=1s&timeout=300ms&family=4",
            self.addr
        )
    }

    fn asked(&self) -> usize {
        self.asked.load(SeqCst)
    }
}

/// An answer with these records.
pub(crate) fn answer(
    question: &Message,
    ttl: u32,
    records: impl IntoIterator<Item = RData>,
) -> Message {
    let mut reply = Message::response(question.metadata.id, question.metadata.op_code);
    reply.metadata.authoritative = true;
    let query = question.queries[0].clone();
    for data in records {
        reply.add_answer(Record::from_rdata(query.name().clone(), ttl, data));
    }
    reply.add_query(query);
    reply
}

pub(crate) fn hosts(question: &Message, ttl: u32, last: &[u8]) -> Message {
    answer(
        question,
        ttl,
        last.iter()
            .map(|n| RData::A(A(Ipv4Addr::new(127, 0, 0, *n)))),
    )
}

fn failure(question: &Message, code: ResponseCode) -> Message {
    let mut reply = answer(question, 0, []);
    reply.metadata.response_code = code;
    reply
}

pub(crate) fn bytes(message: Message) -> Vec<u8> {
    message.to_vec().unwrap()
}

/// The same target stands twice, with two weights and two addresses. What counts of them must not depend on
/// their order.
#[tokio::test]
async fn another_order_is_no_change() {
    let fake = Fake::start(|number, question| {
        let turned = number % 4 >= 2;
        let ordered = |mut pair: [RData; 2]| {
            if turned {
                pair.reverse();
            }
            pair
        };
        let target = |weight| {
            RData::SRV(SRV::new(
                1,
                weight,
                80,
                Name::from_ascii("a.svc.test.").unwrap(),
            ))
        };
        let address = |last| RData::A(A(Ipv4Addr::new(127, 0, 0, last)));
        let records = match question.queries[0].query_type() {
            RecordType::SRV => ordered([target(3), target(7)]),
            _ => ordered([address(2), address(1)]),
        };
        vec![bytes(answer(question, 1, records))]
    })
    .await;
    let url = format!("dns+srv://{}/web.svc.test?poll=1s&family=4", fake.addr);
    let mut watch = watch(&url);
    until_ids(&mut watch, &["a.svc.test:80"]).await;
    let asked = fake.asked();
    let polls = async {
        eventually(SOON, "four more polls", || async {
            fake.asked() >= asked + 8
        })
        .await;
    };
    tokio::select! {
        changed = watch.changed() => panic!("a change: {changed:?}"),
        () = polls => {}
    }
}

#[tokio::test]
async fn instances_of_partial_answers_accumulate_and_leave_when_they_are_absent_for_long() {
    let fake = Fake::start(|number, question| {
        let part: &[u8] = match number {
            0..6 => [[1u8, 2], [3, 4], [1, 4]][number % 3].as_slice(),
            _ => &[1, 2],
        };
        vec![bytes(hosts(question, 1, part))]
    })
    .await;
    let mut watch = watch(&format!("{}&accumulate=5s", fake.url()));
    let all = [
        "127.0.0.1:80",
        "127.0.0.2:80",
        "127.0.0.3:80",
        "127.0.0.4:80",
    ];
    until_ids(&mut watch, &all).await;
    eventually(SOON, "the parts end", || async { fake.asked() >= 6 }).await;
    assert_eq!(
        watch.view().instances.len(),
        4,
        "in none of the answers all"
    );
    let start = Instant::now();
    until_ids(&mut watch, &all[..2]).await;
    // Less the time until the test saw the sixth answer, and that since the last one with these.
    assert!(
        start.elapsed() >= Duration::from_secs(3),
        "{:?}",
        start.elapsed()
    );
}

#[tokio::test]
async fn records_are_not_asked_for_again_before_they_expire() {
    let fake = Fake::start(|number, question| {
        let last = if number == 0 { [1] } else { [2] };
        vec![bytes(hosts(question, 3, &last))]
    })
    .await;
    let mut watch = watch(&fake.url());
    until_ids(&mut watch, &["127.0.0.1:80"]).await;
    let start = Instant::now();
    until_ids(&mut watch, &["127.0.0.2:80"]).await;
    let waited = start.elapsed();
    // 3 s less a tenth, and the moment until the test saw the first set.
    assert!(waited >= Duration::from_millis(2_500), "{waited:?}");
}

#[tokio::test]
async fn servers_are_asked_one_after_another_and_with_edns() {
    let unlike = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&unlike);
    let script = move |_: usize, question: &Message| {
        let absolute = question.queries[0].name() == &Name::from_ascii("web.svc.test.").unwrap();
        if question.edns.is_none() || !absolute {
            count.fetch_add(1, SeqCst);
        }
        vec![bytes(hosts(question, 1, &[1]))]
    };
    let first = Fake::start(script).await;
    let second = Fake::start(|_, question| vec![bytes(hosts(question, 1, &[2]))]).await;
    let url = format!(
        "dns://{},{}/web.svc.test:80?poll=1s&family=4",
        first.addr, second.addr
    );
    let mut watch = watch(&url);
    until_ids(&mut watch, &["127.0.0.1:80"]).await;
    eventually(SOON, "three polls", || async { first.asked() >= 3 }).await;
    assert_eq!(second.asked(), 0, "the first server answers");
    assert_eq!(
        unlike.load(SeqCst),
        0,
        "a question without EDNS, or with another name"
    );
}

/// Every answer that is no statement about the name keeps the set (DN1).
#[tokio::test]
async fn no_failure_empties_the_set() {
    type Make = fn(&Message) -> Replies;
    let failures: [(&str, ErrorKind, Make); 7] = [
        ("silence", ErrorKind::Timeout, |_| Vec::new()),
        ("SERVFAIL", ErrorKind::Unavailable, |q| {
            vec![bytes(failure(q, ResponseCode::ServFail))]
        }),
        ("REFUSED", ErrorKind::Refused, |q| {
            vec![bytes(failure(q, ResponseCode::Refused))]
        }),
        ("FORMERR", ErrorKind::Malformed, |q| {
            vec![bytes(failure(q, ResponseCode::FormErr))]
        }),
        ("another id", ErrorKind::Timeout, |q| {
            let mut reply = hosts(q, 1, &[9]);
            reply.metadata.id ^= 1;
            vec![bytes(reply)]
        }),
        ("garbage", ErrorKind::Timeout, |_| {
            vec![vec![0xff; 40], Vec::new(), vec![0; 3]]
        }),
        ("truncated, and no TCP", ErrorKind::Malformed, |q| {
            let mut reply = hosts(q, 1, &[9]);
            reply.metadata.truncation = true;
            vec![bytes(reply)]
        }),
    ];
    for (name, kind, make) in failures {
        let fake = Fake::start(move |number, question| match number {
            0 => vec![bytes(hosts(question, 1, &[1]))],
            _ => make(question),
        })
        .await;
        let mut watch = watch(&fake.url());
        until_ids(&mut watch, &["127.0.0.1:80"]).await;
        let view = until(&mut watch, name, |view| view.error.is_some()).await;
        assert_eq!(view.state, ViewState::Stale, "{name}");
        assert_eq!(view.instances.len(), 1, "{name} emptied the set");
        let error = view.error.as_ref().unwrap();
        assert!(
            error.kind() == kind || (name.starts_with("truncated") && error.is_unreachable()),
            "{name}: {error:?}"
        );
    }
}

#[tokio::test]
async fn no_such_name_is_asked_about_twice_and_then_no_more_than_each_poll() {
    let fake =
        Fake::start(|_, question| vec![bytes(failure(question, ResponseCode::NXDomain))]).await;
    let mut watch = watch(&fake.url());
    until(&mut watch, "no such name", |view| {
        view.state == ViewState::Missing
    })
    .await;
    let asked = fake.asked();
    assert!(asked >= 2, "only after a second look");
    // Each poll has two looks, a second apart, and follows a second after the one before, less a tenth.
    let start = Instant::now();
    eventually(SOON, "two more polls", || async {
        fake.asked() >= asked + 4
    })
    .await;
    assert!(
        start.elapsed() >= Duration::from_millis(2_500),
        "{:?}",
        start.elapsed()
    );
}

#[tokio::test]
async fn one_wrong_no_such_name_is_not_believed() {
    let fake = Fake::start(|number, question| match number {
        1 | 3 => vec![bytes(failure(question, ResponseCode::NXDomain))],
        _ => vec![bytes(hosts(question, 1, &[1]))],
    })
    .await;
    let mut watch = watch(&fake.url());
    until_ids(&mut watch, &["127.0.0.1:80"]).await;
    eventually(SOON, "both second looks", || async { fake.asked() >= 5 }).await;
    let view = watch.view();
    assert_eq!((view.instances.len(), view.state), (1, ViewState::Live));
}

/// Looks for `web` in two domains, which a file names.
fn searching(fake: &Fake) -> (tempfile::TempDir, tower_roster::registry::Watch) {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("resolv.conf");
    std::fs::write(&file, "search one.test two.test\n").unwrap();
    let settings = DnsSettings::addresses("{service}", 80)
        .server(fake.addr)
        .search(true)
        .resolv_conf(file)
        .family(DnsFamily::Ipv4)
        .poll(Duration::from_secs(1))
        .timeout(Duration::from_millis(300));
    let registry = tower_roster::Registry::new(settings.build().unwrap());
    (dir, registry.watch("web").unwrap())
}

/// A failure says nothing of the name, and the next one could be another service.
#[tokio::test]
async fn the_search_goes_on_after_no_such_name_and_not_after_a_failure() {
    for (code, found) in [
        (ResponseCode::NXDomain, true),
        (ResponseCode::ServFail, false),
    ] {
        let fake = Fake::start(move |_, question| {
            let name = question.queries[0].name().to_ascii();
            vec![bytes(match name.as_str() {
                "web.one.test." => failure(question, code),
                _ => hosts(question, 1, &[1]),
            })]
        })
        .await;
        let (_dir, mut watch) = searching(&fake);
        let view = until(&mut watch, "an answer", |view| {
            view.error.is_some() || !view.instances.is_empty()
        })
        .await;
        assert_eq!(!view.instances.is_empty(), found, "{code}: {view:?}");
    }
}

#[tokio::test]
async fn a_target_that_cannot_be_asked_for_keeps_its_address() {
    let fake = Fake::start(|number, question| {
        let query = &question.queries[0];
        match query.query_type() {
            RecordType::SRV => {
                let target =
                    |name: &str| RData::SRV(SRV::new(1, 1, 80, Name::from_ascii(name).unwrap()));
                vec![bytes(answer(
                    question,
                    1,
                    [target("a.svc.test."), target("b.svc.test.")],
                ))]
            }
            _ if query.name().to_ascii().starts_with('a') => {
                vec![bytes(hosts(question, 1, &[1]))]
            }
            // The address of b is known at first.
            _ if number < 4 => vec![bytes(hosts(question, 1, &[2]))],
            _ => vec![bytes(failure(question, ResponseCode::ServFail))],
        }
    })
    .await;
    let url = format!(
        "dns+srv://{}/web.svc.test?poll=1s&timeout=300ms&family=4",
        fake.addr
    );
    let mut watch = watch(&url);
    let both = ["a.svc.test:80", "b.svc.test:80"];
    until_ids(&mut watch, &both).await;
    let asked = fake.asked();
    eventually(SOON, "two more polls", || async {
        fake.asked() >= asked + 7
    })
    .await;
    let view = watch.view();
    let shown: Vec<_> = view
        .instances
        .iter()
        .map(|i| i.address.to_string())
        .collect();
    assert_eq!(shown, ["127.0.0.1:80", "127.0.0.2:80"], "{view:?}");
    assert_eq!(view.state, ViewState::Live);
}
