//! A small HTTP/1.1 client on one kept connection: the demo's, and what all sides of a benchmark are measured with.
//!
//! It knows `Content-Length` and chunked bodies and nothing else; it is blocking, so that a call's time is the
//! server's and the kernel's.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context, Result, bail};

/// How a call started, and how long its phases took: on answers of a worker with `response_details`.
pub const START_KIND: &str = "x-start-kind";
/// See [`START_KIND`].
pub const SERVER_TIMING: &str = "server-timing";

const TIMEOUT: Duration = Duration::from_secs(60);
const HEAD_MAX: usize = 64 * 1024;

/// A request in its wire form, made once and sent often.
#[derive(Clone, Debug)]
pub struct Request(Vec<u8>);

impl Request {
    /// A POST with a JSON body.
    pub fn post(path: &str, body: &str) -> Self {
        Self::json("POST", path, body)
    }

    /// The same call with an id of its own.
    pub fn with_id(mut self, id: &str) -> Self {
        let line = self.0.windows(2).position(|pair| pair == b"\r\n").map_or(self.0.len(), |end| end + 2);
        self.0.splice(line..line, format!("X-Request-Id: {id}\r\n").into_bytes());
        self
    }

    /// Any verb, with a JSON body or none.
    pub fn json(method: &str, path: &str, body: &str) -> Self {
        Self(
            format!(
                "{method} {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
                body.len()
            )
            .into_bytes(),
        )
    }
}

/// An answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Response {
    /// The status code.
    pub status: u16,
    /// Names in lower case, with values.
    pub headers: Vec<(String, String)>,
    /// The body.
    pub body: Vec<u8>,
}

impl Response {
    /// The first header of that name.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(n, _)| n == name).map(|(_, v)| v.as_str())
    }

    /// The body as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

/// A kept connection.
pub struct Connection {
    stream: TcpStream,
    buffer: Vec<u8>,
}

impl Connection {
    /// Connects.
    pub fn open(address: SocketAddr) -> Result<Self> {
        let stream = TcpStream::connect(address).with_context(|| format!("cannot connect to {address}"))?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(TIMEOUT))?;
        stream.set_write_timeout(Some(TIMEOUT))?;
        Ok(Self { stream, buffer: Vec::with_capacity(HEAD_MAX) })
    }

    /// Sends a request and reads the whole answer.
    pub fn call(&mut self, request: &Request) -> Result<Response> {
        self.stream.write_all(&request.0).context("cannot send the request")?;
        self.read_response()
    }

    fn read_response(&mut self) -> Result<Response> {
        loop {
            let end = self.read_until(b"\r\n\r\n")?;
            let head = String::from_utf8_lossy(&self.buffer[..end]).into_owned();
            self.buffer.drain(..end);
            let mut response = parse_head(&head)?;
            if response.status < 200 {
                continue;
            }
            response.body = match response.header("content-length") {
                Some(text) => {
                    let length = text.parse().with_context(|| format!("content-length {text:?}"))?;
                    self.take(length)?
                }
                None if response.header("transfer-encoding") == Some("chunked") => self.read_chunks()?,
                None => Vec::new(),
            };
            return Ok(response);
        }
    }

    fn read_chunks(&mut self) -> Result<Vec<u8>> {
        let mut body = Vec::new();
        loop {
            let end = self.read_until(b"\r\n")?;
            let line = String::from_utf8_lossy(&self.take(end)?).trim().to_owned();
            let size = line.split(';').next().unwrap_or_default();
            let size = usize::from_str_radix(size, 16).with_context(|| format!("chunk size {line:?}"))?;
            let chunk = self.take(size + 2)?;
            if size == 0 {
                return Ok(body);
            }
            body.extend_from_slice(&chunk[..size]);
        }
    }

    fn read_until(&mut self, mark: &[u8]) -> Result<usize> {
        loop {
            if let Some(place) = self.buffer.windows(mark.len()).position(|window| window == mark) {
                return Ok(place + mark.len());
            }
            if self.buffer.len() > HEAD_MAX {
                bail!("over {HEAD_MAX} bytes without the end of a line");
            }
            self.fill()?;
        }
    }

    fn take(&mut self, length: usize) -> Result<Vec<u8>> {
        while self.buffer.len() < length {
            self.fill()?;
        }
        Ok(self.buffer.drain(..length).collect())
    }

    fn fill(&mut self) -> Result<()> {
        let mut part = [0; 16 * 1024];
        match self.stream.read(&mut part) {
            Ok(0) => bail!("the server closed the connection in the middle of an answer"),
            Ok(n) => self.buffer.extend_from_slice(&part[..n]),
            // A read with a time limit is not taken up again after a signal.
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => bail!("no answer within {TIMEOUT:?}"),
            Err(error) => return Err(error).context("cannot read the answer"),
        }
        Ok(())
    }
}

fn parse_head(head: &str) -> Result<Response> {
    let mut lines = head.split("\r\n");
    let first = lines.next().unwrap_or_default();
    let status =
        first.strip_prefix("HTTP/1.").and_then(|rest| rest.get(2..5)).and_then(|code| code.parse().ok());
    let status = status.with_context(|| format!("no HTTP/1 answer: {first:?}"))?;
    let headers = lines
        .filter_map(|line| line.split_once(':'))
        .map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned()))
        .collect();
    Ok(Response { status, headers, body: Vec::new() })
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    fn answered(bytes: &'static [u8], calls: usize) -> Vec<Response> {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let server = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            for byte in bytes.chunks(7) {
                stream.write_all(byte).unwrap();
            }
            // Closing with requests unread would reset the connection.
            std::io::copy(&mut stream, &mut std::io::sink()).unwrap();
        });
        let mut connection = Connection::open(address).unwrap();
        let answers = (0..calls).map(|_| connection.call(&Request::post("/", "")).unwrap()).collect();
        drop(connection);
        server.join().unwrap();
        answers
    }

    #[test]
    fn lengths_chunks_and_interim_answers_are_read() {
        let bytes = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 3\r\nX-A: b\r\n\r\nabc\
            HTTP/1.1 500 Oops\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nde\r\n1;x=y\r\nf\r\n0\r\n\r\n";
        let answers = answered(bytes, 2);
        assert_eq!(
            (answers[0].status, answers[0].text().as_str(), answers[0].header("x-a")),
            (200, "abc", Some("b"))
        );
        assert_eq!((answers[1].status, answers[1].text().as_str()), (500, "def"));
    }
}
