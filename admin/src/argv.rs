//! Makes the original's `-cluster X` into `--cluster X` before clap sees it.
//!
//! The original's parser takes one dash or two for every flag. Only names that some command knows as long flags are
//! changed, so that `-p 80`, `-p80` and `-n2` stay what they are.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;

/// Gives long flags with one dash their second one. What follows a lone `--` is left alone.
pub fn normalize(argv: impl IntoIterator<Item = OsString>, command: &clap::Command) -> Vec<OsString> {
    let known = long_flags(command);
    let mut literal = false;
    let mut normalized = Vec::new();
    for argument in argv {
        literal |= argument == "--";
        let short = !literal && is_long_with_one_dash(&argument, &known);
        normalized.push(if short { prefixed(&argument) } else { argument });
    }
    normalized
}

/// The long flags of a command and all below it, and those that clap adds itself.
fn long_flags(command: &clap::Command) -> Vec<String> {
    let own = command.get_arguments().filter_map(|arg| arg.get_long()).map(str::to_owned);
    let below = command.get_subcommands().flat_map(long_flags);
    own.chain(below).chain(["help".to_owned(), "version".to_owned()]).collect()
}

fn is_long_with_one_dash(argument: &OsStr, known: &[String]) -> bool {
    let Some(rest) = argument.as_bytes().strip_prefix(b"-") else { return false };
    let name = rest.split(|byte| *byte == b'=').next().unwrap_or_default();
    name.len() > 1 && known.iter().any(|long| long.as_bytes() == name)
}

fn prefixed(argument: &OsStr) -> OsString {
    let mut long = OsString::from("-");
    long.push(argument);
    long
}

#[cfg(test)]
mod tests {
    use clap::{CommandFactory, Parser};

    use super::*;
    use crate::args::{Cli, Command};

    fn argv(text: &str) -> Vec<OsString> {
        normalize(text.split(' ').map(OsString::from), &Cli::command())
    }

    fn parse(text: &str) -> Command {
        Cli::try_parse_from(argv(text)).unwrap().command
    }

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_spelling_is_the_same() {
        for text in [
            "admin workers -cluster c -num-workers 3 -port 90",
            "admin workers -cluster=c -num-workers=3 -port=90",
            "admin workers --cluster=c --num-workers=3 --port=90",
            "admin workers --cluster c --num-workers 3 --port 90",
            "admin workers -n 3 -p 90 --cluster c",
            "admin workers -n3 -p90 -cluster c",
            "admin workers -n=3 -p=90 -cluster c",
        ] {
            let Command::Workers(args) = parse(text) else { panic!("{text}") };
            let port = args.port;
            assert_eq!(
                (args.cluster.cluster.to_str(), args.num_workers, port),
                (Some("c"), Some(3), Some(90)),
                "{text}"
            );
        }
        for text in ["-config=f", "-config f", "--config=f", "-c f", "--config f"] {
            let Command::WorkerExec(args) = parse(&format!("admin worker-exec {text}")) else {
                panic!("{text}")
            };
            assert_eq!(args.config.to_str(), Some("f"), "{text}");
        }
    }

    #[test]
    fn the_rest_is_left_alone() {
        for text in ["admin -x", "admin - -- -cluster", "admin -clusters", "admin {\"a\":-1}", "admin -"] {
            assert_eq!(argv(text), text.split(' ').map(OsString::from).collect::<Vec<_>>());
        }
        assert_eq!(argv("admin -help")[1], "--help");
        assert_eq!(Cli::try_parse_from(argv("admin workers")).unwrap_err().exit_code(), 2);
    }
}
