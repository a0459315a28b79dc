//! Who may depend on whom: the picture in ARCHITECTURE.md is the rule, cargo's metadata the fact.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result, bail};

use crate::metadata::{self, Packages};
use crate::workspace::Workspace;

const PICTURE: &str = "ARCHITECTURE.md";
/// Crates that decide without a clock, a file, a socket or a system call may not even reach for one.
const PURE: [&str; 2] = ["api", "policy"];
const IMPURE: [&str; 9] =
    ["axum", "hyper", "hyper-util", "kube", "libc", "nix", "prometheus", "rustix", "tokio"];
/// The only packages that may allow `unsafe`.
const UNSAFE: [&str; 2] = ["crates/sandbox/", "runtime/native/"];
/// The only package that may have binaries' crates as tools of its own; nothing depends on these.
const LEAVES: [&str; 2] = ["tests", "xtask"];

type Edges = BTreeSet<(String, String)>;

/// Fails with all that is wrong.
pub fn check(workspace: &Workspace) -> Result<()> {
    let path = workspace.path(PICTURE);
    let text = fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
    let packages = metadata::packages(workspace)?;
    let mut wrong = compare(&picture(&text)?, &packages);
    wrong.extend(rules(&packages));
    unsafe_files(&workspace.root, &workspace.root, &mut wrong)?;
    if !wrong.is_empty() {
        bail!("dependency directions:\n  {}", wrong.join("\n  "));
    }
    println!("dependency directions are as {PICTURE} draws them");
    Ok(())
}

/// The arrows of the one mermaid graph.
fn picture(text: &str) -> Result<Edges> {
    let graphs: Vec<&str> = text
        .split("```mermaid\n")
        .skip(1)
        .filter_map(|rest| rest.split("```").next())
        .filter(|block| block.trim_start().starts_with("graph"))
        .collect();
    let [graph] = graphs[..] else {
        bail!(
            "{PICTURE} must have exactly one mermaid block that begins with `graph`; it has {}",
            graphs.len()
        );
    };
    Ok(graph.lines().filter_map(|line| line.split_once("-->")).flat_map(arrows).collect())
}

/// `a --> b & c` gives two arrows.
fn arrows((from, to): (&str, &str)) -> Vec<(String, String)> {
    let nodes = |side: &str| side.split('&').map(|node| node.trim().to_owned()).collect::<Vec<_>>();
    let targets = nodes(to);
    nodes(from)
        .into_iter()
        .flat_map(|from| targets.clone().into_iter().map(move |to| (from.clone(), to)))
        .collect()
}

fn compare(drawn: &Edges, packages: &Packages) -> Vec<String> {
    let real: Edges = packages
        .iter()
        .flat_map(|(name, package)| package.ours.iter().map(move |other| (name.clone(), other.clone())))
        .collect();
    let missing =
        real.difference(drawn).map(|(a, b)| format!("{a} depends on {b}, but {PICTURE} has no arrow for it"));
    let idle = drawn
        .difference(&real)
        .map(|(a, b)| format!("{PICTURE} draws {a} --> {b}, but {a} does not depend on it"));
    missing.chain(idle).collect()
}

/// What no picture may change.
fn rules(packages: &Packages) -> Vec<String> {
    let mut wrong = Vec::new();
    for (name, package) in packages {
        for other in &package.ours {
            let binary = packages.get(other).is_some_and(|other| other.is_binary);
            // The soak is a test and a task.
            let soak = (name.as_str(), other.as_str()) == ("xtask", "tests");
            if (binary || LEAVES.contains(&other.as_str())) && !soak {
                wrong.push(format!(
                    "{name} depends on {other}, which no package may depend on: it is a binary or a tool"
                ));
            }
        }
        if PURE.contains(&name.as_str()) {
            let impure = package.foreign.iter().filter(|other| IMPURE.contains(&other.as_str()));
            wrong.extend(
                impure.map(|other| format!("{name} depends on {other}, but it must not be able to do I/O")),
            );
            wrong.extend(
                package
                    .ours
                    .iter()
                    .map(|other| format!("{name} depends on {other}, but it must stand alone")),
            );
        }
    }
    wrong
}

/// Finds `unsafe_code` being allowed where it may not be; the lint itself finds the rest.
fn unsafe_files(root: &Path, folder: &Path, wrong: &mut Vec<String>) -> Result<()> {
    for entry in fs::read_dir(folder).with_context(|| format!("cannot read {}", folder.display()))? {
        let path = entry?.path();
        let inside = path.strip_prefix(root).unwrap_or(&path).to_string_lossy().into_owned();
        if path.is_dir() {
            if !inside.starts_with('.') && !inside.starts_with("target") {
                unsafe_files(root, &path, wrong)?;
            }
        } else if inside.ends_with(".rs") && !UNSAFE.iter().any(|place| inside.starts_with(place)) {
            let text = fs::read_to_string(&path).unwrap_or_default();
            if ["allow", "expect"].iter().any(|word| text.contains(&format!("{word}(unsafe_code"))) {
                wrong.push(format!("{inside} allows unsafe code; only {} may", UNSAFE.join(" and ")));
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metadata::Package;

    fn package(ours: &[&str], foreign: &[&str], is_binary: bool) -> Package {
        let set = |names: &[&str]| names.iter().map(|n| (*n).to_owned()).collect();
        Package { ours: set(ours), foreign: set(foreign), is_binary, tests: BTreeSet::new() }
    }

    fn edges(list: &[(&str, &str)]) -> Edges {
        list.iter().map(|(a, b)| ((*a).to_owned(), (*b).to_owned())).collect()
    }

    #[test]
    fn the_picture_is_read() {
        let text = "x\n```mermaid\nsequenceDiagram\na --> z\n```\n```mermaid\ngraph TD\n  a --> b & c\n  b --> c\n```\n";
        assert_eq!(picture(text).unwrap(), edges(&[("a", "b"), ("a", "c"), ("b", "c")]));
        assert!(picture("no picture").is_err());
    }

    #[test]
    fn differences_are_named_both_ways() {
        let packages = Packages::from([("lard".to_owned(), package(&["policy"], &[], true))]);
        let wrong = compare(&edges(&[("lard", "api")]), &packages);
        assert_eq!(wrong.len(), 2);
        assert!(wrong[0].starts_with("lard depends on policy"), "{wrong:?}");
        assert!(wrong[1].contains("draws lard --> api"), "{wrong:?}");
    }

    #[test]
    fn rules_hold_whatever_is_drawn() {
        let packages = Packages::from([
            ("admin".to_owned(), package(&["lard"], &[], true)),
            ("lard".to_owned(), package(&["policy"], &["hyper"], true)),
            ("policy".to_owned(), package(&["api"], &["tokio"], false)),
        ]);
        let wrong = rules(&packages);
        assert_eq!(wrong.len(), 3, "{wrong:?}");
    }
}
