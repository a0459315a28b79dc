//! Calls without pause over connections that are kept, and an account of every one of them.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};

use crate::wait::{PATIENCE, until};
use crate::{Request, Response};

/// A client's connection over which it sends one request after the other.
#[derive(Debug)]
pub struct Connection {
    stream: BufReader<TcpStream>,
}

impl Connection {
    /// Connects.
    pub fn open(to: SocketAddr) -> Result<Self> {
        let stream = TcpStream::connect_timeout(&to, PATIENCE).with_context(|| format!("connect to {to}"))?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(PATIENCE * 2))?;
        Ok(Self { stream: BufReader::new(stream) })
    }

    /// Sends a request and reads the response to its end.
    pub fn send(&mut self, request: &Request) -> Result<Response> {
        self.stream.get_mut().write_all(&request.kept())?;
        self.receive()
    }

    fn receive(&mut self) -> Result<Response> {
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            ensure!(self.stream.read_line(&mut head)? > 0, "the connection was closed after {head:?}");
        }
        let mut response = Response::parse_head(head.trim_end())?;
        if let Some(length) = response.header("content-length") {
            response.body = vec![0; length.parse()?];
            self.stream.read_exact(&mut response.body)?;
        } else if response.header("transfer-encoding").is_some() {
            response.body = self.chunks()?;
        }
        Ok(response)
    }

    fn chunks(&mut self) -> Result<Vec<u8>> {
        let mut body = Vec::new();
        loop {
            let mut line = String::new();
            self.stream.read_line(&mut line)?;
            let size = u64::from_str_radix(line.trim(), 16).with_context(|| format!("chunk {line:?}"))?;
            (&mut self.stream).take(size).read_to_end(&mut body)?;
            self.stream.read_line(&mut String::new())?;
            if size == 0 {
                return Ok(body);
            }
        }
    }
}

/// What became of the calls.
#[derive(Debug, Default)]
pub struct Account {
    /// Answers with status 200, by their body.
    pub answers: BTreeMap<String, u64>,
    /// All else, in the order of its coming: when, and what.
    pub failures: Vec<(Duration, String)>,
    /// The longest time that one call took.
    pub longest: Duration,
}

impl Account {
    /// The calls that were answered.
    pub fn answered(&self) -> u64 {
        self.answers.values().sum()
    }

    /// Fails if one call failed.
    pub fn without_failure(&self) -> Result<()> {
        let shown: Vec<_> = self.failures.iter().take(10).collect();
        let (all, failed) = (self.answered(), self.failures.len());
        ensure!(failed == 0, "{failed} calls failed and {all} were answered; the first: {shown:#?}");
        Ok(())
    }

    fn add(&mut self, other: Self) {
        for (body, count) in other.answers {
            *self.answers.entry(body).or_default() += count;
        }
        self.failures.extend(other.failures);
        self.failures.sort();
        self.longest = self.longest.max(other.longest);
    }
}

/// Clients that call without pause until they are stopped.
#[derive(Debug)]
pub struct Load {
    stop: Arc<AtomicBool>,
    answered: Arc<AtomicU64>,
    clients: Vec<JoinHandle<Account>>,
}

impl Load {
    /// So many clients, each with a connection of its own, take turns with these requests.
    pub fn start(clients: usize, to: SocketAddr, requests: &[Request]) -> Self {
        let (stop, answered) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let requests: Arc<[Request]> = requests.into();
        let start = Instant::now();
        let client = |number: usize| {
            let (stop, answered, requests) = (stop.clone(), answered.clone(), requests.clone());
            std::thread::spawn(move || client(number, to, &requests, start, &stop, &answered))
        };
        let clients = (0..clients).map(client).collect();
        Self { stop, answered, clients }
    }

    /// Calls that were answered so far.
    pub fn answered(&self) -> u64 {
        self.answered.load(Ordering::Relaxed)
    }

    /// Waits until so many more calls were answered.
    pub fn progress(&self, calls: u64) -> Result<()> {
        let goal = self.answered() + calls;
        until(&format!("{calls} more answers"), || Ok((self.answered() >= goal).then_some(())))
    }

    /// Ends it and adds up.
    pub fn stop(self) -> Result<Account> {
        self.stop.store(true, Ordering::Relaxed);
        let mut sum = Account::default();
        for client in self.clients {
            match client.join() {
                Ok(account) => sum.add(account),
                Err(_) => bail!("a client panicked"),
            }
        }
        Ok(sum)
    }
}

fn client(
    number: usize,
    to: SocketAddr,
    requests: &[Request],
    start: Instant,
    stop: &AtomicBool,
    answered: &AtomicU64,
) -> Account {
    let (mut account, mut connection) = (Account::default(), None);
    for request in requests.iter().cycle().skip(number) {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        let (begin, fresh) = (Instant::now(), connection.is_none());
        let result = call(&mut connection, to, request);
        account.longest = account.longest.max(begin.elapsed());
        match result {
            Ok(response) if response.status == 200 => {
                answered.fetch_add(1, Ordering::Relaxed);
                *account.answers.entry(response.text()).or_default() += 1;
            }
            Ok(response) => {
                account.failures.push((start.elapsed(), format!("{}: {}", response.status, response.text())));
            }
            Err(error) => {
                let kind = if fresh { "new" } else { "kept" };
                account.failures.push((start.elapsed(), format!("on a {kind} connection: {error:#}")));
                connection = None;
            }
        }
    }
    account
}

/// Over the connection, which is made if there is none, and given up when the server says so.
fn call(connection: &mut Option<Connection>, to: SocketAddr, request: &Request) -> Result<Response> {
    let mut open = match connection.take() {
        Some(open) => open,
        None => Connection::open(to)?,
    };
    let response = open.send(request)?;
    if response.header("connection") != Some("close") {
        *connection = Some(open);
    }
    Ok(response)
}
