//! Answers that no registry gives: 20 kinds for each protocol.

use std::sync::Arc;

use crate::support::{Garbage, Then};

/// In what language the client and its registry speak.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Protocol {
    Http,
    Dns,
    Zookeeper,
}

/// How many kinds there are.
pub(crate) const KINDS: usize = 20;

impl Protocol {
    pub(crate) fn garbage(self) -> Vec<Garbage> {
        let all = match self {
            Protocol::Http => http(),
            Protocol::Dns => dns(),
            Protocol::Zookeeper => zookeeper(),
        };
        assert_eq!(all.len(), KINDS);
        all
    }
}

fn fixed(bytes: impl Into<Vec<u8>>, then: Then) -> Garbage {
    let bytes = bytes.into();
    Garbage {
        bytes: Arc::new(move |_| bytes.clone()),
        then,
    }
}

/// Bytes without a pattern, the same in each run.
fn noise(length: usize) -> Vec<u8> {
    let mut state = 0x9E37_79B9_7F4A_7C15_u64;
    let next = |_| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state as u8
    };
    (0..length).map(next).collect()
}

/// A whole answer over HTTP/1.1.
fn answer(status: &str, headers: &str, body: impl AsRef<[u8]>) -> Vec<u8> {
    let body = body.as_ref();
    let length = body.len();
    let head = format!("HTTP/1.1 {status}\r\nContent-Length: {length}\r\n{headers}\r\n");
    [head.as_bytes(), body].concat()
}

fn http() -> Vec<Garbage> {
    let json = "Content-Type: application/json\r\nX-Consul-Index: 7\r\n\
                X-Registry-Index: 7\r\nX-Registry-Epoch: 7\r\n";
    let ok = |body: &str| fixed(answer("200 OK", json, body), Then::Close);
    let page = "<html><body>Log in to the network</body></html>";
    let deep = "[".repeat(100_000);
    let chunked = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
    vec![
        fixed("", Then::Close),
        fixed("", Then::Reset),
        fixed(noise(4_096), Then::Close),
        fixed(vec![0; 64 << 10], Then::Close),
        // What a TLS server says to plain HTTP.
        fixed([0x15, 3, 1, 0, 2, 2, 0x16], Then::Close),
        fixed("SSH-2.0-OpenSSH_9.2p1\r\n", Then::Hang),
        fixed(
            format!("HTTP/1.1 200 OK\r\nX-Long: {}\r\n\r\n", "x".repeat(1 << 20)),
            Then::Close,
        ),
        fixed("HTTP/1.1 200 OK\r\nX-More: x\r\n", Then::Repeat),
        // The page of a captive portal, and one that leads elsewhere.
        fixed(
            answer("200 OK", "Content-Type: text/html\r\n", page),
            Then::Close,
        ),
        fixed(
            answer("302 Found", "Location: http://127.0.0.1:9/\r\n", page),
            Then::Close,
        ),
        ok("null"),
        ok("\"nothing\""),
        ok("[{\"Service\": 7, \"kvs\": 7, \"instances\": 7}]"),
        ok("{\"result\": \"soon\", \"exists\": \"maybe\", \"kvs\": {}"),
        ok(&deep),
        // Longer, shorter and other than announced.
        fixed(
            "HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n[",
            Then::Close,
        ),
        fixed(
            "HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n[][][][]",
            Then::Close,
        ),
        fixed(format!("{chunked}zz\r\n[]\r\n0\r\n\r\n"), Then::Close),
        fixed(
            answer("200 OK", "Content-Encoding: gzip\r\n", noise(1_000)),
            Then::Close,
        ),
        fixed(
            answer("503 Service Unavailable", "Retry-After: soon\r\n", page),
            Then::Close,
        ),
    ]
}

/// Changes the reply that a server would give if it had no records. Over TCP the two bytes of its length
/// stand before it.
fn reply(change: impl Fn(&mut Vec<u8>) + Send + Sync + 'static) -> Garbage {
    let bytes = move |query: &[u8]| {
        // A query over TCP begins with its length.
        let framed = query.len() > 2
            && usize::from(u16::from_be_bytes([query[0], query[1]])) == query.len() - 2;
        let query = if framed { &query[2..] } else { query };
        let mut reply = query.to_vec();
        if reply.len() > 3 {
            reply[2] |= 0x80;
        }
        change(&mut reply);
        match framed {
            true => [&(reply.len() as u16).to_be_bytes()[..], &reply].concat(),
            false => reply,
        }
    };
    Garbage {
        bytes: Arc::new(bytes),
        then: Then::Close,
    }
}

/// A reply with this code.
fn code(code: u8) -> Garbage {
    reply(move |reply| {
        if let Some(byte) = reply.get_mut(3) {
            *byte = code;
        }
    })
}

/// Sets the two bytes at this place.
fn set(reply: &mut [u8], at: usize, value: u16) {
    if let Some(place) = reply.get_mut(at..at + 2) {
        place.copy_from_slice(&value.to_be_bytes());
    }
}

/// A reply that says that one record follows, with these bytes as that record.
fn record(bytes: &'static [u8]) -> Garbage {
    reply(move |reply| {
        set(reply, 6, 1);
        // In the place of the additional record of the query.
        set(reply, 10, 0);
        reply.truncate(reply.len().saturating_sub(11));
        reply.extend_from_slice(bytes);
    })
}

fn dns() -> Vec<Garbage> {
    vec![
        fixed("", Then::Close),
        fixed("x", Then::Close),
        fixed(noise(512), Then::Close),
        fixed(noise(4_096), Then::Reset),
        fixed(vec![0; 1_232], Then::Close),
        fixed("HTTP/1.1 400 Bad Request\r\n\r\n", Then::Close),
        // The query itself, and the head alone.
        reply(|reply| {
            if let Some(byte) = reply.get_mut(2) {
                *byte &= 0x7F;
            }
        }),
        reply(|reply| reply.truncate(12)),
        reply(|reply| reply.truncate(reply.len() / 2)),
        // Of another query: the id, the name.
        reply(|reply| set(reply, 0, 0x4242)),
        reply(|reply| {
            if let Some(byte) = reply.get_mut(14) {
                *byte ^= 1;
            }
        }),
        // Format error, server failure, not implemented, refused, and a code that there is not.
        code(1),
        code(2),
        code(4),
        code(5),
        code(15),
        // More records than there are.
        reply(|reply| set(reply, 6, u16::MAX)),
        // A name that points at itself, a record of 65,535 bytes, an address of three.
        record(&[0xC0, 0xFF, 0, 33, 0, 1, 0, 0, 0, 1, 0, 6]),
        record(&[0xC0, 12, 0, 33, 0, 1, 0, 0, 0, 1, 0xFF, 0xFF, 1]),
        record(&[0xC0, 12, 0, 1, 0, 1, 0, 0, 0, 1, 0, 3, 127, 0, 0]),
    ]
}

/// A frame of ZooKeeper: its length, and these parts.
fn frame(parts: &[&[u8]]) -> Vec<u8> {
    let body = parts.concat();
    [&(body.len() as u32).to_be_bytes()[..], &body].concat()
}

/// The reply to a connect: the timeout that was granted, a session, and its password.
fn connected(timeout: i32, session: i64, password: &[u8]) -> Vec<u8> {
    let length = (password.len() as u32).to_be_bytes();
    let (timeout, session) = (timeout.to_be_bytes(), session.to_be_bytes());
    frame(&[&[0; 4], &timeout, &session, &length, password, &[0]])
}

/// The head of a reply: the number of the request, a transaction, an error.
fn head(xid: i32, zxid: i64, error: i32) -> Vec<u8> {
    let (xid, zxid) = (xid.to_be_bytes(), zxid.to_be_bytes());
    [&xid[..], &zxid, &error.to_be_bytes()].concat()
}

fn zookeeper() -> Vec<Garbage> {
    let good = connected(10_000, 0x7777, &[7; 16]);
    let then = |bytes: &[u8]| fixed([&good[..], bytes].concat(), Then::Close);
    let watch = head(-1, -1, 0);
    vec![
        fixed("", Then::Close),
        fixed("", Then::Reset),
        fixed(noise(4_096), Then::Close),
        fixed(vec![0; 64 << 10], Then::Close),
        fixed([0x15, 3, 1, 0, 2, 2, 0x16], Then::Close),
        fixed("SSH-2.0-OpenSSH_9.2p1\r\n", Then::Hang),
        fixed("HTTP/1.1 400 Bad Request\r\n\r\n", Then::Close),
        // Lengths: the longest, a negative one, one without its bytes, one that never ends.
        fixed(i32::MAX.to_be_bytes(), Then::Hang),
        fixed((-1_i32).to_be_bytes(), Then::Hang),
        fixed([0, 0, 0, 40, 1, 2, 3], Then::Close),
        fixed([0x7F; 4_096], Then::Repeat),
        // Connects: cut short, with no time, with a password of two gigabytes.
        fixed(frame(&[&[0; 4], &[0; 4]]), Then::Close),
        fixed(connected(-1, -1, &[0; 16]), Then::Close),
        fixed(frame(&[&[0; 16], &i32::MAX.to_be_bytes()]), Then::Close),
        fixed(good.clone(), Then::Hang),
        // After a good connect: a reply that nobody asked for, an unknown error, events that are none.
        then(&frame(&[&head(4_242, 1, 0)])),
        then(&frame(&[&head(1, i64::MIN, -9_999)])),
        then(&frame(&[&watch, &[0xFF; 8]])),
        then(&frame(&[
            &watch,
            &[0, 0, 0, 4, 0, 0, 0, 3, 0, 0, 0, 2, 0xC3, 0x28],
        ])),
        then(&frame(&[
            &head(1, 1, 0),
            &i32::MAX.to_be_bytes(),
            &[0xFF; 1_000],
        ])),
    ]
}
