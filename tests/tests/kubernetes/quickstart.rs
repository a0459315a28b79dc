//! The commands of `docs/quickstart.md` as they stand there, but for those of kind and the images: this cluster is there
//! already, and has images of another tag.

use std::fs;

use anyhow::{Context as _, Result, ensure};
use openlambda_tests::kubernetes::{Namespace, attempt, helm, image_tag, node_ip, repository};
use openlambda_tests::until_within;

const DOCUMENT: &str = "docs/quickstart.md";
const NAMESPACE: &str = "functions";
/// Where kind-config.yaml lets this machine reach lard, and what is there without kind.
const HERE: &str = "127.0.0.1:7079";
const NODE_PORT: u16 = 30079;

/// The commands of a section; what comes before the first heading has an empty one.
fn commands(section: &str) -> Result<Vec<String>> {
    let text = fs::read_to_string(repository().join(DOCUMENT)).context(DOCUMENT)?;
    let (mut heading, mut inside, mut all) = ("", false, Vec::new());
    for line in text.lines() {
        match line {
            "```sh" => inside = true,
            "```" => inside = false,
            _ if inside && heading == section => all.push(line.to_owned()),
            _ if line.starts_with("## ") => heading = line.trim_start_matches("## "),
            _ => {}
        }
    }
    ensure!(!all.is_empty(), "{DOCUMENT} has no commands in the section {section:?}");
    Ok(all)
}

/// Runs a command as a user would, from the root of the checkout. Gives what it said.
fn run(command: &str) -> Result<String> {
    let line = format!("cd '{}' && {command}", repository().display());
    let outcome = attempt("sh", &["-c", &line], "")?;
    ensure!(outcome.success, "{command}: {}", outcome.text);
    Ok(outcome.text)
}

/// Whether it is for the cluster itself or for its images, which are there.
fn is_there(command: &str) -> bool {
    command.starts_with("kind ") || command.starts_with("cargo xtask image")
}

fn adapted(command: &str) -> Result<String> {
    let mut command = command.replace(HERE, &format!("{}:{NODE_PORT}", node_ip(1)?));
    if command.contains("charts/openlambda ") {
        command += &format!(" --set image.tag={}", image_tag());
    }
    Ok(command)
}

#[test]
fn the_quick_start_is_five_commands_a_wait_and_an_answer() -> Result<()> {
    let namespace = Namespace::new(NAMESPACE)?;
    helm(&["uninstall", "openlambda-crds", "--namespace", "default", "--ignore-not-found"])?;
    let all = commands("")?;
    let setup = all.iter().take_while(|command| !command.starts_with("kubectl wait")).count();
    ensure!(setup <= 5, "the set-up has {setup} commands");
    let mut said = String::new();
    for command in all.iter().filter(|command| !is_there(command)) {
        said = run(&adapted(command)?)?;
    }
    let call = all.last().context("no commands")?;
    let (_, promised) = call.split_once("# ").context("the call does not say what it answers")?;
    ensure!(said.contains(promised), "{call} answers {said}");
    run(&format!("helm test openlambda --namespace {NAMESPACE}"))?;

    for command in commands("Take it away")?.iter().filter(|command| !is_there(command)) {
        run(command)?;
    }
    let gone = until_within(std::time::Duration::from_secs(90), "the end of the pods", || {
        Ok(namespace.list("pods")?.is_empty().then_some(()))
    });
    gone.with_context(|| namespace.pods())
}
