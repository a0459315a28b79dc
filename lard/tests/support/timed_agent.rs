//! An agent whose sandboxes are timed: a start and a call take as long as they are said to, and nothing is computed. What it
//! has warm, and for how long, is the simulator's model of an agent; the rest is real: a process, HTTP, load reports.
//!
//! `/run/f12?exec=20.5` calls handler 12 for 20.5 ms. It runs until it is killed. Tests run it as a process of their own program,
//! benchmarks as `examples/timed-agent.rs`.

use std::collections::HashMap;
use std::convert::Infallible;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use clap::Parser;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::header::HeaderValue;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use openlambda_api::headers::{LOAD_METRICS, PACKAGES, REQUEST_ID};
use openlambda_api::load::{Costs, LOAD_PATH};
use openlambda_api::{Component, ErrorBody, LoadReport, Reason, Zygote};
use openlambda_policy::balance::{PolicyKind, Report};
use openlambda_policy::simulate::{Agent, Job, Scenario, Started};
use parking_lot::Mutex;
use tokio::net::TcpListener;
use tokio::sync::oneshot;

/// What there is of it.
#[derive(Debug, Parser)]
pub struct Arguments {
    /// Calls at a time
    #[arg(long, default_value_t = 4)]
    slots: u32,
    /// Sandboxes that it has room for
    #[arg(long, default_value_t = 64)]
    sandboxes: usize,
    /// Zygotes that it has room for
    #[arg(long, default_value_t = 12)]
    zygotes: usize,
    /// A start from a Zygote, in ms
    #[arg(long, default_value_t = 3.0)]
    fork_ms: f64,
    /// A start with an import, in ms
    #[arg(long, default_value_t = 150.0)]
    cold_ms: f64,
    /// Calls that may wait
    #[arg(long, default_value_t = 10_000)]
    queue: usize,
    /// Where it notes the id of each call that reaches a sandbox, one a line
    #[arg(long)]
    ran: Option<PathBuf>,
}

struct Worker {
    scenario: Scenario,
    state: Mutex<State>,
    queue: usize,
    ran: Option<File>,
    epoch: Instant,
}

struct State {
    agent: Agent,
    waiting: HashMap<usize, oneshot::Sender<Started>>,
    next: usize,
}

impl State {
    /// Lets begin what can.
    fn begin(&mut self) {
        while let Some(started) = self.agent.begin_next() {
            let told = self.waiting.remove(&started.job.tag).map(|waiting| waiting.send(started));
            if !matches!(told, Some(Ok(()))) {
                // Whoever called has gone away; its slot is free again.
                self.agent.finish(&started.job);
            }
        }
    }
}

impl Worker {
    fn new(arguments: &Arguments) -> io::Result<Arc<Self>> {
        // The policy is lard's.
        let scenario = Scenario {
            slots: arguments.slots,
            sandboxes: arguments.sandboxes,
            zygotes: arguments.zygotes,
            fork_ms: arguments.fork_ms,
            cold_ms: arguments.cold_ms,
            ..Scenario::new(PolicyKind::RoundRobin, 1)
        };
        let open = |path| OpenOptions::new().create(true).append(true).open(path);
        let state = State { agent: Agent::new(&scenario), waiting: HashMap::new(), next: 0 };
        let (state, ran) = (Mutex::new(state), arguments.ran.as_ref().map(open).transpose()?);
        Ok(Arc::new(Self { scenario, state, queue: arguments.queue, ran, epoch: Instant::now() }))
    }

    async fn call(self: &Arc<Self>, request: Request<Incoming>) -> Response<Full<Bytes>> {
        let id = request.headers().get(REQUEST_ID).cloned().unwrap_or(HeaderValue::from_static("-"));
        let Some((function, exec)) = asked(request.uri().path(), request.uri().query()) else {
            return refusal(Reason::HandlerNotFound, "it is called as /run/f12?exec=20.5", &id);
        };
        let packages = self.scenario.packages(function);
        let Some(begun) = self.enqueue(Job { function, packages, arrived: 0.0, exec, tag: 0 }) else {
            return refusal(Reason::ConcurrencyExceeded, "the queue is full", &id);
        };
        let Ok(started) = begun.await else { return refusal(Reason::Internal, "its place is gone", &id) };
        let run = Run { worker: Arc::clone(self), job: started.job };
        // Only now, as an agent does: what has no slot yet can go elsewhere.
        if request.into_body().collect().await.is_err() {
            return refusal(Reason::BadRequest, "the body broke off", &id);
        }
        if let Some(mut file) = self.ran.as_ref() {
            // A line at a time: it is whole even if the process is killed. Without it a test fails.
            let _ = file.write_all(format!("{}\n", id.to_str().unwrap_or("-")).as_bytes());
        }
        // A sandbox runs on when nobody waits any more.
        let (start, time) = (started.start, Duration::from_secs_f64((started.cost + exec) / 1000.0));
        let running = tokio::spawn(async move {
            tokio::time::sleep(time).await;
            drop(run);
        });
        let _ = running.await;
        let mut response = Response::new(Full::from(start.as_str()));
        let headers = response.headers_mut();
        headers.insert(PACKAGES, text(&format!("{packages:016x}")));
        headers.insert(LOAD_METRICS, text(&self.report().to_string()));
        response
    }

    fn enqueue(&self, job: Job) -> Option<oneshot::Receiver<Started>> {
        let mut state = self.state.lock();
        if state.waiting.len() >= self.queue {
            return None;
        }
        let (sender, receiver) = oneshot::channel();
        state.next += 1;
        let (tag, arrived) = (state.next, self.epoch.elapsed().as_secs_f64() * 1000.0);
        state.waiting.insert(tag, sender);
        state.agent.enqueue(Job { tag, arrived, ..job });
        state.begin();
        Some(receiver)
    }

    fn report(&self) -> LoadReport {
        let state = self.state.lock();
        let (report, queued) = (state.agent.report(), state.waiting.len() as u64);
        drop(state);
        said(&report, queued)
    }
}

/// A call in a slot.
struct Run {
    worker: Arc<Worker>,
    job: Job,
}

impl Drop for Run {
    fn drop(&mut self) {
        let mut state = self.worker.state.lock();
        state.agent.finish(&self.job);
        state.begin();
    }
}

fn said(report: &Report, queued: u64) -> LoadReport {
    let millis = |time: Duration| time.as_secs_f64() * 1000.0;
    let costs = report.costs.map(|costs| Costs {
        slots: Some(costs.slots),
        call_ms: costs.call.map(millis),
        fork_ms: costs.fork.map(millis),
        import_ms: costs.import.map(millis),
        kept: costs.kept,
    });
    let zygotes = report.zygotes.iter().flat_map(|all| all.iter());
    let zygotes = zygotes.map(|one| Zygote { set: one.set, import_ms: millis(one.import) as u32 }).collect();
    LoadReport {
        cpu: report.cpu,
        memory: report.memory,
        inflight: report.inflight.into(),
        queued,
        costs: costs.unwrap_or_default(),
        zygotes: Some(zygotes),
    }
}

fn asked(path: &str, query: Option<&str>) -> Option<(u32, f64)> {
    let function = path.strip_prefix("/run/f")?.parse().ok()?;
    let exec: f64 = query?.strip_prefix("exec=")?.parse().ok()?;
    (exec.is_finite() && exec >= 0.0).then_some((function, exec))
}

fn text(value: &str) -> HeaderValue {
    HeaderValue::from_str(value).unwrap_or(HeaderValue::from_static("-"))
}

fn refusal(reason: Reason, message: &str, id: &HeaderValue) -> Response<Full<Bytes>> {
    let body = ErrorBody::new(Component::Agent, reason, message, id.to_str().unwrap_or("-"));
    let mut response = Response::new(Full::from(body.to_json()));
    *response.status_mut() =
        StatusCode::from_u16(reason.status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    response
}

async fn answer(
    worker: Arc<Worker>,
    request: Request<Incoming>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    Ok(match request.uri().path() {
        LOAD_PATH => Response::new(Full::from(worker.report().to_string())),
        _ => worker.call(request).await,
    })
}

async fn serve(listener: TcpListener, worker: Arc<Worker>) -> io::Result<Infallible> {
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        let worker = Arc::clone(&worker);
        let service = service_fn(move |request| answer(Arc::clone(&worker), request));
        let connection = http1::Builder::new().serve_connection(TokioIo::new(stream), service);
        tokio::spawn(async move {
            // A client that goes away is its own concern.
            let _ = connection.await;
        });
    }
}

/// Runs it. The addresses of its ports, for calls and for the admin, are told once it listens.
pub fn run(arguments: &Arguments, tell: impl FnOnce(&str) -> io::Result<()>) -> io::Result<()> {
    let worker = Worker::new(arguments)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let calls = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let admin = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        tell(&format!("{} {}", calls.local_addr()?, admin.local_addr()?))?;
        tokio::try_join!(serve(calls, Arc::clone(&worker)), serve(admin, worker)).map(drop)
    })
}
