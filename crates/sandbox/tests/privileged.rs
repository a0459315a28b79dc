//! Tests of the kernel side, as root: real Zygotes, real sandboxes, on whichever cgroup version is mounted.
//!
//! Not the standard harness, as the machine must be prepared before any thread exists, and the nursery is this binary started anew.
//! Needs the Python runtime in `OPENLAMBDA_RUNTIME_DIR` (`cargo xtask test` sees to it). What cannot run here fails.

// It is its own test runner: what it has to say goes to the terminal.
#![allow(clippy::print_stderr)]

#[path = "privileged/branches.rs"]
mod branches;
#[path = "privileged/fixture.rs"]
mod fixture;
#[path = "privileged/isolation.rs"]
mod isolation;
#[path = "privileged/life.rs"]
mod life;
#[path = "privileged/limits.rs"]
mod limits;
#[path = "privileged/tools.rs"]
mod tools;

use std::process::ExitCode;

use libtest_mimic::{Arguments, Trial};

fn main() -> ExitCode {
    if std::env::args().nth(1).as_deref() == Some("spawner") {
        return openlambda_sandbox::spawner_main();
    }
    let mut arguments = Arguments::from_args();
    arguments.test_threads = Some(1);
    if arguments.list {
        return libtest_mimic::run(&arguments, trials(None)).exit_code();
    }
    let fixture = match fixture::Fixture::new() {
        Ok(fixture) => fixture,
        Err(error) => {
            eprintln!("the privileged tests cannot run: {error:#}");
            return ExitCode::FAILURE;
        }
    };
    let conclusion = libtest_mimic::run(&arguments, trials(Some(&fixture)));
    match fixture.finish() {
        Ok(()) => conclusion.exit_code(),
        Err(error) => {
            eprintln!("after the tests: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn trials(fixture: Option<&fixture::Fixture>) -> Vec<Trial> {
    [life::TESTS, isolation::TESTS, limits::TESTS, tools::TESTS, branches::TESTS]
        .concat()
        .into_iter()
        .map(|(name, test)| {
            let fixture = fixture.cloned();
            Trial::test(name, move || {
                let fixture = fixture.ok_or("no fixture")?;
                fixture.run(test).map_err(|error| format!("{error:#}").into())
            })
        })
        .collect()
}
