//! Requests to the members of a cluster, one member at a time, with a token where the cluster asks for
//! one.

use std::{sync::Arc, time::Duration};

use http::{HeaderName, HeaderValue, Method, header};
use serde::de::DeserializeOwned;
use serde_json::Value;
use tokio::{sync::Mutex, time::timeout};

use super::wire::{Failure, TokenReply};
use crate::{
    error::{ErrorKind, RegistryError},
    registry::{
        decoding::decoded,
        http::{Lines, Opened, RegistryHttp, Reply, Request},
        redact::Secrets,
    },
};

/// Codes of gRPC that etcd uses.
pub(super) mod code {
    pub(in super::super) const INVALID_ARGUMENT: i64 = 3;
    pub(in super::super) const NOT_FOUND: i64 = 5;
    pub(in super::super) const PERMISSION_DENIED: i64 = 7;
    pub(in super::super) const RESOURCE_EXHAUSTED: i64 = 8;
    pub(in super::super) const FAILED_PRECONDITION: i64 = 9;
    pub(in super::super) const OUT_OF_RANGE: i64 = 11;
    pub(in super::super) const UNIMPLEMENTED: i64 = 12;
    pub(in super::super) const UNAUTHENTICATED: i64 = 16;
}

/// The path of the only requests whose reply may be long.
pub(super) const RANGE: &str = "/v3/kv/range";

/// Makes etcd end a watch when its member loses the leader; without it, the watch is silent (ED3).
const HAS_LEADER: HeaderName = HeaderName::from_static("grpc-metadata-hasleader");

/// The longest line of a watch. etcd sends up to 1,000 revisions in one line, of any size (ED16).
const LONGEST_LINE: usize = 32 << 20;

/// What all watches and registrations of one backend share.
pub(super) struct Cluster {
    http: RegistryHttp,
    login: Option<Login>,
    timeout: Duration,
}

/// A user, and the token of that user.
struct Login {
    name: String,
    password: String,
    token: Mutex<Token>,
}

#[derive(Clone, PartialEq)]
enum Token {
    /// The next request has to ask for one.
    None,
    Given(HeaderValue),
    /// The cluster asks no client for a token.
    Needless,
}

impl Cluster {
    pub(super) fn new(
        http: RegistryHttp,
        user: Option<(String, String)>,
        timeout: Duration,
    ) -> Self {
        let login = user.map(|(name, password)| Login {
            name,
            password,
            token: Mutex::new(Token::None),
        });
        Self {
            http,
            login,
            timeout,
        }
    }

    /// A client for reads.
    pub(super) fn client(self: &Arc<Self>) -> EtcdClient {
        self.client_within(self.timeout)
    }

    /// A client for requests that take at most this long.
    pub(super) fn client_within(self: &Arc<Self>, within: Duration) -> EtcdClient {
        let within = within.min(self.timeout);
        EtcdClient {
            cluster: Arc::clone(self),
            within,
            patience: within,
            least: within,
            member: 0,
        }
    }
}

/// An error, and etcd's code if etcd itself answered.
#[derive(Debug)]
pub(super) struct CallError {
    pub(super) code: i64,
    pub(super) error: RegistryError,
}

impl From<CallError> for RegistryError {
    fn from(failed: CallError) -> Self {
        failed.error
    }
}

impl From<RegistryError> for CallError {
    fn from(error: RegistryError) -> Self {
        Self { code: 0, error }
    }
}

/// The requests of one watch or registration.
pub(super) struct EtcdClient {
    cluster: Arc<Cluster>,
    within: Duration,
    /// The time limit of the next request: `least` at first, and twice as long after each timeout, up to
    /// `within`.
    patience: Duration,
    least: Duration,
    /// The member to use, modulo their number.
    member: usize,
}

impl EtcdClient {
    /// The longest time limit of a request.
    pub(super) fn within(&self) -> Duration {
        self.within
    }

    /// Gives up a member that is silent sooner, if there is another one. A write that a follower forwards
    /// to a leader that has just died is lost, and the follower is silent about it for 7 s, while the next
    /// attempt succeeds as soon as there is a new leader.
    pub(super) fn impatient(mut self, least: Duration) -> Self {
        if self.cluster.http.members() > 1 {
            self.least = least.min(self.within);
            self.patience = self.least;
        }
        self
    }

    /// Turns to the next member, where the error is about this one (ED10).
    pub(super) fn failed(&mut self, error: &RegistryError) {
        if error.kind() == ErrorKind::Timeout {
            self.patience = (self.patience * 2).min(self.within);
        }
        if error.is_unreachable()
            || matches!(error.kind(), ErrorKind::Limited | ErrorKind::Malformed)
        {
            self.member = self.member.wrapping_add(1);
        }
    }

    /// Sends a request and reads the reply, with a token if the cluster wants one.
    pub(super) async fn call<T: DeserializeOwned + Send + 'static>(
        &mut self,
        path: &'static str,
        body: &Value,
    ) -> Result<T, CallError> {
        let outcome = match self.exchange(path, body, Wanted::Reply).await {
            Ok(Opened::Reply(reply)) => read(reply).await,
            Ok(Opened::Lines(_)) => {
                let what = "a stream in place of a reply";
                Err(RegistryError::new(ErrorKind::Internal, what).into())
            }
            Err(failed) => Err(failed),
        };
        self.note(outcome)
    }

    /// Sends a request about a lease. It needs no token, so a token that etcd refuses costs no lease.
    pub(super) async fn call_lease<T: DeserializeOwned + Send + 'static>(
        &mut self,
        path: &'static str,
        body: &Value,
    ) -> Result<T, CallError> {
        let outcome = match self.send(self.request(path, body, None)).await {
            Ok(reply) => read(reply).await,
            Err(failed) => Err(failed),
        };
        self.note(outcome)
    }

    /// Opens a watch.
    pub(super) async fn watch(&mut self, body: &Value) -> Result<Lines, CallError> {
        let outcome = self.exchange("/v3/watch", body, Wanted::Lines).await;
        let outcome = outcome.and_then(|opened| match opened {
            Opened::Lines(lines) => Ok(lines),
            // ED15: the body has one form in 3.4 and another in 3.5.
            Opened::Reply(reply) => Err(refusal(reply)),
        });
        self.note(outcome)
    }

    /// Makes the next request ask for a new token. Returns whether that can help: not if there is no
    /// user, or the token was new.
    pub(super) async fn renew_token(&self) -> bool {
        match &self.cluster.login {
            None => false,
            Some(login) => {
                let known = login.token.lock().await.clone();
                login.forget(&known).await;
                matches!(known, Token::Given(_) | Token::Needless)
            }
        }
    }

    fn note<T>(&mut self, outcome: Result<T, CallError>) -> Result<T, CallError> {
        match &outcome {
            Ok(_) => self.patience = self.least,
            Err(failed) => self.failed(&failed.error),
        }
        outcome
    }

    fn request(&self, path: &str, body: &Value, token: Option<HeaderValue>) -> Request {
        let request = Request::new(Method::POST, path, self.patience);
        let mut request = request.json(body.to_string());
        if path == RANGE {
            request = request.listing();
        }
        // The bare token: etcd takes `Bearer` for a part of it.
        let token = token.map(|token| (header::AUTHORIZATION, token));
        request.headers.extend(token);
        request
    }

    async fn send(&self, request: Request) -> Result<Reply, CallError> {
        let reply = self.cluster.http.send(self.member, request).await?;
        match reply.status.is_success() {
            true => Ok(reply),
            false => Err(refusal(reply)),
        }
    }

    async fn attempt(
        &self,
        path: &str,
        body: &Value,
        token: Option<HeaderValue>,
        wanted: Wanted,
    ) -> Result<Opened, CallError> {
        let mut request = self.request(path, body, token);
        match wanted {
            Wanted::Reply => self.send(request).await.map(Opened::Reply),
            Wanted::Lines => {
                let yes = HeaderValue::from_static("true");
                request.headers.push((HAS_LEADER, yes));
                let http = &self.cluster.http;
                match http.open(self.member, request, LONGEST_LINE).await? {
                    Opened::Reply(reply) => Err(refusal(reply)),
                    lines => Ok(lines),
                }
            }
        }
    }

    /// Sends with the current token, and once more with a new one if etcd refuses it (ED10).
    async fn exchange(
        &self,
        path: &str,
        body: &Value,
        wanted: Wanted,
    ) -> Result<Opened, CallError> {
        let Some(login) = &self.cluster.login else {
            return self.attempt(path, body, None, wanted).await;
        };
        let both = async {
            let token = login.token(self).await?;
            match self.attempt(path, body, token.header(), wanted).await {
                Err(failed) if is_about_token(&failed) => {}
                outcome => return outcome,
            }
            login.forget(&token).await;
            let token = login.token(self).await?;
            self.attempt(path, body, token.header(), wanted).await
        };
        timeout(self.patience, both).await.unwrap_or_else(|_| {
            let late = format!("no answer within {:?}", self.patience);
            Err(RegistryError::new(ErrorKind::Timeout, late).into())
        })
    }
}

/// What the response to a request is.
#[derive(Clone, Copy)]
enum Wanted {
    Reply,
    Lines,
}

/// The error for a code of etcd (ED14, ED15).
pub(super) fn failure(failure: &Failure, secrets: &Secrets) -> CallError {
    let kind = match failure.code {
        code::UNAUTHENTICATED | code::PERMISSION_DENIED => ErrorKind::Denied,
        code::INVALID_ARGUMENT if is_about_user(failure.text()) => ErrorKind::Denied,
        code::INVALID_ARGUMENT
        | code::NOT_FOUND
        | code::FAILED_PRECONDITION
        | code::OUT_OF_RANGE
        | code::UNIMPLEMENTED => ErrorKind::Refused,
        code::RESOURCE_EXHAUSTED if failure.text().contains("too many requests") => {
            ErrorKind::Limited
        }
        _ => ErrorKind::Unavailable,
    };
    let text = secrets.shown(failure.text());
    CallError {
        code: failure.code,
        error: RegistryError::new(kind, format!("etcd answered: {text}")),
    }
}

fn refusal(reply: Reply) -> CallError {
    if let Some(known) = Failure::parse(&reply.body) {
        return failure(&known, &reply.secrets);
    }
    let what = "a refusal with a status of success";
    let refused = reply.success().err();
    refused
        .unwrap_or_else(|| RegistryError::new(ErrorKind::Malformed, what))
        .into()
}

async fn read<T: DeserializeOwned + Send + 'static>(reply: Reply) -> Result<T, CallError> {
    let body = reply.body.clone();
    let read = decoded(body.len(), move || serde_json::from_slice(&body));
    read.await.map_err(|error| {
        let what = format!("an answer is not etcd's: {}", reply.excerpt());
        RegistryError::new(ErrorKind::Malformed, what)
            .with_source(reply.secrets.cause(error))
            .into()
    })
}

/// Whether a new token may help. A missing or old token has the code of a bad request.
fn is_about_token(failed: &CallError) -> bool {
    match failed.code {
        code::UNAUTHENTICATED => true,
        code::INVALID_ARGUMENT => failed.error.kind() == ErrorKind::Denied,
        _ => false,
    }
}

/// Whether etcd speaks of the user, the password or the token.
fn is_about_user(text: &str) -> bool {
    ["user", "auth", "token"]
        .iter()
        .any(|word| text.contains(word))
}

impl Token {
    fn header(&self) -> Option<HeaderValue> {
        match self {
            Self::Given(token) => Some(token.clone()),
            Self::None | Self::Needless => None,
        }
    }
}

impl Login {
    /// Returns the token. Of several requests without one, the first asks for it.
    async fn token(&self, client: &EtcdClient) -> Result<Token, CallError> {
        let mut token = self.token.lock().await;
        if *token == Token::None {
            *token = self.authenticate(client).await?;
        }
        Ok(token.clone())
    }

    /// Forgets a token, unless another request has replaced it already.
    async fn forget(&self, used: &Token) {
        let mut token = self.token.lock().await;
        if *token == *used {
            *token = Token::None;
        }
    }

    async fn authenticate(&self, client: &EtcdClient) -> Result<Token, CallError> {
        let body = serde_json::json!({"name": self.name, "password": self.password});
        let request = client.request("/v3/auth/authenticate", &body, None);
        // Some gateways quote the request.
        let request = request.hiding(self.password.as_str());
        let reply = match client.send(request).await {
            Err(failed) if failed.code == code::FAILED_PRECONDITION => {
                tracing::debug!("etcd asks for no user");
                return Ok(Token::Needless);
            }
            reply => reply?,
        };
        // Not with an excerpt in the error: it would hold the token.
        let given: Option<TokenReply> = serde_json::from_slice(&reply.body).ok();
        let token = given.and_then(|given| HeaderValue::from_str(&given.token).ok());
        let mut token = token.ok_or_else(|| {
            let what = "an answer to a login has no token";
            RegistryError::new(ErrorKind::Malformed, what)
        })?;
        token.set_sensitive(true);
        Ok(Token::Given(token))
    }
}
