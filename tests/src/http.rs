//! A plain HTTP/1.1 client on a bare socket, so that a test can also be a client that misbehaves.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use crate::wait::PATIENCE;

/// A request as it goes over the wire.
#[derive(Clone, Debug)]
pub struct Request {
    method: String,
    path: String,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
}

impl Request {
    /// With a method and a path, taken literally.
    pub fn new(method: &str, path: &str) -> Self {
        Self { method: method.into(), path: path.into(), headers: Vec::new(), body: Vec::new() }
    }

    /// A GET.
    pub fn get(path: &str) -> Self {
        Self::new("GET", path)
    }

    /// A call of a handler.
    pub fn call(handler: &str, event: &Value) -> Self {
        Self::new("POST", &format!("/run/{handler}")).body(event.to_string())
    }

    /// With a header more.
    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.into(), value.into()));
        self
    }

    /// With a body.
    pub fn body(mut self, body: impl Into<Vec<u8>>) -> Self {
        self.body = body.into();
        self
    }

    /// The bytes up to the body, of a request that is the last of its connection.
    pub fn head(&self) -> Vec<u8> {
        self.head_with("Connection: close\r\n")
    }

    /// All of its bytes, for a connection that is kept.
    pub fn kept(&self) -> Vec<u8> {
        [&self.head_with("")[..], &self.body].concat()
    }

    fn head_with(&self, connection: &str) -> Vec<u8> {
        let Self { method, path, headers, body } = self;
        let host = if headers.iter().any(|(name, _)| name == "Host") { "" } else { "Host: test\r\n" };
        let mut head = format!("{method} {path} HTTP/1.1\r\n{host}{connection}");
        for (name, value) in headers {
            head += &format!("{name}: {value}\r\n");
        }
        if !body.is_empty() {
            head += &format!("Content-Length: {}\r\n", body.len());
        }
        (head + "\r\n").into_bytes()
    }

    /// Sends it on a connection of its own, and leaves that open.
    pub fn open(&self, port: u16) -> Result<TcpStream> {
        self.open_to(SocketAddr::from((Ipv4Addr::LOCALHOST, port)))
    }

    fn open_to(&self, to: SocketAddr) -> Result<TcpStream> {
        let mut stream = connect_to(to)?;
        stream.write_all(&self.head())?;
        // A server that refuses a long body may close before it is all sent; its answer is still to be read.
        let _ = stream.write_all(&self.body);
        Ok(stream)
    }

    /// Sends it and reads the response.
    pub fn send(&self, port: u16) -> Result<Response> {
        self.send_to(SocketAddr::from((Ipv4Addr::LOCALHOST, port)))
    }

    /// Sends it somewhere else than to this machine and reads the response.
    pub fn send_to(&self, to: SocketAddr) -> Result<Response> {
        Response::read(self.open_to(to)?).with_context(|| format!("{} {} on {to}", self.method, self.path))
    }
}

/// A connection to a port of this machine on which nothing blocks for ever.
pub fn connect(port: u16) -> Result<TcpStream> {
    connect_to(SocketAddr::from((Ipv4Addr::LOCALHOST, port)))
}

fn connect_to(to: SocketAddr) -> Result<TcpStream> {
    let stream = TcpStream::connect_timeout(&to, PATIENCE).with_context(|| format!("connect to {to}"))?;
    stream.set_read_timeout(Some(PATIENCE * 2))?;
    stream.set_write_timeout(Some(PATIENCE * 2))?;
    Ok(stream)
}

/// A response, read to its end.
#[derive(Clone, Debug)]
pub struct Response {
    /// The status code.
    pub status: u16,
    headers: Vec<(String, String)>,
    /// The body, without chunk framing.
    pub body: Vec<u8>,
}

impl Response {
    /// Reads until the server closes.
    pub fn read(mut stream: TcpStream) -> Result<Self> {
        let mut bytes = Vec::new();
        match stream.read_to_end(&mut bytes) {
            // A reset after the answer, as the server did not read all we sent, does not take it back.
            Err(error) if bytes.is_empty() => return Err(error.into()),
            _ => {}
        }
        let end = bytes.windows(4).position(|w| w == b"\r\n\r\n").context("no response")?;
        let mut response = Self::parse_head(std::str::from_utf8(&bytes[..end])?)?;
        let body = &bytes[end + 4..];
        let chunked = response.header("transfer-encoding") == Some("chunked");
        response.body = if chunked { unchunk(body)? } else { body.to_vec() };
        Ok(response)
    }

    /// A response without its body.
    pub fn parse_head(head: &str) -> Result<Self> {
        let mut lines = head.split("\r\n");
        let status =
            lines.next().and_then(|line| line.split(' ').nth(1)).context("no status line")?.parse()?;
        let headers: Vec<(String, String)> = lines
            .filter_map(|line| line.split_once(':'))
            .map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned()))
            .collect();
        Ok(Self { status, headers, body: Vec::new() })
    }

    /// A header's value.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(n, _)| n == name).map(|(_, value)| value.as_str())
    }

    /// The body as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The body as JSON.
    pub fn json(&self) -> Result<Value> {
        serde_json::from_slice(&self.body).with_context(|| format!("no JSON: {}", self.text()))
    }

    /// The body as JSON, if the status is 200.
    pub fn ok(&self) -> Result<Value> {
        ensure!(self.status == 200, "status {}: {}", self.status, self.text());
        self.json()
    }

    /// Checks that this is an error of ours, complete, with this status and reason; gives its message.
    pub fn error(&self, status: u16, reason: &str) -> Result<String> {
        ensure!(self.status == status, "status {} instead of {status}: {}", self.status, self.text());
        let body = self.json()?;
        ensure!(body["reason"] == reason, "reason {} instead of {reason}: {body}", body["reason"]);
        let id = body["requestId"].as_str().unwrap_or_default();
        ensure!(
            !id.is_empty() && self.header("x-request-id") == Some(id),
            "the request id is missing: {body}"
        );
        body["message"].as_str().map(str::to_owned).context("no message")
    }
}

fn unchunk(mut rest: &[u8]) -> Result<Vec<u8>> {
    let mut body = Vec::new();
    loop {
        let end = rest.windows(2).position(|w| w == b"\r\n").context("a chunk without a length")?;
        let size = usize::from_str_radix(std::str::from_utf8(&rest[..end])?.trim(), 16)?;
        rest = &rest[end + 2..];
        if size == 0 {
            return Ok(body);
        }
        if rest.len() < size + 2 {
            bail!("the response ends within a chunk");
        }
        body.extend_from_slice(&rest[..size]);
        rest = &rest[size + 2..];
    }
}
