//! The bounds lard works within: those of the configuration, and those that are fixed in production and shortened in
//! tests.

use std::time::Duration;

use openlambda_config::BalancerConfig;

/// The most agents that one call is tried on, as in the original.
pub const MAX_TRIES: usize = 3;

/// Times and sizes.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The longest body, in bytes (`RequestLimit`).
    pub request_limit: usize,
    /// How long a call may take, from the end of its request to the end of its answer (`Timeout`).
    pub timeout: Duration,
    /// How long a client may take to send a request's head.
    pub header_timeout: Duration,
    /// How long a client may pause within a body.
    pub body_pause: Duration,
    /// How long a client may take for a body in all.
    pub body_timeout: Duration,
    /// How long a client may take nothing of an answer.
    pub unread_timeout: Duration,
    /// What is kept of a body to be sent again; the rest is passed on as it comes.
    pub replay_limit: usize,
    /// How long nothing may pass on a connection that was upgraded.
    pub upgraded_idle: Duration,
    /// How long an agent may take to accept a connection.
    pub connect_timeout: Duration,
    /// How long an unused connection to an agent is kept.
    pub idle_timeout: Duration,
    /// An agent that has said nothing for so long is asked.
    pub poll_every: Duration,
    /// Calls in flight in all (`MaxConn`).
    pub max_conn: Option<usize>,
    /// Calls in flight to one agent that has no limit of its own (`MaxConnPerServer`).
    pub max_conn_per_agent: Option<usize>,
    /// Calls that may wait for one of these to end, or for an agent if there is none (`QueueLength`).
    pub queue_length: usize,
    /// How long one may wait (`QueueTimeout`).
    pub queue_timeout: Duration,
    /// Whether agents come and go by themselves: then a call waits for one if there is none.
    pub agents_come_and_go: bool,
    /// How long calls in flight may take to end when lard is asked to (`DrainTimeout`).
    pub drain_timeout: Duration,
    /// What is to be done when there are no agents.
    pub without_agents: &'static str,
}

impl Settings {
    /// The same, where agents come and go by themselves.
    pub fn in_kubernetes(self) -> Self {
        Self {
            connect_timeout: Duration::from_millis(700),
            agents_come_and_go: true,
            without_agents: "no pod of the agents' DaemonSet is ready",
            ..self
        }
    }
}

impl From<&BalancerConfig> for Settings {
    fn from(config: &BalancerConfig) -> Self {
        Self {
            request_limit: usize::try_from(config.request_limit.bytes()).unwrap_or(usize::MAX),
            timeout: config.timeout,
            header_timeout: Duration::from_secs(10),
            body_pause: Duration::from_secs(10),
            body_timeout: Duration::from_secs(120),
            unread_timeout: Duration::from_secs(30),
            replay_limit: 1 << 20,
            upgraded_idle: Duration::from_secs(600),
            connect_timeout: Duration::from_secs(1),
            // Agents close theirs after 10 s: one that is younger is not closed while a call is on its way.
            idle_timeout: Duration::from_secs(8),
            poll_every: Duration::from_secs(2),
            max_conn: config.max_conn.and_then(|n| usize::try_from(n).ok()),
            max_conn_per_agent: config.max_conn_per_server.and_then(|n| usize::try_from(n).ok()),
            queue_length: usize::try_from(config.queue_length).unwrap_or(usize::MAX),
            queue_timeout: config.queue_timeout.min(config.timeout),
            agents_come_and_go: false,
            drain_timeout: config.drain_timeout,
            without_agents: "name them under Servers in its configuration",
        }
    }
}
