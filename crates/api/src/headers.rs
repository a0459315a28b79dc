//! Names of the HTTP headers OpenLambda reads or writes, in lower case as `http::HeaderName` wants them.

/// Correlates one call through lard, agent, handler and logs. Honoured if the caller sends one, else minted; on every response.
pub const REQUEST_ID: &str = "x-request-id";
/// The load report of an agent on each of its responses; lard reads and strips it. The name is that of the ORCA
/// standard of xDS (`TEXT` encoding).
pub const LOAD_METRICS: &str = "endpoint-load-metrics";
/// The digest of the packages that the handler which answered has, if it has any, on each of its responses; lard reads
/// and strips it. So lard knows what meets without asking.
pub const PACKAGES: &str = "x-packages";
/// How the call started: `warm`, `unpaused`, `spare`, `zygote` or `cold`. Only when the worker's `response_details` is on.
pub const START_KIND: &str = "x-start-kind";
/// Milliseconds per phase of the call, in the W3C Server-Timing format. Only when the worker's `response_details` is on.
pub const SERVER_TIMING: &str = "server-timing";
/// The caller's own time limit (a duration such as `1500ms` or `2s`); may only shorten the handler's.
pub const TIMEOUT: &str = "x-timeout";
/// The longest request id that is honoured, in bytes; a longer or non-printable one is replaced.
pub const REQUEST_ID_MAX: usize = 128;
