//! `_openlambda`: what `zygote.py` cannot do in Python, on the stable ABI (CPython 3.9 and later).
//!
//! One function, [`serve_forks`]: the Zygote spends its life in it, and every sandbox is born returning from it.

mod fork;

use std::os::fd::AsFd;

use openlambda_sandbox::child::{self, ChildPlan, ForkTask};
use openlambda_sandbox::fdpass;
use openlambda_sandbox::fork_request::{ForkReply, ForkRequest};
use openlambda_sandbox::sys;
use pyo3::prelude::*;

use crate::fork::{Forked, fork_interpreter};

/// Serves fork requests from the agent on descriptor `control`, which it takes over.
///
/// Returns in each child, once that is a sandbox, with the descriptor of its stream; and in the Zygote itself, with None, when the agent
/// has closed the connection.
#[pyfunction]
fn serve_forks(py: Python<'_>, control: i32) -> PyResult<Option<i32>> {
    let control = sys::adopt_fd(control)?;
    child::empty_bounding_set()?;
    let plan = ChildPlan::new();
    fdpass::send(control.as_fd(), b"ready", &[])?;
    while let Some((bytes, fds)) = fdpass::receive(control.as_fd())? {
        let request = ForkRequest::decode(&bytes)?;
        let id = request.id;
        let task = ForkTask::new(request, fds)?;
        match fork_interpreter(py, child::CLONE_FLAGS, task.birth_cgroup()) {
            Forked::Child => {
                // Our copies of the Zygote's descriptors are closed on the way; their owners must not close them again.
                std::mem::forget(control);
                child::become_sandbox(task, &plan);
                fork::after_fork_child(py);
                return Ok(Some(child::STREAM_FD));
            }
            Forked::Parent { pid, pidfd } => {
                let reply = ForkReply { id, pid, errno: 0 };
                fdpass::send(control.as_fd(), &reply.encode(), &[pidfd.as_fd()])?;
            }
            Forked::Failed(error) => {
                let reply = ForkReply { id, pid: 0, errno: error.raw_os_error().unwrap_or(-1) };
                fdpass::send(control.as_fd(), &reply.encode(), &[])?;
            }
        }
    }
    Ok(None)
}

/// The native part of the OpenLambda runtime.
#[pymodule]
#[pyo3(name = "_openlambda")]
fn openlambda_native(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_function(wrap_pyfunction!(serve_forks, module)?)
}
