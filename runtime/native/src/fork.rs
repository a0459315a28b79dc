//! Forking an interpreter by `clone3`: the three calls by which CPython wants to be told of a fork.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};

use openlambda_sandbox::sys::{self, Cloned};
use pyo3::Python;

// Part of the stable ABI since 3.7 on platforms with fork().
unsafe extern "C" {
    fn PyOS_BeforeFork();
    fn PyOS_AfterFork_Parent();
    fn PyOS_AfterFork_Child();
}

/// Which side of the fork we are on.
pub(crate) enum Forked {
    /// The Zygote; the child's pid and pidfd.
    Parent {
        /// In the nursery.
        pid: i32,
        /// Of the child.
        pidfd: OwnedFd,
    },
    /// The child. The interpreter must not be used before [`after_fork_child`].
    Child,
    /// The Zygote; there is no child.
    Failed(io::Error),
}

/// Forks this interpreter. The caller holds the interpreter (`_py`) and must be its only thread.
pub(crate) fn fork_interpreter(_py: Python<'_>, flags: u64, cgroup: Option<BorrowedFd<'_>>) -> Forked {
    // SAFETY: the interpreter is held, and no other thread of it exists.
    unsafe { PyOS_BeforeFork() };
    let cloned = sys::clone3(flags, cgroup);
    if let Ok(Cloned::Child) = cloned {
        return Forked::Child;
    }
    // SAFETY: pairs with the call above, in the parent, whether or not there is a child.
    unsafe { PyOS_AfterFork_Parent() };
    match cloned {
        Ok(Cloned::Parent { pid, pidfd }) => Forked::Parent { pid, pidfd },
        Ok(Cloned::Child) => Forked::Child,
        Err(error) => Forked::Failed(error),
    }
}

/// Makes the interpreter usable in the child.
pub(crate) fn after_fork_child(_py: Python<'_>) {
    // SAFETY: called once, in the child of `fork_interpreter`, by its only thread.
    unsafe { PyOS_AfterFork_Child() };
}
