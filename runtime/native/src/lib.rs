//! `_openlambda`: what `zygote.py` cannot do in Python, on the stable ABI (CPython 3.9 and later).
//!
//! [`serve_forks`]: a Zygote spends its life in it, and every child is born returning from it. [`take_up`]: where a spare sandbox waits.

mod arenas;
mod fork;

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::OnceLock;

use openlambda_sandbox::child::{self, ChildPlan, ForkTask, Role};
use openlambda_sandbox::fork_request::{ASSIGNMENT, Assignment, ForkReply, ForkRequest, HAS_CODE};
use openlambda_sandbox::{fdpass, id_map, sys};
use pyo3::prelude::*;

use crate::fork::{Forked, fork_interpreter};

/// What is said of an error without a number.
const EIO: i32 = 5;

/// What holds for all children of a Zygote, and theirs.
static PLAN: OnceLock<ChildPlan> = OnceLock::new();

/// Serves fork requests from the agent on descriptor `control`, which it takes over.
///
/// Returns in each child what it has become: `("sandbox", stream, 0)`, `("spare", stream, uid)` or `("zygote", control, job)`; and in the
/// Zygote itself None, when the agent has closed the connection.
#[pyfunction]
fn serve_forks(py: Python<'_>, control: i32) -> PyResult<Option<(&'static str, i32, u32)>> {
    let control = sys::adopt_fd(control)?;
    child::empty_bounding_set()?;
    let plan = PLAN.get_or_init(ChildPlan::new);
    fdpass::send(control.as_fd(), b"ready", &[])?;
    while let Some((bytes, fds)) = fdpass::receive(control.as_fd())? {
        let task = ForkTask::new(ForkRequest::decode(&bytes)?, fds)?;
        let (id, role, uid) = (task.request.id, task.role(), task.request.uid);
        let gate = if role == Role::Branch { Some(io::pipe()?) } else { None };
        match fork_interpreter(py, task.clone_flags(), task.birth_cgroup()) {
            Forked::Child => {
                // Our copies of the Zygote's descriptors are closed on the way; their owners must not close them again.
                std::mem::forget(control);
                let gate = gate.map(|(released, release)| {
                    drop(release);
                    std::mem::ManuallyDrop::new(released)
                });
                if role != Role::Branch {
                    arenas::use_small_pages();
                }
                child::become_child(task, plan, gate.as_ref().map(|released| released.as_fd()));
                fork::after_fork_child(py);
                return Ok(Some(match role {
                    Role::Sandbox => ("sandbox", child::STREAM_FD, 0),
                    Role::Spare => ("spare", child::STREAM_FD, uid),
                    Role::Branch => ("zygote", child::STREAM_FD, child::JOB_FD as u32),
                }));
            }
            Forked::Parent { pid, pidfd } => {
                let released = gate.map_or(Ok(()), |(_, release)| give_users(pid, uid, &release.into()));
                answer(control.as_fd(), id, pid, Some(&pidfd), released)?;
            }
            Forked::Failed(error) => answer(control.as_fd(), id, 0, None, Err(error))?,
        }
    }
    Ok(None)
}

/// Tells the agent of a child, or of why there is none. A branch whose users could not be mapped ends by itself.
fn answer(
    control: BorrowedFd<'_>,
    id: u64,
    pid: i32,
    pidfd: Option<&OwnedFd>,
    result: io::Result<()>,
) -> io::Result<()> {
    match (result, pidfd) {
        (Ok(()), Some(pidfd)) => {
            fdpass::send(control, &ForkReply { id, pid, errno: 0 }.encode(), &[pidfd.as_fd()])
        }
        (result, _) => {
            let errno = result.err().and_then(|error| error.raw_os_error()).unwrap_or(EIO);
            fdpass::send(control, &ForkReply { id, pid: 0, errno }.encode(), &[])
        }
    }
}

/// Maps the users of a branch, and lets it go on.
fn give_users(pid: i32, root: u32, release: &OwnedFd) -> io::Result<()> {
    for file in ["uid_map", "gid_map"] {
        let own = std::fs::read_to_string(format!("/proc/self/{file}"))?;
        std::fs::write(format!("/proc/{pid}/{file}"), id_map::nested(&own, root))?;
    }
    fdpass::write_all(release.as_fd(), b"m")
}

/// Waits on `stream` until the agent says what this spare is to serve, and becomes a sandbox that can do no more than that. False if the
/// agent has closed the stream instead.
#[pyfunction]
fn take_up(stream: i32, uid: u32) -> PyResult<bool> {
    let plan = PLAN.get_or_init(ChildPlan::new);
    let stream = std::mem::ManuallyDrop::new(sys::adopt_fd(stream)?);
    let mut bytes = [0; ASSIGNMENT];
    let Some(mut fds) = fdpass::receive_exact(stream.as_fd(), &mut bytes)? else { return Ok(false) };
    let assignment = Assignment::decode(&bytes);
    let code = if assignment.flags & HAS_CODE != 0 { fds.pop() } else { None };
    child::take_up(uid, assignment, code, plan);
    Ok(true)
}

/// What is allocated from now on is to be copied often.
#[pyfunction]
fn use_huge_pages() {
    arenas::use_huge_pages();
}

/// What was allocated since is complete.
#[pyfunction]
fn gather_heap() {
    arenas::gather_heap();
}

/// The native part of the OpenLambda runtime.
#[pymodule]
#[pyo3(name = "_openlambda")]
fn openlambda_native(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_function(wrap_pyfunction!(serve_forks, module)?)?;
    module.add_function(wrap_pyfunction!(use_huge_pages, module)?)?;
    module.add_function(wrap_pyfunction!(gather_heap, module)?)?;
    module.add_function(wrap_pyfunction!(take_up, module)?)
}
