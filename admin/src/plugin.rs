//! The same program as a plugin of kubectl: under the name `kubectl-openlambda`, `--cluster [[CONTEXT/]NAMESPACE/]NAME` is a
//! `LambdaCluster`, and `--namespace` (`-n`, as of every command of kubectl) and `--context` say what it leaves out.

use std::ffi::OsString;
use std::path::Path;

use kube::config::Kubeconfig;

use crate::kubernetes::SCHEME;

/// What kubectl looks for.
const NAME: &str = "kubectl-openlambda";

/// Whether the program was called under that name.
pub fn is_meant(argv: &[OsString]) -> bool {
    argv.first().is_some_and(|program| Path::new(program).file_name().is_some_and(|name| name == NAME))
}

/// Makes `--cluster` a place with a scheme. `namespace_of` gives that of a context, the current one if none is given.
pub fn rewrite(argv: Vec<OsString>, namespace_of: &dyn Fn(Option<&str>) -> Option<String>) -> Vec<OsString> {
    let (mut namespace, mut context, mut rest) = (None, None, Vec::new());
    let counts = argv.iter().any(|argument| argument == "workers");
    let mut argv = argv.into_iter().peekable();
    while let Some(argument) = argv.next() {
        if argument == "--" {
            rest.push(argument);
            break;
        }
        match flag(&argument).or_else(|| short(&argument, argv.peek(), counts)) {
            Some(("--namespace", value)) => namespace = value.or_else(|| next(&mut argv)),
            Some(("--context", value)) => context = value.or_else(|| next(&mut argv)),
            _ => rest.push(argument),
        }
    }
    let mut is_value = false;
    for argument in &mut rest {
        let given = match flag(argument) {
            Some(("--cluster", Some(value))) => value,
            _ if is_value => argument.to_string_lossy().into_owned(),
            _ => {
                is_value = argument == "--cluster";
                continue;
            }
        };
        let place = place(&given, context.as_deref(), || {
            namespace
                .clone()
                .or_else(|| namespace_of(context.as_deref()))
                .unwrap_or_else(|| "default".to_owned())
        });
        *argument = if is_value { place.into() } else { format!("--cluster={place}").into() };
        is_value = false;
    }
    rest.extend(argv);
    rest
}

/// A long flag with its value, if that is in the same word.
fn flag(argument: &OsString) -> Option<(&str, Option<String>)> {
    let text = argument.to_str().filter(|text| text.starts_with("--"))?;
    Some(text.split_once('=').map_or((text, None), |(name, value)| (name, Some(value.to_owned()))))
}

/// `-n NAMESPACE`, `-nNAMESPACE` or `-n=NAMESPACE`; and the long flags with one dash, as all others may be written. `counts`: whether
/// the command is `workers`, whose `-n` is a number.
fn short<'a>(
    argument: &'a OsString,
    next: Option<&OsString>,
    counts: bool,
) -> Option<(&'a str, Option<String>)> {
    let text = argument.to_str()?;
    let (name, value) =
        text.split_once('=').map_or((text, None), |(name, value)| (name, Some(value.to_owned())));
    match name {
        "-namespace" => return Some(("--namespace", value)),
        "-context" => return Some(("--context", value)),
        _ => {}
    }
    let rest = text.strip_prefix("-n")?;
    let rest = rest.strip_prefix('=').unwrap_or(rest);
    let given = if rest.is_empty() { next.and_then(|next| next.to_str()).unwrap_or_default() } else { rest };
    let is_number = !given.is_empty() && given.bytes().all(|byte| byte.is_ascii_digit());
    (!(counts && is_number)).then(|| ("--namespace", (!rest.is_empty()).then(|| rest.to_owned())))
}

fn next(argv: &mut impl Iterator<Item = OsString>) -> Option<String> {
    argv.next().map(|value| value.to_string_lossy().into_owned())
}

fn place(given: &str, context: Option<&str>, namespace: impl Fn() -> String) -> String {
    if given.starts_with(SCHEME) {
        return given.to_owned();
    }
    let context = context.map(|context| format!("{context}/")).unwrap_or_default();
    match given.split('/').count() {
        1 => format!("{SCHEME}{context}{}/{given}", namespace()),
        2 => format!("{SCHEME}{context}{given}"),
        _ => format!("{SCHEME}{given}"),
    }
}

/// The namespace of a context of the kubeconfig, of the current one if none is given.
pub fn namespace_of_kubeconfig(context: Option<&str>) -> Option<String> {
    let file = Kubeconfig::read().ok()?;
    let name = context.map(str::to_owned).or(file.current_context)?;
    let context = file.contexts.into_iter().find(|one| one.name == name)?;
    context.context?.namespace
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rewritten(text: &str) -> String {
        let argv = text.split(' ').map(OsString::from).collect();
        let namespace = |context: Option<&str>| context.is_none().then(|| "here".to_owned());
        let words = rewrite(argv, &namespace);
        words.iter().map(|word| word.to_str().unwrap()).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn what_cluster_leaves_out_is_filled_in() {
        for (given, place) in [
            ("--cluster c", "k8s://here/c"),
            ("--cluster n/c", "k8s://n/c"),
            ("--cluster x/n/c", "k8s://x/n/c"),
            ("--cluster k8s://n/c --namespace o", "k8s://n/c"),
            ("--namespace o --cluster c", "k8s://o/c"),
            ("--cluster c --namespace=o", "k8s://o/c"),
            ("--context x --cluster c", "k8s://x/default/c"),
            ("--context=x --cluster n/c", "k8s://x/n/c"),
            ("-n o --cluster c", "k8s://o/c"),
            ("--cluster c -n=o", "k8s://o/c"),
            ("--cluster c -no", "k8s://o/c"),
            ("-n 3 --cluster c", "k8s://3/c"),
            ("-namespace o -context=x --cluster c", "k8s://x/o/c"),
        ] {
            assert_eq!(
                rewritten(&format!("p upload {given} --handler h")),
                format!("p upload --cluster {place} --handler h")
            );
        }
        assert_eq!(rewritten("p list --cluster=c"), "p list --cluster=k8s://here/c");
        assert_eq!(
            rewritten("p setconf --cluster c -- --cluster"),
            "p setconf --cluster k8s://here/c -- --cluster"
        );
    }

    #[test]
    fn a_number_is_one_of_workers() {
        for number in ["-n 3", "-n3", "-n=3"] {
            let place = "--cluster k8s://here/c";
            assert_eq!(
                rewritten(&format!("p workers {number} --cluster c")),
                format!("p workers {number} {place}")
            );
        }
        assert_eq!(
            rewritten("p workers -n team-3 --cluster c -n 3"),
            "p workers --cluster k8s://team-3/c -n 3"
        );
    }

    #[test]
    fn only_under_its_name() {
        assert!(is_meant(&["/usr/bin/kubectl-openlambda".into()]));
        assert!(!is_meant(&["/usr/bin/admin".into()]) && !is_meant(&[]));
    }
}
