//! Requests of one watch to the agents of the configuration, one agent at a time.

use std::{sync::Arc, time::Duration};

use http::Method;
use tokio::time::{Instant, sleep};

use super::{options::ConsulOptions, transport::Transport, turns::Turns};
use crate::{
    error::{ErrorKind, RegistryError},
    registry::{
        decoding::decoded,
        http::{Reply, Request},
    },
};

/// The deadline of a request that does not block. It is above the 7 s for which a server waits for a
/// leader.
pub(super) const READ_WITHIN: Duration = Duration::from_secs(15);

/// The pause before a read that was refused a connection is sent again. Arbitrary: with so many blocking
/// queries, one ends every few milliseconds.
const REFUSED_PAUSE: Duration = Duration::from_millis(100);

/// Versions below these ignore `partition` and `peer`, and would return other instances.
const KNOWS_PARTITIONS: (u32, u32) = (1, 11);
const KNOWS_PEERS: (u32, u32) = (1, 13);

pub(super) struct AgentClient {
    transport: Arc<dyn Transport>,
    pub(super) turns: Arc<Turns>,
    /// The agent to use, modulo their number.
    agent: usize,
    /// Whether the version of this agent supports the options.
    suitable: bool,
}

impl AgentClient {
    pub(super) fn new(transport: Arc<dyn Transport>, turns: Arc<Turns>) -> Self {
        Self {
            transport,
            turns,
            agent: 0,
            suitable: false,
        }
    }

    /// Turns to the next agent, where the error is about this one.
    pub(super) fn failed(&mut self, error: &RegistryError) {
        let kind = error.kind();
        if error.is_unreachable() || matches!(kind, ErrorKind::Limited | ErrorKind::Malformed) {
            self.agent = self.agent.wrapping_add(1);
            self.suitable = false;
        }
    }

    /// Sends a request that does not block. If a connection is refused, it waits and sends it again:
    /// blocking queries return their connections within a round.
    pub(super) async fn get(&self, path: String) -> Result<Reply, RegistryError> {
        let _lane = self.turns.lane().await;
        let until = Instant::now() + READ_WITHIN;
        loop {
            let began = Instant::now();
            match self.send(path.clone(), READ_WITHIN).await {
                Err(error) if began < until && self.turns.is_refused(&error, began, false) => {
                    sleep(REFUSED_PAUSE).await;
                }
                reply => return reply,
            }
        }
    }

    pub(super) async fn send(
        &self,
        path: String,
        within: Duration,
    ) -> Result<Reply, RegistryError> {
        let request = Request::new(Method::GET, path, within).listing();
        let reply = self.transport.send(self.agent, request).await?;
        reply.success().map_err(|error| {
            // Old agents return 500 for a bad expression, although repeating the request never succeeds.
            let text = error.to_string();
            if !text.contains("Failed to create boolean expression evaluator") {
                return error;
            }
            let what = "the filter is no valid expression";
            RegistryError::new(ErrorKind::Refused, what).with_source(error)
        })
    }

    /// Checks that the agent's version supports the options. An older agent would return other instances
    /// instead of an error.
    pub(super) async fn check_version(
        &mut self,
        options: &ConsulOptions,
    ) -> Result<(), RegistryError> {
        let (field, least) = match (&options.peer, &options.partition) {
            (Some(_), _) => ("peer", KNOWS_PEERS),
            (None, Some(_)) => ("partition", KNOWS_PARTITIONS),
            (None, None) => return Ok(()),
        };
        if self.suitable {
            return Ok(());
        }
        #[derive(serde::Deserialize)]
        #[serde(rename_all = "PascalCase")]
        struct AgentSelf {
            config: AgentConfig,
        }
        #[derive(serde::Deserialize)]
        #[serde(rename_all = "PascalCase")]
        struct AgentConfig {
            version: String,
        }
        let reply = self.get("/v1/agent/self".to_owned()).await?;
        let Reply { body, secrets, .. } = reply;
        let bytes = body.len();
        let read = move || serde_json::from_slice::<AgentSelf>(&body);
        let agent = decoded(bytes, read).await.map_err(|error| {
            let what = "the agent does not tell its version";
            RegistryError::new(ErrorKind::Malformed, what).with_source(secrets.cause(error))
        })?;
        let version = agent.config.version;
        let mut numbers = version.split(['.', '-', '+']);
        let mut number = || {
            let number = numbers.next().and_then(|n| n.parse::<u32>().ok());
            number.unwrap_or(0)
        };
        if (number(), number()) < least {
            let (major, minor) = least;
            let version = secrets.shown(&version);
            let what = format!(
                "Consul {version} ignores {field:?} and would answer with other instances; \
                 {major}.{minor} is needed"
            );
            return Err(RegistryError::new(ErrorKind::Refused, what));
        }
        self.suitable = true;
        Ok(())
    }
}
