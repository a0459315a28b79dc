//! Control groups of both versions behind one interface.
//!
//! [`CgroupTree`] is the agent's own part of the hierarchy; [`Cgroup`] is one group in it, of a Zygote or a sandbox;
//! [`CgroupPool`] keeps some ready, since making a memory group takes up to milliseconds.

mod detect;
mod group;
mod node;
mod owned;
mod pool;
mod tree;

pub use group::Cgroup;
pub(crate) use group::borrow;
pub use node::memory_of_node;
pub(crate) use owned::OwnedGroup;
pub use pool::CgroupPool;
pub use tree::{CgroupError, CgroupTree};
pub(crate) use tree::{sweep_all, thaw_all};
