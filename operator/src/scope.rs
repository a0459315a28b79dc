//! Which namespaces the operator looks after.

use k8s_openapi::NamespaceResourceScope;
use kube::{Api, Client, Resource};

/// Stands for all namespaces.
pub const ALL: &str = "*";

/// Which namespaces the operator looks after.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Scope {
    /// One.
    Namespace(String),
    /// All of them.
    All,
}

impl Scope {
    /// `*` is all, anything else a namespace.
    pub fn parse(text: &str) -> Self {
        if text == ALL { Self::All } else { Self::Namespace(text.to_owned()) }
    }

    /// The objects of a kind in it.
    pub fn api<K>(&self, client: &Client) -> Api<K>
    where
        K: Resource<Scope = NamespaceResourceScope>,
        K::DynamicType: Default,
    {
        match self {
            Self::Namespace(name) => Api::namespaced(client.clone(), name),
            Self::All => Api::all(client.clone()),
        }
    }
}
