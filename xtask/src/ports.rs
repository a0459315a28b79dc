//! Free ports for a cluster that starts and ends with a task.

use std::net::TcpListener;

use anyhow::{Context, Result};

/// An admin port lies this far above its service port.
const ADMIN: u16 = 1000;
/// Below the kernel's range for outgoing connections, so that none of these takes a port between check and use.
const RANGE: std::ops::Range<u16> = 20_000..30_000;

/// A port from which `count` in a row are free, with their admin ports; `preferred` if it is such a one.
pub fn free(preferred: u16, count: u16) -> Result<u16> {
    let offset = u16::try_from(std::process::id() % 1000).unwrap_or(0);
    std::iter::once(preferred)
        .chain(RANGE.skip(usize::from(offset)).step_by(16))
        .find(|port| (0..count).all(|i| is_free(port + i) && is_free(port + i + ADMIN)))
        .with_context(|| format!("no {count} free ports in a row between {} and {}", RANGE.start, RANGE.end))
}

fn is_free(port: u16) -> bool {
    TcpListener::bind(("0.0.0.0", port)).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_taken_port_is_passed_over() {
        let port = free(20_500, 2).unwrap();
        let _taken = TcpListener::bind(("0.0.0.0", port + 1)).unwrap();
        assert_ne!(free(port, 2).unwrap(), port);
    }
}
