//! Every decision as a pure function or state machine: which agent gets a call, who waits and who is turned away,
//! which idle instance serves next and which is given up, whose sandboxes get the memory, which Zygotes hold which imports, which
//! packages leave the disk.
//!
//! Invariant: nothing here reads a clock, a file or a socket. Time is an argument: a [`Time`], the span since an
//! epoch of the caller's choice, which must never go backwards. So every test is exact and takes no time.

#![forbid(unsafe_code)]

pub mod admission;
pub mod backoff;
pub mod balance;
pub mod belonging;
pub mod capacity;
pub mod hash;
pub mod import_cache;
pub mod instances;
pub mod load;
pub mod memory;
pub mod packages;
pub mod pressure;
pub mod scaling;
pub mod silence;
pub mod simulate;
pub mod spares;
pub mod split;

/// A point in time, as the span since an epoch of the caller's choice (its own start, for example).
pub type Time = std::time::Duration;
