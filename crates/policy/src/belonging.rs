//! Which cluster serves a handler: the one that it names; or, if it names none, the only one there is, or the only one
//! there was when the handler came.
//!
//! The operator, which says so, and the agents, which do it, decide by this from the same objects, each for itself:
//! nothing has to be written down between them. That a cluster which comes later takes nothing away from another is
//! the point: what serves goes on to serve when somebody makes a second cluster, by design or by accident.

/// A cluster of the handler's namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cluster<'a, T> {
    /// Its name.
    pub name: &'a str,
    /// When it was made.
    pub created: T,
}

/// Which cluster serves a handler.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Choice<'a> {
    /// This one.
    Served(&'a str),
    /// There is none of the name that the handler gives.
    Missing(&'a str),
    /// There is none at all.
    None,
    /// The handler gives no name, and there were several when it came, or nobody can tell which came first.
    Ambiguous,
}

/// The cluster of a handler that wants the cluster `named` and was made at `created`. Times are compared only; those
/// of Kubernetes are in whole seconds, and whatever was made in the same second did not come later.
pub fn choose<'a, T: Ord + Copy>(
    named: Option<&'a str>,
    created: T,
    clusters: &[Cluster<'a, T>],
) -> Choice<'a> {
    if let Some(name) = named {
        let found = clusters.iter().find(|cluster| cluster.name == name);
        return found.map_or(Choice::Missing(name), |cluster| Choice::Served(cluster.name));
    }
    let Some(first) = clusters.iter().map(|cluster| cluster.created).min() else { return Choice::None };
    if let [only] = clusters {
        return Choice::Served(only.name);
    }
    // A handler that was there before all of them got the first of them.
    let end = created.max(first);
    let mut before = clusters.iter().filter(|cluster| cluster.created <= end);
    match (before.next(), before.next()) {
        (Some(only), None) => Choice::Served(only.name),
        _ => Choice::Ambiguous,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn of(list: &[(&'static str, u32)]) -> Vec<Cluster<'static, u32>> {
        list.iter().map(|&(name, created)| Cluster { name, created }).collect()
    }

    #[test]
    fn a_name_decides() {
        let clusters = of(&[("a", 1), ("b", 2)]);
        assert_eq!(choose(Some("b"), 0, &clusters), Choice::Served("b"));
        assert_eq!(choose(Some("c"), 0, &clusters), Choice::Missing("c"));
        assert_eq!(choose(Some("c"), 0, &[]), Choice::Missing("c"));
    }

    #[test]
    fn without_one_the_only_one_serves_whenever_it_came() {
        assert_eq!(choose(None, 5, &of(&[])), Choice::None);
        assert_eq!(choose(None, 5, &of(&[("a", 1)])), Choice::Served("a"));
        assert_eq!(choose(None, 5, &of(&[("a", 9)])), Choice::Served("a"));
    }

    #[test]
    fn one_that_comes_later_takes_nothing_away() {
        assert_eq!(choose(None, 5, &of(&[("a", 1), ("b", 6)])), Choice::Served("a"));
        assert_eq!(choose(None, 5, &of(&[("b", 7), ("a", 6)])), Choice::Served("a"), "before both");
    }

    #[test]
    fn between_several_nobody_chooses() {
        assert_eq!(choose(None, 5, &of(&[("a", 1), ("b", 2)])), Choice::Ambiguous);
        assert_eq!(choose(None, 5, &of(&[("a", 1), ("b", 5)])), Choice::Ambiguous, "the same second");
        assert_eq!(choose(None, 5, &of(&[("a", 6), ("b", 6)])), Choice::Ambiguous, "after it, at once");
        assert_eq!(choose(None, 7, &of(&[("a", 6), ("b", 6), ("c", 9)])), Choice::Ambiguous);
    }

    proptest! {
        /// Whoever serves goes on to serve when others come.
        #[test]
        fn served_stays_served(created: u8, times: Vec<u8>, later in 1_u8..9) {
            let names = ["a", "b", "c", "d", "e", "f", "g", "h"];
            let mut clusters: Vec<_> = names.into_iter().zip(&times)
                .map(|(name, at)| Cluster { name, created: u16::from(*at) }).collect();
            let handler = u16::from(created);
            let before = choose(None, handler, &clusters);
            // The handler and the others are there already when it comes.
            let now = clusters.iter().map(|cluster| cluster.created).max().unwrap_or(0).max(handler);
            clusters.push(Cluster { name: "new", created: now + u16::from(later) });
            if let Choice::Served(name) = before {
                prop_assert_eq!(choose(None, handler, &clusters), Choice::Served(name));
            }
        }
    }
}
