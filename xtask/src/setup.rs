//! Installs what is missing on the machine, with apt, and says so. What is there is left alone.

use std::path::Path;
use std::process::Command;

use anyhow::{Result, bail};
use nix::unistd::Uid;

use crate::command;
use crate::uv;
use crate::workspace::Workspace;

/// A Debian package and the program that shows it is there.
struct Need {
    package: &'static str,
    program: &'static str,
}

/// What the demo, the tests and the benchmarks run.
const NEEDS: &[Need] = &[
    Need { package: "python3", program: "/usr/bin/python3" },
    Need { package: "python3-pip", program: "pip3" },
    Need { package: "gcc", program: "cc" },
    Need { package: "libc6-dev", program: "/usr/include/stdio.h" },
    Need { package: "iproute2", program: "ip" },
    Need { package: "curl", program: "curl" },
    Need { package: "procps", program: "ps" },
];

/// Installs what demo, tests and benchmarks need.
pub fn run() -> Result<()> {
    packages()?;
    uv::ensure(&Workspace::find()?).map(drop)
}

fn packages() -> Result<()> {
    let missing: Vec<&str> =
        NEEDS.iter().filter(|need| !present(need.program)).map(|need| need.package).collect();
    if missing.is_empty() {
        return Ok(());
    }
    install(&missing)?;
    let still: Vec<&str> =
        NEEDS.iter().map(|need| need.program).filter(|program| !present(program)).collect();
    if !still.is_empty() {
        bail!("apt-get installed {}, but these are still not there: {}", missing.join(" "), still.join(" "));
    }
    Ok(())
}

/// Fails unless this process is root: sandboxes need it.
pub fn require_root(what: &str) -> Result<()> {
    if !Uid::effective().is_root() {
        bail!("{what} makes namespaces, mounts and cgroups and so needs root: run it with sudo or as root");
    }
    Ok(())
}

fn install(packages: &[&str]) -> Result<()> {
    let list = packages.join(" ");
    if !present("apt-get") {
        bail!(
            "missing on this machine: {list} (Debian's names); there is no apt-get here, so install them by hand"
        );
    }
    if !Uid::effective().is_root() {
        bail!("missing on this machine: {list}; run this as root, or first: sudo apt-get install {list}");
    }
    eprintln!("set-up: installing {list}");
    command::run(Command::new("apt-get").args(["update", "-qq"]))?;
    let mut apt = Command::new("apt-get");
    apt.env("DEBIAN_FRONTEND", "noninteractive");
    command::run(
        apt.args(["-o", "DPkg::Lock::Timeout=300", "install", "-y", "-qq", "--no-install-recommends"])
            .args(packages),
    )
}

/// Whether a program is in `PATH`, or a file is there if a path is given.
pub fn present(program: &str) -> bool {
    if program.starts_with('/') {
        return Path::new(program).exists();
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|folder| folder.join(program).is_file())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_are_found_by_name_and_by_path() {
        assert!(present("sh"));
        assert!(present("/proc/self/status"));
        assert!(!present("no-such-program-here"));
        assert!(!present("/no/such/file"));
    }
}
