//! ZooKeeper's protocol, *jute*: the requests and the replies that this backend needs.
//!
//! A frame is a length of four bytes, and that many bytes. Numbers are big-endian. Text and bytes have a
//! length of four bytes before them, which is −1 for none. A request is a number (*xid*), the code of its
//! operation and its fields; a reply is that number, the id of the last transaction (*zxid*), an error
//! code, and, without an error, its fields.
//!
//! Nothing here trusts a length: each is compared with what is there.

use std::fmt;

use crate::registry::decoding::MOST_RECORDS;

/// Numbers of frames that answer no request of a caller.
pub mod xid {
    /// An event of a watch.
    pub const EVENT: i32 = -1;
    /// The answer to a ping.
    pub const PING: i32 = -2;
    /// The answer to credentials.
    pub const AUTH: i32 = -4;
}

mod op {
    pub(super) const CREATE: i32 = 1;
    pub(super) const DELETE: i32 = 2;
    pub(super) const EXISTS: i32 = 3;
    pub(super) const GET_DATA: i32 = 4;
    pub(super) const SET_DATA: i32 = 5;
    pub(super) const SYNC: i32 = 9;
    pub(super) const PING: i32 = 11;
    pub(super) const GET_CHILDREN: i32 = 12;
    pub(super) const CHECK: i32 = 13;
    pub(super) const MULTI: i32 = 14;
    pub(super) const CREATE_2: i32 = 15;
    pub(super) const REMOVE_WATCHES: i32 = 18;
    pub(super) const AUTH: i32 = 100;
    pub(super) const CLOSE: i32 = -11;
    pub(super) const ERROR: i32 = -1;
}

/// The code of an error that a server reports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Code(pub i32);

impl Code {
    pub(super) const UNIMPLEMENTED: Self = Self(-6);
    pub(super) const BAD_ARGUMENTS: Self = Self(-8);
    pub(super) const NO_NODE: Self = Self(-101);
    pub(super) const NO_AUTH: Self = Self(-102);
    pub(super) const BAD_VERSION: Self = Self(-103);
    pub(super) const NO_CHILDREN_FOR_EPHEMERALS: Self = Self(-108);
    pub(super) const NODE_EXISTS: Self = Self(-110);
    pub(super) const SESSION_EXPIRED: Self = Self(-112);
    pub(super) const INVALID_ACL: Self = Self(-114);
    pub(super) const AUTH_FAILED: Self = Self(-115);
    pub(super) const SESSION_MOVED: Self = Self(-118);
    pub(super) const NEEDS_SASL: Self = Self(-124);
    pub(super) const QUOTA_EXCEEDED: Self = Self(-125);
    pub(super) const THROTTLED: Self = Self(-127);
    /// Of an operation in a transaction that another operation made fail.
    const NOT_DONE: Self = Self(-2);
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = match *self {
            Self::UNIMPLEMENTED => "Unimplemented",
            Self::BAD_ARGUMENTS => "BadArguments",
            Self::NO_NODE => "NoNode",
            Self::NO_AUTH => "NoAuth",
            Self::BAD_VERSION => "BadVersion",
            Self::NO_CHILDREN_FOR_EPHEMERALS => "NoChildrenForEphemerals",
            Self::NODE_EXISTS => "NodeExists",
            Self::SESSION_EXPIRED => "SessionExpired",
            Self::INVALID_ACL => "InvalidACL",
            Self::AUTH_FAILED => "AuthFailed",
            Self::SESSION_MOVED => "SessionMoved",
            Self::NEEDS_SASL => "SessionClosedRequireSaslAuth",
            Self::QUOTA_EXCEEDED => "QuotaExceeded",
            Self::THROTTLED => "ThrottledOp",
            Self(code) => return write!(f, "error {code}"),
        };
        f.write_str(name)
    }
}

/// Why a frame cannot be decoded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Malformed(pub(super) String);

impl fmt::Display for Malformed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Malformed {}

/// Who may do what with a node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum ZookeeperAcl {
    /// Anyone may do anything, as with Curator by default.
    #[default]
    Open,
    /// Anyone may read, and the user of the session may do anything.
    Readable,
    /// The user of the session may do anything, and nobody else.
    Creator,
}

const READ: i32 = 1;
const ALL: i32 = 31;

impl ZookeeperAcl {
    fn write(self, body: &mut Body) {
        let anyone = |perms| (perms, "world", "anyone");
        let creator = (ALL, "auth", "");
        let entries: &[(i32, &str, &str)] = match self {
            Self::Open => &[anyone(ALL)],
            Self::Readable => &[anyone(READ), creator],
            Self::Creator => &[creator],
        };
        body.length(entries.len());
        for (perms, scheme, id) in entries {
            body.int(*perms);
            body.text(scheme);
            body.text(id);
        }
    }
}

/// A request without its number: an operation and its fields. No `Debug`, because it may be a login.
#[derive(Default)]
pub(super) struct Body(Vec<u8>);

impl Body {
    fn of(operation: i32) -> Self {
        let mut body = Self::default();
        body.int(operation);
        body
    }

    fn int(&mut self, value: i32) {
        self.0.extend(value.to_be_bytes());
    }

    fn long(&mut self, value: i64) {
        self.0.extend(value.to_be_bytes());
    }

    fn flag(&mut self, value: bool) {
        self.0.push(u8::from(value));
    }

    /// What is longer is refused by every server anyway.
    fn length(&mut self, length: usize) {
        self.int(i32::try_from(length).unwrap_or(i32::MAX));
    }

    fn bytes(&mut self, bytes: &[u8]) {
        self.length(bytes.len());
        self.0.extend(bytes);
    }

    fn text(&mut self, text: &str) {
        self.bytes(text.as_bytes());
    }

    fn header(&mut self, operation: i32, done: bool) {
        self.int(operation);
        self.flag(done);
        self.int(-1);
    }

    /// The first request of a connection. It has no number.
    pub(super) fn connect(timeout_ms: i32, session: i64, password: &[u8]) -> Self {
        let mut body = Self::default();
        body.int(0);
        // The last transaction that was seen. A server that has seen less would refuse the connection,
        // and one that was wiped would do so for ever. So none is named, and each connection begins
        // with a `sync` instead (ZD12).
        body.long(0);
        body.int(timeout_ms);
        body.long(session);
        body.bytes(password);
        body.flag(false);
        body
    }

    pub(super) fn login(user: &str, password: &str) -> Self {
        let mut body = Self::of(op::AUTH);
        body.int(0);
        body.text("digest");
        body.text(&format!("{user}:{password}"));
        body
    }

    pub(super) fn ping() -> Self {
        Self::of(op::PING)
    }

    pub(super) fn close() -> Self {
        Self::of(op::CLOSE)
    }

    fn watched(operation: i32, path: &str, watch: bool) -> Self {
        let mut body = Self::of(operation);
        body.text(path);
        body.flag(watch);
        body
    }

    pub(super) fn exists(path: &str, watch: bool) -> Self {
        Self::watched(op::EXISTS, path, watch)
    }

    pub(super) fn get(path: &str, watch: bool) -> Self {
        Self::watched(op::GET_DATA, path, watch)
    }

    pub(super) fn children(path: &str, watch: bool) -> Self {
        Self::watched(op::GET_CHILDREN, path, watch)
    }

    pub(super) fn sync(path: &str) -> Self {
        let mut body = Self::of(op::SYNC);
        body.text(path);
        body
    }

    pub(super) fn remove_watches(path: &str) -> Self {
        /// Watches of data and of children.
        const ANY: i32 = 3;
        let mut body = Self::of(op::REMOVE_WATCHES);
        body.text(path);
        body.int(ANY);
        body
    }

    fn create_fields(&mut self, path: &str, data: &[u8], acl: ZookeeperAcl, ephemeral: bool) {
        self.text(path);
        self.bytes(data);
        acl.write(self);
        self.int(i32::from(ephemeral));
    }

    fn delete_fields(&mut self, path: &str, version: i32) {
        self.text(path);
        self.int(version);
    }

    pub(super) fn create(path: &str, data: &[u8], acl: ZookeeperAcl, ephemeral: bool) -> Self {
        let mut body = Self::of(op::CREATE);
        body.create_fields(path, data, acl, ephemeral);
        body
    }

    pub(super) fn delete(path: &str, version: i32) -> Self {
        let mut body = Self::of(op::DELETE);
        body.delete_fields(path, version);
        body
    }

    pub(super) fn set(path: &str, data: &[u8], version: i32) -> Self {
        let mut body = Self::of(op::SET_DATA);
        body.text(path);
        body.bytes(data);
        body.int(version);
        body
    }

    /// Deletes a node of this version and creates an ephemeral one in its place, in one transaction.
    pub(super) fn replace(path: &str, version: i32, data: &[u8], acl: ZookeeperAcl) -> Self {
        let mut body = Self::of(op::MULTI);
        body.header(op::DELETE, false);
        body.delete_fields(path, version);
        body.header(op::CREATE, false);
        body.create_fields(path, data, acl, true);
        body.header(-1, true);
        body
    }

    /// Appends the frame of this request.
    pub(super) fn frame(&self, xid: i32, out: &mut Vec<u8>) {
        let length = i32::try_from(self.0.len() + 4).unwrap_or(i32::MAX);
        out.extend(length.to_be_bytes());
        out.extend(xid.to_be_bytes());
        out.extend(&self.0);
    }

    /// Appends the frame of a [`connect`](Self::connect).
    pub(super) fn first_frame(&self, out: &mut Vec<u8>) {
        let length = i32::try_from(self.0.len()).unwrap_or(i32::MAX);
        out.extend(length.to_be_bytes());
        out.extend(&self.0);
    }
}

/// Reads the fields of a frame.
#[derive(Clone, Debug)]
pub struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    /// Reads what follows a frame's length.
    pub fn new(frame: &'a [u8]) -> Self {
        Self(frame)
    }

    pub(super) fn rest(&self) -> &'a [u8] {
        self.0
    }

    fn take<const N: usize>(&mut self) -> Result<[u8; N], Malformed> {
        let (taken, rest) = self
            .0
            .split_first_chunk::<N>()
            .ok_or_else(|| Malformed(format!("it ends {} bytes early", N - self.0.len())))?;
        self.0 = rest;
        Ok(*taken)
    }

    fn int(&mut self) -> Result<i32, Malformed> {
        self.take().map(i32::from_be_bytes)
    }

    fn long(&mut self) -> Result<i64, Malformed> {
        self.take().map(i64::from_be_bytes)
    }

    fn flag(&mut self) -> Result<bool, Malformed> {
        self.take::<1>().map(|[flag]| flag != 0)
    }

    fn bytes(&mut self) -> Result<&'a [u8], Malformed> {
        let length = self.int()?;
        let length = usize::try_from(length).unwrap_or(0);
        if length > self.0.len() {
            let left = self.0.len();
            return Err(Malformed(format!(
                "{length} bytes are announced, {left} are left"
            )));
        }
        let (bytes, rest) = self.0.split_at(length);
        self.0 = rest;
        Ok(bytes)
    }

    /// Reads the answer to a [`connect`](Body::connect).
    ///
    /// # Errors
    /// When the frame is too short.
    pub fn session(mut self) -> Result<Session, Malformed> {
        let _version = self.int()?;
        Ok(Session {
            timeout_ms: self.int()?,
            id: self.long()?,
            password: self.bytes()?.to_vec(),
        })
    }

    /// Reads what precedes every other answer.
    ///
    /// # Errors
    /// When the frame is too short.
    pub fn header(&mut self) -> Result<Header, Malformed> {
        Ok(Header {
            xid: self.int()?,
            zxid: self.long()?,
            code: Code(self.int()?),
        })
    }

    /// Reads an event, after its header.
    ///
    /// # Errors
    /// When the frame is too short, or its path is not UTF-8.
    pub fn event(mut self) -> Result<Event<'a>, Malformed> {
        let kind = self.int()?;
        let _state = self.int()?;
        let path = std::str::from_utf8(self.bytes()?);
        let path = path.map_err(|_| Malformed("the path of an event is not UTF-8".to_owned()))?;
        Ok(Event { kind, path })
    }

    /// Reads the answer to an `exists`, and the end of others.
    ///
    /// # Errors
    /// When the frame is too short.
    pub fn stat(&mut self) -> Result<Stat, Malformed> {
        let (czxid, _mzxid, _ctime, _mtime) =
            (self.long()?, self.long()?, self.long()?, self.long()?);
        let (version, cversion, _aversion) = (self.int()?, self.int()?, self.int()?);
        let owner = self.long()?;
        let (_length, _children) = (self.int()?, self.int()?);
        Ok(Stat {
            czxid,
            pzxid: self.long()?,
            version,
            cversion,
            owner,
        })
    }

    /// Reads the answer to a `getData`.
    ///
    /// # Errors
    /// When the frame is too short.
    pub fn data(mut self) -> Result<(&'a [u8], Stat), Malformed> {
        Ok((self.bytes()?, self.stat()?))
    }

    /// Reads the answer to a `getChildren2`. A name that is no UTF-8 costs itself only, so names are
    /// bytes.
    ///
    /// # Errors
    /// When the frame is too short, or has too many names.
    pub fn children(mut self) -> Result<(Vec<&'a [u8]>, Stat), Malformed> {
        let count = usize::try_from(self.int()?).unwrap_or(0);
        if count > MOST_RECORDS {
            let why = format!("it lists {count} nodes, at most {MOST_RECORDS}");
            return Err(Malformed(why));
        }
        // Each name has a length of four bytes.
        let mut names = Vec::with_capacity(count.min(self.0.len() / 4));
        for _ in 0..count {
            names.push(self.bytes()?);
        }
        Ok((names, self.stat()?))
    }

    /// Reads the answer to a transaction: the error that made it fail, if it failed.
    ///
    /// # Errors
    /// When the frame is too short, or has an operation that was not asked for.
    pub fn transaction(mut self) -> Result<Result<(), Code>, Malformed> {
        let mut failed = None;
        loop {
            let operation = self.int()?;
            let done = self.flag()?;
            let _code = self.int()?;
            if done {
                return Ok(failed.map_or(Ok(()), Err));
            }
            match operation {
                op::ERROR => {
                    let code = Code(self.int()?);
                    let cause = code != Code(0) && code != Code::NOT_DONE;
                    if cause || failed.is_none() {
                        failed = Some(code);
                    }
                }
                op::CREATE => drop(self.bytes()?),
                op::CREATE_2 => drop((self.bytes()?, self.stat()?)),
                op::SET_DATA => drop(self.stat()?),
                op::DELETE | op::CHECK => {}
                other => return Err(Malformed(format!("operation {other} was not asked for"))),
            }
        }
    }
}

/// A session. No `Debug`: whoever has its password can take it over.
#[derive(Clone)]
#[expect(missing_debug_implementations, reason = "it has a password")]
pub struct Session {
    /// The timeout in milliseconds that the server grants. Not positive if the session has expired.
    pub timeout_ms: i32,
    /// The id; zero if the session has expired.
    pub id: i64,
    /// The password.
    pub password: Vec<u8>,
}

/// What precedes every answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// The number of the request.
    pub xid: i32,
    /// The id of the last transaction that the server has carried out.
    pub zxid: i64,
    /// The error; zero if there is none.
    pub code: Code,
}

/// That something happened to a node that was watched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Event<'a> {
    /// 1 created, 2 deleted, 3 data changed, 4 children changed.
    pub kind: i32,
    /// The node.
    pub path: &'a str,
}

/// The fields of a node's state that this backend uses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stat {
    /// The transaction that created the node.
    pub czxid: i64,
    /// The transaction that last changed its list of children.
    pub pzxid: i64,
    /// The number of changes of its data.
    pub version: i32,
    /// The number of changes of its list of children.
    pub cversion: i32,
    /// The session that it ends with; zero if none.
    pub owner: i64,
}

#[cfg(test)]
mod tests;
