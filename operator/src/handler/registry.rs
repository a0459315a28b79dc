//! Whether a cluster's registry can be used, by what its agents say: they are who needs it. Pure.

use openlambda_api::conditions::{ConditionReason as Reason, ConditionType as Type, Verdict};
use openlambda_api::state::RegistryState;

/// What the ready agents of a cluster, each with its node, say together.
pub fn verdict<'a>(said: impl Iterator<Item = (&'a str, &'a RegistryState)>) -> Verdict {
    let all: Vec<_> = said.collect();
    let badly: Vec<_> = all.iter().filter(|(_, state)| !state.reason.is_empty()).collect();
    let Some((_, first)) = all.first() else {
        return Verdict::unknown(Type::RegistryReady, Reason::Pending, "no agent has asked it yet");
    };
    let Some((node, worst)) = badly.first() else {
        return Verdict::yes(Type::RegistryReady, Reason::AsExpected, format!("{} answers", first.place));
    };
    let reason = Reason::parse(&worst.reason).unwrap_or(Reason::RegistryUnreachable);
    let who = match (badly.len(), all.len()) {
        (some, all) if some == all => String::new(),
        (some, all) => format!("; {some} of {all} agents say so, the one on {node} first"),
    };
    let message = format!("{}{who}; what serves goes on to serve", worst.message);
    Verdict::no(Type::RegistryReady, reason, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state(reason: &str, message: &str) -> RegistryState {
        RegistryState { place: "s3://b at http://x".into(), reason: reason.into(), message: message.into() }
    }

    fn verdict_of(all: &[RegistryState]) -> Verdict {
        let nodes = ["node1", "node2", "node3"];
        verdict(nodes.into_iter().zip(all))
    }

    #[test]
    fn one_that_cannot_use_it_is_enough() {
        let (well, badly) = (state("", ""), state("RegistryDenied", "it refuses"));
        assert_eq!(verdict_of(&[]).status, None);
        let yes = verdict_of(&[well.clone(), well.clone()]);
        assert_eq!((yes.status, yes.message.as_str()), (Some(true), "s3://b at http://x answers"));
        let some = verdict_of(&[well, badly.clone()]);
        assert_eq!((some.status, some.reason), (Some(false), Reason::RegistryDenied));
        assert!(some.message.contains("it refuses; 1 of 2 agents say so, the one on node2"), "{some:?}");
        let all = verdict_of(&[badly.clone(), badly]);
        assert_eq!(all.message, "it refuses; what serves goes on to serve");
    }

    #[test]
    fn a_reason_of_a_newer_agent_is_a_failure_too() {
        assert_eq!(verdict_of(&[state("Moon", "full")]).reason, Reason::RegistryUnreachable);
    }
}
