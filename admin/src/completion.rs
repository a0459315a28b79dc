//! `admin completion`: a script for a shell.

use std::io::Write;

use clap::CommandFactory;

use crate::args::{Cli, Completion};

pub fn run(args: &Completion, out: &mut dyn Write) {
    let mut command = Cli::command();
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut command, "admin", &mut script);
    // A reader that closes the pipe has what it wanted.
    let _ = out.write_all(&script);
}
