//! What the operator was started with, as far as it goes into what it builds.

/// The component label of the operator's own pods, as the chart sets it.
pub const OPERATOR_COMPONENT: &str = "operator";

/// What goes into children.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The image of the agents.
    pub agent_image: String,
    /// The image of lard.
    pub lard_image: String,
    /// The image of embedded registries.
    pub registry_image: String,
    /// When images are pulled.
    pub image_pull_policy: String,
    /// Secrets for the registry of the images.
    pub image_pull_secrets: Vec<String>,
    /// The operator's own namespace.
    pub namespace: String,
}
