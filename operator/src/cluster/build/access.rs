//! Who agents and lard are, and the little they may do: read what they serve. lard writes Handlers only where it takes uploads.

use k8s_openapi::api::core::v1::ServiceAccount;
use k8s_openapi::api::rbac::v1::{PolicyRule, Role, RoleBinding, RoleRef, Subject};
use openlambda_api::labels::{self, Component, children};

use super::ValidCluster;

const BOTH: [Component; 2] = [Component::Agent, Component::Lard];

fn name(cluster: &ValidCluster, component: Component) -> String {
    match component {
        Component::Agent => children::agent(&cluster.name),
        Component::Lard => children::lard(&cluster.name),
        Component::Registry => children::registry(&cluster.name),
    }
}

pub(super) fn service_accounts(cluster: &ValidCluster) -> Vec<ServiceAccount> {
    let account = |component| ServiceAccount {
        metadata: cluster.meta(name(cluster, component), component),
        // A pod asks for its token itself.
        automount_service_account_token: Some(false),
        ..ServiceAccount::default()
    };
    BOTH.map(account).into()
}

pub(super) fn roles(cluster: &ValidCluster) -> Vec<Role> {
    let role = |component| Role {
        metadata: cluster.meta(name(cluster, component), component),
        rules: Some(rules(component, cluster.takes_uploads())),
    };
    BOTH.map(role).into()
}

/// To follow objects of a kind.
const WATCH: [&str; 2] = ["list", "watch"];

/// For a lard that takes uploads: they become Handlers.
const WRITE: [&str; 4] = ["get", "create", "patch", "delete"];

/// What they do, no more. The operator may give only what it has itself: the chart's role must contain these.
fn rules(component: Component, takes_uploads: bool) -> Vec<PolicyRule> {
    let follow = |group, kind| rule(group, &[kind], &WATCH);
    match component {
        Component::Agent => vec![
            follow(labels::GROUP, "handlers"),
            // Their metadata, to know whose a handler is that names none.
            follow(labels::GROUP, "lambdaclusters"),
            // Read one by one, as handlers name them; all are followed by their metadata.
            rule("", &["configmaps"], &["get", "list", "watch"]),
            // Nobody lists them.
            rule("", &["secrets"], &["get"]),
            // Former revisions that get a part of the calls.
            rule("apps", &["controllerrevisions"], &["get"]),
        ],
        Component::Lard => {
            let writes = takes_uploads.then(|| rule(labels::GROUP, &["handlers"], &WRITE));
            let reads = [follow(labels::GROUP, "handlers"), follow("discovery.k8s.io", "endpointslices")];
            reads.into_iter().chain(writes).collect()
        }
        // It asks nobody, and is nobody.
        Component::Registry => Vec::new(),
    }
}

fn rule(group: &str, resources: &[&str], verbs: &[&str]) -> PolicyRule {
    let owned = |list: &[&str]| list.iter().map(|&one| one.to_owned()).collect();
    PolicyRule {
        api_groups: Some(vec![group.to_owned()]),
        resources: Some(owned(resources)),
        verbs: owned(verbs),
        ..PolicyRule::default()
    }
}

pub(super) fn role_bindings(cluster: &ValidCluster) -> Vec<RoleBinding> {
    let binding = |component| RoleBinding {
        metadata: cluster.meta(name(cluster, component), component),
        role_ref: RoleRef {
            api_group: "rbac.authorization.k8s.io".into(),
            kind: "Role".into(),
            name: name(cluster, component),
        },
        subjects: Some(vec![Subject {
            kind: "ServiceAccount".into(),
            name: name(cluster, component),
            namespace: Some(cluster.namespace.clone()),
            api_group: None,
        }]),
    };
    BOTH.map(binding).into()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    const CHART: &str = include_str!("../../../../charts/openlambda/templates/rbac.yaml");

    /// Every single right in a list of rules.
    fn rights(rules: &[PolicyRule]) -> BTreeSet<String> {
        let mut all = BTreeSet::new();
        for rule in rules {
            for group in rule.api_groups.iter().flatten() {
                for resource in rule.resources.iter().flatten() {
                    all.extend(rule.verbs.iter().map(|verb| format!("{verb} {resource}.{group}")));
                }
            }
        }
        all
    }

    /// A part of the operator's rules, which stand in the chart without templating.
    fn part(name: &str) -> BTreeSet<String> {
        let (_, text) = CHART.split_once(&format!("{{{{- define \"openlambda.{name}\" -}}}}")).unwrap();
        let (text, _) = text.split_once("{{- end }}").unwrap();
        let rules: Vec<PolicyRule> = serde_saphyr::from_str(text).unwrap();
        rights(&rules)
    }

    #[test]
    fn the_chart_gives_the_operator_what_it_gives_on() {
        let (always, for_uploads) = (part("rules"), part("registryAPIRules"));
        assert!(always.contains("patch handlers/status.openlambda.dev"), "{always:#?}");
        for component in BOTH {
            for takes_uploads in [false, true] {
                let given = rights(&rules(component, takes_uploads));
                let held =
                    always.iter().chain(for_uploads.iter().filter(|_| takes_uploads)).cloned().collect();
                let lacking: Vec<_> = given.difference(&held).collect();
                assert!(lacking.is_empty(), "{component:?}: {lacking:#?}");
            }
        }
        // Where no lard takes uploads the operator cannot write Handlers.
        let both: Vec<_> = always.intersection(&for_uploads).collect();
        assert_eq!(both, ["get handlers.openlambda.dev"]);
    }

    #[test]
    fn agents_and_lard_may_only_read() {
        for component in BOTH {
            for right in rights(&rules(component, false)) {
                assert!(["get ", "list ", "watch "].iter().any(|verb| right.starts_with(verb)), "{right}");
            }
        }
        let lard = rights(&rules(Component::Lard, true));
        assert!(lard.iter().all(|right| !right.contains("secrets") && !right.contains("configmaps")));
    }

    #[test]
    fn uploads_let_lard_write_handlers_and_nothing_else() {
        let more: Vec<_> = rights(&rules(Component::Lard, true))
            .difference(&rights(&rules(Component::Lard, false)))
            .cloned()
            .collect();
        let all = ["create", "delete", "get", "patch"].map(|verb| format!("{verb} handlers.openlambda.dev"));
        assert_eq!(more, all);
        assert_eq!(rights(&rules(Component::Agent, true)), rights(&rules(Component::Agent, false)));
    }
}
