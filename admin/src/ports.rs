//! Whether a port is free, found out before anything is started.

use std::io;
use std::net::{TcpListener, ToSocketAddrs};

use anyhow::{Result, bail, ensure};

/// Fails if something listens on a host's port already. `change` says how to choose another port.
pub fn require_free(host: &str, port: u16, what: &str, change: &str) -> Result<()> {
    let addresses: Vec<_> = match (host, port).to_socket_addrs() {
        Ok(addresses) => addresses.collect(),
        Err(error) => bail!("{what} is to listen on {host}, which is no address of this machine: {error}"),
    };
    let mut usable = false;
    for address in addresses {
        match TcpListener::bind(address) {
            Ok(_) => usable = true,
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => bail!(
                "{what} needs port {port} ({address}), which is in use: see who has it with \
                 ss -ltnp 'sport = :{port}', or {change}"
            ),
            // A name such as localhost may have an IPv6 address on a machine without IPv6.
            Err(error) if error.kind() == io::ErrorKind::AddrNotAvailable => {}
            Err(error) => bail!("{what} cannot listen on {address}: {error}; {change}"),
        }
    }
    ensure!(usable, "{what} is to listen on {host}, which is no address of this machine");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_in_use_is_named() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let error = require_free("localhost", port, "worker-0", "set --port").unwrap_err().to_string();
        assert!(error.contains(&format!("needs port {port}")) && error.contains("set --port"), "{error}");
        drop(listener);
        require_free("localhost", port, "worker-0", "set --port").unwrap();
    }

    #[test]
    fn a_foreign_address_is_named() {
        let error = require_free("192.0.2.1", 80, "lard", "x").unwrap_err().to_string();
        assert!(error.contains("192.0.2.1"), "{error}");
    }
}
