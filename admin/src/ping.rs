//! Asks a process of the cluster for its `/status`.

use std::time::Duration;

/// What it said.
#[derive(Debug)]
pub struct Answer {
    /// The HTTP status.
    pub status: u16,
    /// The status with its usual words, such as `200 OK`.
    pub status_line: String,
    /// The body without the newline at its end.
    pub body: String,
}

/// The URL that [`ask`] gets.
pub fn url(base: &str) -> String {
    format!("{base}/status")
}

/// The longest answer that is read.
const LIMIT: u64 = 64 << 20;

/// Gets `/status` of a base URL; the error says why there is no answer.
pub fn ask(base: &str, timeout: Duration) -> Result<Answer, String> {
    get(&url(base), timeout)
}

/// Gets a URL of a process of the cluster.
pub fn get(url: &str, timeout: Duration) -> Result<Answer, String> {
    read(agent(timeout).get(url).call())
}

/// Posts nothing to a URL of a process of the cluster.
pub fn post(url: &str, timeout: Duration) -> Result<Answer, String> {
    read(agent(timeout).post(url).send_empty())
}

/// A client for processes of this machine.
pub fn agent(timeout: Duration) -> ureq::Agent {
    ureq::Agent::config_builder()
        .timeout_global(Some(timeout))
        .http_status_as_error(false)
        // The process is on this machine: a proxy from the environment would not find it.
        .proxy(None)
        .max_redirects(0)
        .build()
        .into()
}

fn read(response: Result<ureq::http::Response<ureq::Body>, ureq::Error>) -> Result<Answer, String> {
    let mut response = response.map_err(|error| error.to_string())?;
    let body =
        response.body_mut().with_config().limit(LIMIT).read_to_string().map_err(|error| error.to_string())?;
    let status = response.status();
    Ok(Answer { status: status.as_u16(), status_line: status.to_string(), body: body.trim_end().to_owned() })
}
