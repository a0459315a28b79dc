//! The group, the labels and the field managers: how parts recognise what belongs to them.

/// The API group of all our kinds.
pub const GROUP: &str = "openlambda.dev";
/// The version of all our kinds.
pub const VERSION: &str = "v1alpha1";

/// The `LambdaCluster` that a child belongs to.
pub const CLUSTER: &str = "openlambda.dev/cluster";
/// The name of the application: always [`APP_NAME`].
pub const NAME: &str = "app.kubernetes.io/name";
/// The installation of the application: the `LambdaCluster`'s name.
pub const INSTANCE: &str = "app.kubernetes.io/instance";
/// The part: see [`Component`].
pub const COMPONENT: &str = "app.kubernetes.io/component";
/// Who made it: always [`MANAGED_BY_OPERATOR`].
pub const MANAGED_BY: &str = "app.kubernetes.io/managed-by";
/// The version of OpenLambda that made it.
pub const APP_VERSION: &str = "app.kubernetes.io/version";

/// Value of [`NAME`].
pub const APP_NAME: &str = "openlambda";
/// Value of [`MANAGED_BY`].
pub const MANAGED_BY_OPERATOR: &str = "openlambda-operator";

/// Annotation of a pod template: the digest of the configuration that it was made with. A new one restarts the pods.
pub const CONFIG_DIGEST: &str = "openlambda.dev/config-digest";

/// Annotation of a pod template: which keys of the embedded registry it was made with. New ones restart the pods.
pub const REGISTRY_KEYS: &str = "openlambda.dev/registry-keys";

/// Field manager for the children of a `LambdaCluster`.
pub const MANAGER_CHILDREN: &str = "openlambda-operator/children";
/// Field manager for `LambdaCluster.status`.
pub const MANAGER_CLUSTER_STATUS: &str = "openlambda-operator/cluster-status";
/// Field manager for `Handler.status`.
pub const MANAGER_HANDLER_STATUS: &str = "openlambda-operator/handler-status";

/// Field manager for revisions of a `Handler` that are kept.
pub const MANAGER_REVISIONS: &str = "openlambda-operator/revisions";

/// The port of agents and of lard for calls, inside the cluster's network.
pub const HTTP_PORT: u16 = 8080;
/// The port of agents and of lard for metrics, probes and state documents.
pub const ADMIN_PORT: u16 = 9080;
/// The port of an embedded registry.
pub const REGISTRY_PORT: u16 = 9000;

/// The part of a `LambdaCluster` that an object or a pod is for: the values of [`COMPONENT`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Component {
    /// The workers.
    Agent,
    /// The balancer.
    Lard,
    /// The embedded registry.
    Registry,
}

impl Component {
    /// The label's value.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Agent => "agent",
            Self::Lard => "lard",
            Self::Registry => "registry",
        }
    }
}

/// The names of the children of the `LambdaCluster` `cluster`.
pub mod children {
    /// DaemonSet, headless Service, ServiceAccount, Role, RoleBinding and NetworkPolicy of the agents.
    pub fn agent(cluster: &str) -> String {
        format!("{cluster}-agent")
    }

    /// Deployment, ServiceAccount, Role, RoleBinding and PodDisruptionBudget of lard.
    pub fn lard(cluster: &str) -> String {
        format!("{cluster}-lard")
    }

    /// StatefulSet, Service and Secret of the embedded registry.
    pub fn registry(cluster: &str) -> String {
        format!("{cluster}-registry")
    }

    /// The ConfigMap with [`WORKER_FILE`], [`BALANCER_FILE`] and, if there is one, [`REGISTRY_FILE`].
    pub fn config(cluster: &str) -> String {
        format!("{cluster}-config")
    }

    /// The Service of lard, and the Ingress.
    pub fn front(cluster: &str) -> String {
        cluster.to_owned()
    }

    /// The agents' configuration file in the ConfigMap.
    pub const WORKER_FILE: &str = "worker.json";
    /// lard's configuration file in the ConfigMap.
    pub const BALANCER_FILE: &str = "load_balancer.json";
    /// The embedded registry's configuration file in the ConfigMap.
    pub const REGISTRY_FILE: &str = "registry.json";
    /// Where the ConfigMap is mounted.
    pub const CONFIG_DIR: &str = "/etc/openlambda";
    /// Where the certificates for the package index are mounted, as [`CA_FILE`].
    pub const CA_DIR: &str = "/etc/openlambda-ca";
    /// The key of the ConfigMap with certificates, and so the file.
    pub const CA_FILE: &str = "ca.crt";
    /// Where the given tree of Zygotes is mounted, as [`TREE_FILE`].
    pub const TREE_DIR: &str = "/etc/openlambda-tree";
    /// The key of the ConfigMap with a tree of Zygotes, and so the file.
    pub const TREE_FILE: &str = "tree.json";
    /// Where the certificates for the registry are mounted, as [`CA_FILE`].
    pub const REGISTRY_CA_DIR: &str = "/etc/openlambda-registry-ca";
    /// The key of a Secret with the access key of a registry.
    pub const ACCESS_KEY: &str = "accessKeyID";
    /// The key of a Secret with the secret key of a registry.
    pub const SECRET_KEY: &str = "secretAccessKey";
    /// Where the token of lard's registry API is mounted, as [`TOKEN_FILE`].
    pub const TOKEN_DIR: &str = "/etc/openlambda-registry-api";
    /// The key of the Secret with that token, and so the file.
    pub const TOKEN_FILE: &str = "token";
    /// The variable of agents and lard with the access key of the registry.
    pub const REGISTRY_ACCESS_KEY: &str = "OPENLAMBDA_REGISTRY_ACCESS_KEY";
    /// The variable of agents and lard with the secret key of the registry.
    pub const REGISTRY_SECRET_KEY: &str = "OPENLAMBDA_REGISTRY_SECRET_KEY";
    /// The agents' variable with the user of the package index.
    pub const INDEX_USERNAME: &str = "OPENLAMBDA_INDEX_USERNAME";
    /// The agents' variable with the password of the package index.
    pub const INDEX_PASSWORD: &str = "OPENLAMBDA_INDEX_PASSWORD";
    /// Where the storage of agents and of the embedded registry is mounted.
    pub const STATE_DIR: &str = "/var/lib/openlambda";
}
