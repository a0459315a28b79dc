//! What each part may do, to the letter: everything else is refused.

use std::collections::BTreeSet;

use anyhow::{Result, ensure};
use openlambda_tests::kubernetes::{attempt, kubectl};

use crate::shared;

/// Resource and verbs, one line each, as `kubectl auth can-i --list` has them.
const AGENT: [&str; 5] = [
    "configmaps [] [] [get list watch]",
    "controllerrevisions.apps [] [] [get]",
    "handlers.openlambda.dev [] [] [list watch]",
    "lambdaclusters.openlambda.dev [] [] [list watch]",
    "secrets [] [] [get]",
];
const LARD: [&str; 2] =
    ["endpointslices.discovery.k8s.io [] [] [list watch]", "handlers.openlambda.dev [] [] [list watch]"];

#[test]
fn agents_and_lard_may_read_what_they_serve() -> Result<()> {
    let release = shared::release()?;
    let namespace = release.namespace.name();
    for (account, wanted) in [("demo-agent", &AGENT[..]), ("demo-lard", &LARD[..])] {
        let has = rights(namespace, account, namespace)?;
        let wanted: BTreeSet<String> = wanted.iter().map(|&line| line.to_owned()).collect();
        ensure!(has == wanted, "{account} has {has:#?}, not {wanted:#?}");
        for elsewhere in ["default", "kube-system"] {
            let has = rights(namespace, account, elsewhere)?;
            ensure!(has.is_empty(), "{account} has rights in {elsewhere}: {has:#?}");
        }
    }
    Ok(())
}

#[test]
fn the_operator_may_do_its_work_in_its_namespace() -> Result<()> {
    let release = shared::release()?;
    let namespace = release.namespace.name();
    let account = format!("{}-openlambda-operator", release.name());
    for elsewhere in ["default", "kube-system"] {
        let has = rights(namespace, &account, elsewhere)?;
        ensure!(has.is_empty(), "the operator has rights in {elsewhere}: {has:#?}");
    }
    let user = format!("--as=system:serviceaccount:{namespace}:{account}");
    for refused in [
        &["create", "handlers"][..],
        &["delete", "handlers"],
        &["patch", "handlers"],
        &["patch", "lambdaclusters"],
        &["delete", "lambdaclusters"],
        &["list", "secrets"],
        &["watch", "secrets"],
        &["patch", "secrets"],
        &["delete", "secrets"],
        &["get", "persistentvolumeclaims"],
        &["delete", "persistentvolumeclaims"],
        &["create", "pods"],
        &["delete", "pods"],
        &["deletecollection", "configmaps"],
        &["escalate", "roles"],
        &["bind", "roles"],
        &["impersonate", "serviceaccounts"],
        &["list", "leases"],
        &["list", "nodes"],
        &["list", "namespaces"],
        &["get", "customresourcedefinitions"],
        &["create", "pods", "--subresource=exec"],
        &["get", "pods", "--subresource=log"],
        &["create", "serviceaccounts", "--subresource=token"],
    ] {
        let question = [&["auth", "can-i"][..], refused, &["--namespace", namespace, &user]].concat();
        let outcome = attempt("kubectl", &question, "")?;
        ensure!(!outcome.success && outcome.text.contains("no"), "the operator may {refused:?}");
    }
    Ok(())
}

/// Tried, not asked: what an agent's own token is refused.
#[test]
fn an_agents_token_opens_nothing_else() -> Result<()> {
    let release = shared::release()?;
    let agent = release.agents()?.swap_remove(0);
    let code = r#"
import json, os, ssl, urllib.request, urllib.error
folder = "/var/run/secrets/kubernetes.io/serviceaccount/"
base = "https://%s:%s" % (os.environ["KUBERNETES_SERVICE_HOST"], os.environ["KUBERNETES_SERVICE_PORT"])
space = open(folder + "namespace").read()
context = ssl.create_default_context(cafile=folder + "ca.crt")
for path in ("/apis/openlambda.dev/v1alpha1/namespaces/%s/handlers" % space, "/api/v1/namespaces/%s/secrets" % space,
             "/api/v1/namespaces/%s/pods" % space, "/api/v1/nodes", "/api/v1/namespaces/kube-system/secrets"):
    request = urllib.request.Request(base + path, headers={"Authorization": "Bearer " + open(folder + "token").read()})
    try:
        print(urllib.request.urlopen(request, context=context).status)
    except urllib.error.HTTPError as error:
        print(error.code)
"#;
    let namespace = release.namespace.name();
    let told = kubectl(&["--namespace", namespace, "exec", &agent, "--", "/usr/bin/python3", "-c", code])?;
    ensure!(told.split_whitespace().eq(["200", "403", "403", "403", "403"]), "{told}");
    Ok(())
}

/// The rights of an account in a namespace beyond those of an account that was given nothing.
fn rights(home: &str, account: &str, namespace: &str) -> Result<BTreeSet<String>> {
    let list = |account: &str| -> Result<BTreeSet<String>> {
        let user = format!("--as=system:serviceaccount:{home}:{account}");
        let table = kubectl(&["auth", "can-i", "--list", "--no-headers", "--namespace", namespace, &user])?;
        Ok(table.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect())
    };
    Ok(list(account)?.difference(&list("nobody")?).cloned().collect())
}
