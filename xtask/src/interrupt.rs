//! Ctrl-C and SIGTERM: stop the children that run, undo what was begun, then end.
//!
//! The work runs on a second thread, so that the first can always clean up, whatever the work waits for.

use std::process::{Child, Command, ExitCode};
use std::sync::{Mutex, MutexGuard, PoisonError, mpsc};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use signal_hook::consts::{SIGINT, SIGTERM};

use crate::leftovers;

const INTERRUPTED: u8 = 130;
/// Children get so long to end by themselves, and five times as long after SIGTERM.
const PATIENCE: Duration = Duration::from_secs(2);
const POLL: Duration = Duration::from_millis(20);

type Undo = Box<dyn FnOnce() + Send>;

struct State {
    interrupted: bool,
    next: u64,
    children: Vec<u32>,
    undo: Vec<(u64, Undo)>,
}

static STATE: Mutex<State> =
    Mutex::new(State { interrupted: false, next: 0, children: Vec::new(), undo: Vec::new() });
/// Held while something is undone, so that the process does not end in the middle of it.
static UNDOING: Mutex<()> = Mutex::new(());

enum Event {
    Done(Result<()>),
    Signal,
}

/// Runs `work` to its end or to the first signal; what is still to be undone is undone in either case.
pub fn run(work: impl FnOnce() -> Result<()> + Send + 'static) -> ExitCode {
    let (sender, receiver) = mpsc::channel();
    if let Err(error) = watch(sender.clone()) {
        eprintln!("error: cannot watch for signals: {error}");
        return ExitCode::FAILURE;
    }
    std::thread::spawn(move || {
        let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(work));
        let result = result.unwrap_or_else(|_| bail!("the task panicked, see above"));
        let _ = sender.send(Event::Done(result));
    });
    let code = match receiver.recv() {
        Ok(Event::Done(Ok(()))) => ExitCode::SUCCESS,
        Ok(Event::Done(Err(error))) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
        Ok(Event::Signal) | Err(_) => {
            eprintln!("interrupted: stopping what was started");
            ExitCode::from(INTERRUPTED)
        }
    };
    end();
    code
}

fn watch(sender: mpsc::Sender<Event>) -> std::io::Result<()> {
    let mut signals = signal_hook::iterator::Signals::new([SIGINT, SIGTERM])?;
    std::thread::spawn(move || {
        for _ in signals.forever() {
            let _ = sender.send(Event::Signal);
        }
    });
    Ok(())
}

fn end() {
    let (children, undo) = {
        let mut state = state();
        state.interrupted = true;
        (std::mem::take(&mut state.children), std::mem::take(&mut state.undo))
    };
    end_children(&children);
    let _undoing = undoing();
    for (_, undo) in undo.into_iter().rev() {
        undo();
    }
}

/// A terminal's Ctrl-C has reached the children as well; who has not ended by it is told again.
fn end_children(children: &[u32]) {
    if wait_for(children, PATIENCE) {
        return;
    }
    children.iter().for_each(|child| signal(*child, Signal::SIGTERM));
    if !wait_for(children, PATIENCE * 5) {
        children.iter().for_each(|child| signal(*child, Signal::SIGKILL));
    }
}

fn wait_for(children: &[u32], patience: Duration) -> bool {
    let end = Instant::now() + patience;
    while children.iter().any(|child| leftovers::is_running(*child)) {
        if Instant::now() >= end {
            return false;
        }
        std::thread::sleep(POLL);
    }
    true
}

/// Sends a signal to a process; that it is gone already is no error.
pub fn signal(pid: u32, signal: Signal) {
    if let Ok(pid) = i32::try_from(pid) {
        let _ = kill(Pid::from_raw(pid), signal);
    }
}

/// Starts a child that is told to end when this process is.
pub fn spawn(command: &mut Command) -> Result<Child> {
    let mut state = state();
    if state.interrupted {
        bail!("interrupted");
    }
    let child = command.spawn().with_context(|| format!("cannot start {}", describe(command)))?;
    state.children.push(child.id());
    Ok(child)
}

/// Forgets a child that has ended.
pub fn forget(child: u32) {
    state().children.retain(|pid| *pid != child);
}

/// A command as one would type it.
pub fn describe(command: &Command) -> String {
    let mut words = vec![command.get_program().to_string_lossy().into_owned()];
    words.extend(command.get_args().map(|arg| arg.to_string_lossy().into_owned()));
    words.join(" ")
}

/// Something to be undone when this is dropped, or at the latest when the process ends.
#[must_use = "it is undone as soon as this is dropped"]
pub struct Cleanup {
    key: u64,
}

impl Cleanup {
    /// `undo` runs once.
    pub fn new(undo: impl FnOnce() + Send + 'static) -> Self {
        let mut state = state();
        let key = state.next;
        state.next += 1;
        state.undo.push((key, Box::new(undo)));
        Self { key }
    }

    /// Leaves everything as it is.
    pub fn forget(self) {
        drop(self.take());
    }

    fn take(&self) -> Option<Undo> {
        let mut state = state();
        let place = state.undo.iter().position(|(key, _)| *key == self.key)?;
        Some(state.undo.remove(place).1)
    }
}

impl Drop for Cleanup {
    fn drop(&mut self) {
        let _undoing = undoing();
        if let Some(undo) = self.take() {
            undo();
        }
    }
}

fn state() -> MutexGuard<'static, State> {
    STATE.lock().unwrap_or_else(PoisonError::into_inner)
}

fn undoing() -> MutexGuard<'static, ()> {
    UNDOING.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    #[test]
    fn cleanups_run_once_or_never() {
        let runs = Arc::new(AtomicU32::new(0));
        let count = |runs: &Arc<AtomicU32>| {
            let runs = Arc::clone(runs);
            move || {
                runs.fetch_add(1, Ordering::Relaxed);
            }
        };
        drop(Cleanup::new(count(&runs)));
        Cleanup::new(count(&runs)).forget();
        assert_eq!(runs.load(Ordering::Relaxed), 1);
    }
}
