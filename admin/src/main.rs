//! `admin`: the command line of OpenLambda, with the original's commands.
//!
//! It writes configuration files, starts the worker and the balancer as processes of their own, and asks or ends
//! them. It holds no logic of theirs. Exit codes: 0 done, 1 failed, 2 wrong usage.

use std::io::{self, Write};
use std::process::ExitCode;

use anyhow::Result;
use clap::{CommandFactory, Parser};

mod args;
mod argv;
mod balancer;
mod cluster;
mod completion;
mod deploy;
mod execute;
mod invoke;
mod kubernetes;
mod launch;
mod logs;
mod new;
mod ping;
mod plugin;
mod ports;
mod process;
mod registry;
mod revisions;
mod setconf;
mod status;
mod stop;
mod store;
mod table;
mod targets;
mod upload;
mod workers;
mod zygotes;

use args::{Cli, Command};
use kubernetes::Place;

fn main() -> ExitCode {
    let argv = argv::normalize(std::env::args_os(), &Cli::command());
    let argv =
        if plugin::is_meant(&argv) { plugin::rewrite(argv, &plugin::namespace_of_kubeconfig) } else { argv };
    let cli = match Cli::try_parse_from(argv) {
        Ok(cli) => cli,
        Err(error) => {
            // Help and version are "errors" that go to stdout with code 0; a closed pipe is nobody's fault.
            let _ = error.print();
            return ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2));
        }
    };
    match run(cli.command, &mut io::stdout().lock()) {
        Ok(code) => code,
        Err(error) => {
            let _ = writeln!(io::stderr(), "admin: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(command: Command, out: &mut dyn Write) -> Result<ExitCode> {
    match command {
        Command::New(args) => match Place::of(&args.cluster.cluster)? {
            Some(place) => kubernetes::new(place, &args.base, out)?,
            None => new::run(&args, out)?,
        },
        Command::Setconf(args) => match Place::of(&args.cluster.cluster)? {
            Some(place) => kubernetes::set(place, &args.json, out)?,
            None => setconf::run(&args, out)?,
        },
        Command::Workers(args) => match Place::of(&args.cluster.cluster)? {
            Some(place) => kubernetes::workers(place, &args, out)?,
            None => workers::run(&args, out)?,
        },
        Command::WorkerExec(args) => execute::run(execute::WORKER, &args)?,
        Command::LoadBalancer(args) => balancer::run(&args, out)?,
        Command::LoadBalancerExec(args) => execute::run(execute::BALANCER, &args)?,
        Command::Status(args) => match Place::of(&args.cluster.cluster)? {
            Some(place) => return kubernetes::status(place, out),
            None => return status::run(&args, out),
        },
        Command::Zygotes(args) => return zygotes::run(&args, out),
        Command::Targets(args) => return targets::run(&args, out),
        Command::Kill(args) => match Place::of(&args.cluster.cluster)? {
            Some(place) => kubernetes::end(place, out)?,
            None => stop::run(&args, out)?,
        },
        Command::Registry(args) => registry::run(&args, out)?,
        Command::RegistryExec(args) => execute::run(execute::REGISTRY, &args)?,
        Command::Upload(args) => return upload::run(&args, out),
        Command::List(args) => revisions::list(&args, out)?,
        Command::Describe(args) => revisions::describe(&args, out)?,
        Command::Rollback(args) => return revisions::roll_back(&args, out),
        Command::Download(args) => revisions::download(&args, out)?,
        Command::Delete(args) => return revisions::delete(&args, out),
        Command::Invoke(args) => return invoke::run(&args, out),
        Command::Logs(args) => logs::run(&args, out)?,
        Command::Completion(args) => completion::run(&args, out),
    }
    Ok(ExitCode::SUCCESS)
}
