//! `limits`: what one sandbox, and one call in it, may use.

use std::time::Duration;

use crate::section::Section;
use crate::sizes::Size;
use crate::values;

/// Below this a Python interpreter does not start.
const MIN_MEMORY: Size = Size::from_mib(16);

/// Limits of a sandbox and of a call.
#[derive(Clone, Debug, PartialEq)]
pub struct LimitsConfig {
    /// `memory` of one sandbox.
    pub memory: Size,
    /// `cpu` of one sandbox, in thousandths of a core; none means no quota.
    pub cpu_millis: Option<u32>,
    /// `cpu_weight`: the handler's share of busy processors, beside others that have 100.
    pub cpu_weight: u32,
    /// `pids`: processes and threads in one sandbox.
    pub pids: u32,
    /// `open_files` of each process in it.
    pub open_files: u32,
    /// `timeout` of one call; the sandbox is killed at it.
    pub timeout: Duration,
    /// `scratch`: what may be written under `/host` and `/tmp`.
    pub scratch: Size,
    /// `request`: the longest body of a call.
    pub request: Size,
    /// `response`: the longest answer.
    pub response: Size,
    /// `log`: what one call may print.
    pub log: Size,
}

impl Default for LimitsConfig {
    fn default() -> Self {
        Self {
            memory: Size::from_mib(128),
            cpu_millis: None,
            cpu_weight: 100,
            pids: 64,
            open_files: 1024,
            timeout: Duration::from_secs(30),
            scratch: Size::from_mib(64),
            request: Size::from_mib(6),
            response: Size::from_mib(6),
            log: Size::from_kib(64),
        }
    }
}

impl LimitsConfig {
    pub(super) fn read(root: &mut Section<'_>) -> Self {
        let mut section = root.section("limits");
        let default = Self::default();
        let limits = Self {
            memory: section.read("memory", default.memory, values::size_from(MIN_MEMORY)),
            cpu_millis: section.optional("cpu", values::cpu_millis),
            cpu_weight: section.read("cpu_weight", default.cpu_weight, values::whole(1..=10_000)),
            pids: section.read("pids", default.pids, values::whole(1..=32_768)),
            open_files: section.read("open_files", default.open_files, values::whole(16..=1_048_576)),
            timeout: section.read("timeout", default.timeout, values::duration),
            scratch: section.read("scratch", default.scratch, values::size_from(Size::from_kib(4))),
            request: section.read("request", default.request, values::size_from(Size::from_bytes(1))),
            response: section.read("response", default.response, values::size_from(Size::from_bytes(1))),
            log: section.read("log", default.log, values::size),
        };
        root.absorb(section.finish());
        limits
    }
}
