//! Who agents and lard are, and the little they may do: read what they serve.

use k8s_openapi::api::core::v1::ServiceAccount;
use k8s_openapi::api::rbac::v1::{PolicyRule, Role, RoleBinding, RoleRef, Subject};
use openlambda_api::labels::{self, Component, children};

use super::ValidCluster;

const BOTH: [Component; 2] = [Component::Agent, Component::Lard];

fn name(cluster: &ValidCluster, component: Component) -> String {
    match component {
        Component::Agent => children::agent(&cluster.name),
        Component::Lard => children::lard(&cluster.name),
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
        rules: Some(rules(component)),
    };
    BOTH.map(role).into()
}

const WATCH: [&str; 3] = ["get", "list", "watch"];

/// The operator may give only what it has itself: the chart's role must contain these.
fn rules(component: Component) -> Vec<PolicyRule> {
    let handlers = rule(labels::GROUP, &["handlers"], &WATCH);
    match component {
        // Secrets are read one by one, as handlers name them; nobody lists them.
        Component::Agent => {
            vec![handlers, rule("", &["configmaps"], &WATCH), rule("", &["secrets"], &["get"])]
        }
        Component::Lard => vec![handlers, rule("discovery.k8s.io", &["endpointslices"], &WATCH)],
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
