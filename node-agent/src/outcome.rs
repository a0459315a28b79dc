//! The answer to a call that reached its handler.

use std::sync::Arc;
use std::time::{Duration, Instant};

use http::header::HeaderName;
use http::{HeaderValue, StatusCode};
use openlambda_api::{Component, Reason, headers};
use openlambda_sandbox::Exit;

use crate::agent::Agent;
use crate::call::End;
use crate::frame::{Meta, Reply, Status};
use crate::functions::Function;
use crate::metrics::{PHASES, StartKind};
use crate::reply::{Answer, Failure, RequestId, json};
use crate::revision::{Revision, entry_file};

const START_KIND: HeaderName = HeaderName::from_static(headers::START_KIND);
const SERVER_TIMING: HeaderName = HeaderName::from_static(headers::SERVER_TIMING);

/// When a call reached which point.
#[derive(Clone, Copy, Debug)]
pub struct Timing {
    kind: StartKind,
    arrived: Instant,
    granted: Instant,
    ready: Instant,
    /// When it was written to the sandbox.
    pub sent: Instant,
}

impl Timing {
    /// The call is about to be sent.
    pub fn new(kind: StartKind, arrived: Instant, granted: Instant, ready: Instant) -> Self {
        Self { kind, arrived, granted, ready, sent: Instant::now() }
    }

    /// Seconds per phase. A fork is handed over before the sandbox is up: what the sandbox does not account for itself
    /// is the time it took to come up.
    fn phases(&self, replied: Instant, meta: Option<&Meta>) -> [f64; 4] {
        let micros = |time: Option<u64>| time.map(Duration::from_micros);
        let queue = self.granted - self.arrived;
        let sandbox = self.ready - self.granted;
        let call = replied - self.sent;
        let load = micros(meta.and_then(|meta| meta.load_us)).unwrap_or_default().min(call);
        let rest = call - load;
        let handler = match micros(meta.and_then(|meta| meta.run_us)) {
            Some(run) if self.kind.is_fork() => run.min(rest),
            _ => rest,
        };
        [queue, sandbox + (rest - handler), load, handler].map(|phase| phase.as_secs_f64())
    }
}

/// The answer to a call that ended as `end` says.
pub fn answer(
    agent: &Arc<Agent>,
    (function, revision): (&Function, &Revision),
    id: &RequestId,
    (end, exit): (End, Option<Exit>),
    timing: Timing,
    deadline: Instant,
) -> Answer {
    let replied = Instant::now();
    let phases = timing.phases(replied, if let End::Reply(reply) = &end { Some(&reply.meta) } else { None });
    agent.metrics.started(timing.kind, phases);
    if let Some(kept) = revision.ran(!timing.kind.is_fork()) {
        agent.metrics.spent.kept(kept);
    }
    if let End::Reply(Reply { meta: Meta { imported: Some(imported), .. }, .. }) = &end {
        agent.import_cache.observed(revision, imported);
    }
    let result = match end {
        End::Reply(Reply { status: Status::Ok, body, .. }) => Ok(body),
        End::Reply(reply) => Err(function_failure(reply, &revision.settings.entrypoint)),
        End::Closed if agent.drain.has_begun() && exit.as_ref().is_some_and(is_cut_off) => Err(cut_off()),
        End::Closed => Err(closed(exit, revision.settings.limits.memory)),
        End::Refused => Err(Failure::new(Component::Sandbox, Reason::FunctionCrashed, "the sandbox is gone")),
        End::TimedOut => Err(timed_out(deadline - timing.sent)),
        End::TooLarge { length, .. } => Err(too_large(length, revision.settings.response)),
        End::Violation(violation) => Err(Failure::new(
            Component::Sandbox,
            Reason::FunctionCrashed,
            format!(
                "the handler's process sent what it must not ({violation}) and was killed: \
                 does it write to file descriptors that it has not opened?"
            ),
        )),
    };
    let mut answer = match result {
        Ok(body) => json(StatusCode::OK, body),
        Err(failure) => failure.answer(id),
    };
    let seconds = (replied - timing.arrived).as_secs_f64();
    agent.metrics.answered(&function.metrics, answer.status().as_u16(), seconds);
    if agent.config.timing {
        let [queue, sandbox, load, handler] = phases;
        let (name, request, kind) = (&*function.name, id.as_str(), timing.kind.as_str());
        tracing::info!(
            handler = name,
            request,
            kind,
            queue,
            sandbox,
            load,
            run = handler,
            "seconds per phase"
        );
    }
    if agent.config.response_details {
        add_details(&mut answer, timing.kind, phases);
    }
    answer
}

fn add_details(answer: &mut Answer, kind: StartKind, phases: [f64; 4]) {
    let timing: Vec<String> =
        PHASES.iter().zip(phases).map(|(name, seconds)| format!("{name};dur={:.3}", seconds * 1e3)).collect();
    let headers = answer.headers_mut();
    headers.insert(START_KIND, HeaderValue::from_static(kind.as_str()));
    if let Ok(value) = HeaderValue::from_str(&timing.join(", ")) {
        headers.insert(SERVER_TIMING, value);
    }
}

/// The handler's own failure, or that of its code.
fn function_failure(reply: Reply, entrypoint: &str) -> Failure {
    let Reply { status, meta, .. } = reply;
    let reason = match status {
        Status::LoadFailed => return load_failed(meta, entrypoint),
        Status::BadEvent => Reason::BadEvent,
        Status::Ok | Status::Exception | Status::BadResult => Reason::FunctionError,
    };
    let error_type = meta.error_type.unwrap_or_default();
    let message = match status {
        Status::BadEvent => format!("the request's body is no JSON: {}", meta.message),
        Status::BadResult => {
            format!("the handler's result cannot be written as JSON: {error_type}: {}", meta.message)
        }
        _ => format!("{error_type}: {}", meta.message),
    };
    Failure {
        error_type: Some(error_type).filter(|name| !name.is_empty()),
        traceback: meta.traceback,
        ..Failure::new(Component::Function, reason, message)
    }
}

/// Code that cannot be compiled, or that raises when its module is run.
pub fn load_failed(meta: Meta, entrypoint: &str) -> Failure {
    let file = meta.file.unwrap_or_else(|| entry_file(entrypoint));
    let error_type = meta.error_type.unwrap_or_else(|| "error".into());
    let line = meta.line.map_or_else(String::new, |line| format!(", line {line}"));
    let message = format!("{file}{line}: {error_type}: {}", meta.message);
    Failure {
        error_type: Some(error_type),
        traceback: meta.traceback,
        ..Failure::new(Component::Function, Reason::ImportFailed, message)
    }
}

/// The stream has ended: the process has as well, or will.
pub fn closed(exit: Option<Exit>, memory: u64) -> Failure {
    match exit {
        Some(exit) if exit.failure.is_some() => {
            tracing::error!(%exit, "a sandbox did not start");
            Failure::new(Component::Sandbox, Reason::Internal, format!("the sandbox {exit}"))
        }
        Some(exit) if exit.oom_killed => Failure::new(
            Component::Sandbox,
            Reason::OutOfMemory,
            format!(
                "the handler needed more than its {} MiB of memory and was killed: use less, or raise limits.memory",
                memory >> 20
            ),
        ),
        Some(exit) => Failure::new(
            Component::Sandbox,
            Reason::FunctionCrashed,
            format!("the handler's process {exit} before it had answered"),
        ),
        None => Failure::new(
            Component::Sandbox,
            Reason::FunctionCrashed,
            "the handler's process closed its connection to the agent and was killed: \
             does it close file descriptors that it has not opened?",
        ),
    }
}

/// Whether a sandbox ended as they all do at the worker's end.
fn is_cut_off(exit: &Exit) -> bool {
    exit.is_kill() && !exit.oom_killed
}

/// Not `draining`: that says that the call did not begin, and can be sent elsewhere.
fn cut_off() -> Failure {
    let message = "the worker was shut down, and the handler did not end within drain_timeout: it was killed, and the call cut off";
    Failure::agent(Reason::AgentUnreachable, message)
}

fn timed_out(limit: Duration) -> Failure {
    Failure::new(
        Component::Sandbox,
        Reason::FunctionTimeout,
        format!(
            "the handler ran over its time limit of {} ms and was killed",
            limit.as_nanos().div_ceil(1_000_000)
        ),
    )
}

fn too_large(length: usize, limit: usize) -> Failure {
    Failure::new(
        Component::Function,
        Reason::ResponseTooLarge,
        format!(
            "the handler's answer has {length} bytes, over the limit of {limit}; return less, or raise limits.response"
        ),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn phases_of_a_fork_add_up() {
        let arrived = Instant::now();
        let at = |millis: u64| arrived + Duration::from_millis(millis);
        let timing = Timing { kind: StartKind::Zygote, arrived, granted: at(1), ready: at(3), sent: at(4) };
        let meta = Meta { load_us: Some(2_000), run_us: Some(1_000), ..Meta::default() };
        let phases = timing.phases(at(10), Some(&meta)).map(|seconds| (seconds * 1e3).round() as u64);
        assert_eq!(phases, [1, 2 + 3, 2, 1]);
        let warm = Timing { kind: StartKind::Warm, ..timing };
        assert_eq!(warm.phases(at(10), None).map(|s| (s * 1e3).round() as u64), [1, 2, 0, 6]);
    }

    #[test]
    fn a_syntax_error_is_told_with_file_and_line() {
        let meta = Meta {
            error_type: Some("SyntaxError".into()),
            message: "invalid syntax".into(),
            line: Some(3),
            ..Meta::default()
        };
        let failure = load_failed(meta.clone(), "lambda_func.handler");
        assert_eq!(failure.message, "lambda_func.py, line 3: SyntaxError: invalid syntax");
        let elsewhere = Meta { file: Some("lib/x.py".into()), ..meta };
        assert_eq!(load_failed(elsewhere, "a.b").message, "lib/x.py, line 3: SyntaxError: invalid syntax");
        assert_eq!((failure.component, failure.reason), (Component::Function, Reason::ImportFailed));
    }

    #[test]
    fn a_bad_result_names_the_type() {
        let meta = Meta {
            error_type: Some("TypeError".into()),
            message: "Object of type set is not JSON serializable".into(),
            ..Meta::default()
        };
        let failure =
            function_failure(Reply { status: Status::BadResult, meta, body: Default::default() }, "a.b");
        assert!(failure.message.contains("TypeError: Object of type set"), "{}", failure.message);
        assert_eq!(failure.reason, Reason::FunctionError);
    }
}
