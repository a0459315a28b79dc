//! Which handlers are concerned by packages that no Zygote holds. Each is told once.

use std::collections::HashSet;

use kube::ResourceExt as _;

use openlambda_api::state::Excluded;

use super::view::HandlerView;
use crate::context::Key;

/// What was told, by the handler's uid and the package.
#[derive(Debug, Default)]
pub struct Uncached {
    told: HashSet<(String, String)>,
}

impl Uncached {
    /// What is news for a handler of this cluster, as texts.
    pub fn news(
        &mut self,
        handler: &HandlerView,
        cluster: &Key,
        excluded: &[(Key, Excluded)],
    ) -> Vec<String> {
        let locked = handler.status.as_ref().and_then(|status| status.packages.as_ref());
        let Some(locked) = locked.map(|packages| &packages.locked) else { return Vec::new() };
        let uid = handler.uid().unwrap_or_default();
        let concerned = excluded.iter().filter(|(of, one)| of == cluster && locked.contains(&one.package));
        let news = concerned.filter(|(_, one)| self.told.insert((uid.clone(), one.package.clone())));
        news.map(|(_, one)| {
            format!("no Zygote holds {}: it {} ({})", one.package, verb(&one.reason), one.message)
        })
        .collect()
    }

    /// Forgets handlers that are gone.
    pub fn prune(&mut self, uids: &[String]) {
        self.told.retain(|(uid, _)| uids.contains(uid));
    }
}

/// The reason in a sentence.
fn verb(reason: &str) -> &str {
    match reason {
        "threads" => "starts threads when it is imported",
        "files" => "keeps files open when it is imported",
        "memory" => "needs too much memory",
        "breaks_in_fork" => "breaks when it is forked",
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_handler_is_told_once_of_its_own_packages() {
        let handler: HandlerView = serde_json::from_value(json!({
            "apiVersion": "openlambda.dev/v1alpha1", "kind": "Handler",
            "metadata": {"name": "h", "namespace": "n", "uid": "u"}, "spec": {"source": {"inline": ""}},
            "status": {"packages": {"requirements": "x", "locked": ["netifaces==0.11.0", "six==1.17.0"]}}
        }))
        .unwrap();
        let of = |name: &str| ("n".to_owned(), name.to_owned());
        let excluded = |package: &str| Excluded {
            package: package.into(),
            reason: "breaks_in_fork".into(),
            message: "m".into(),
        };
        let all = [
            (of("demo"), excluded("netifaces==0.11.0")),
            (of("demo"), excluded("numpy==2.2.1")),
            (of("other"), excluded("six==1.17.0")),
        ];
        let mut uncached = Uncached::default();
        assert_eq!(
            uncached.news(&handler, &of("demo"), &all),
            ["no Zygote holds netifaces==0.11.0: it breaks when it is forked (m)"]
        );
        assert!(uncached.news(&handler, &of("demo"), &all).is_empty());
        uncached.prune(&[]);
        assert_eq!(uncached.news(&handler, &of("demo"), &all).len(), 1);
    }
}
