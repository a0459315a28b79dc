//! Conditions: which there are, why they hold, and how one list becomes the next.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};

macro_rules! names {
    ($(#[$outer:meta])* $type:ident { $($(#[$doc:meta])* $name:ident;)* }) => {
        $(#[$outer])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum $type { $($(#[$doc])* $name,)* }
        impl $type {
            /// All of them.
            pub const ALL: &'static [$type] = &[$($type::$name,)*];
            /// The name in the object.
            pub const fn as_str(self) -> &'static str {
                match self { $($type::$name => stringify!($name),)* }
            }
            /// The one with this name.
            pub fn parse(text: &str) -> Option<Self> {
                Self::ALL.iter().copied().find(|one| one.as_str() == text)
            }
        }
        impl std::fmt::Display for $type {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(self.as_str())
            }
        }
    };
}

names! {
    /// What a condition is about.
    ConditionType {
        /// Everything else that must hold does; stays True when nothing runs.
        Ready;
        /// Handler: the code was fetched, has the right digest and is unpacked.
        SourceResolved;
        /// Handler: the requirements are installed.
        PackagesInstalled;
        /// Handler: a trial import in a sandbox went well.
        CodeLoads;
        /// Handler: lard passes its calls on.
        Routed;
        /// LambdaCluster: every agent is ready.
        AgentsReady;
        /// LambdaCluster: enough replicas of lard are ready.
        BalancerReady;
        /// LambdaCluster: the registry answers every agent; only if there is one.
        RegistryReady;
        /// LambdaCluster: the Ingress has an address; only if there is one.
        IngressReady;
        /// kstatus: work goes on.
        Reconciling;
        /// kstatus: it will not go on without a change.
        Stalled;
    }
}

names! {
    /// Why a condition is as it is.
    ConditionReason {
        /// All is well.
        AsExpected;
        /// Work goes on.
        InProgress;
        /// Not yet looked at by an agent.
        Pending;
        /// The object breaks a rule that the schema cannot express.
        InvalidSpec;
        /// The object cannot be read as its kind.
        Unreadable;
        /// The spec asks for what this version does not have.
        NotSupported;
        /// There is no such LambdaCluster.
        ClusterNotFound;
        /// The handler names no cluster and the namespace had several when it was created.
        ClusterAmbiguous;
        /// No node has an agent.
        NoAgents;
        /// An agent does not answer.
        AgentUnreachable;
        /// A ConfigMap, Secret or key that the spec names is not there.
        ReferenceNotFound;
        /// The code could not be fetched.
        FetchFailed;
        /// The code does not have its digest.
        DigestMismatch;
        /// The archive or the files cannot be used.
        InvalidSource;
        /// The requirements break a rule, or cannot be read.
        InvalidRequirements;
        /// No versions fulfil all requirements.
        Unsatisfiable;
        /// The index has no wheel for the Python that serves.
        NoWheel;
        /// The package index does not answer.
        IndexUnreachable;
        /// A wheel does not have the hash that it must have.
        HashMismatch;
        /// The disk, or the packages' part of it, is full.
        DiskFull;
        /// The requirements cannot be installed for another reason.
        InstallFailed;
        /// The code cannot be imported, or has no such function.
        ImportFailed;
        /// The agent itself failed.
        AgentFailed;
        /// Replicas are missing.
        Unavailable;
        /// The registry does not answer, or fails.
        RegistryUnreachable;
        /// The registry refuses the keys, or what they are to do.
        RegistryDenied;
        /// The registry has no such bucket.
        BucketNotFound;
        /// The registry's clock and a node's differ too much.
        ClockSkewed;
        /// lard does not serve.
        BalancerNotReady;
        /// The Ingress has no address yet.
        NoAddress;
        /// The API server refused a child.
        ApplyFailed;
    }
}

/// What is the case, without when it became so.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// What it is about.
    pub type_: ConditionType,
    /// True, False, or None for Unknown.
    pub status: Option<bool>,
    /// Why.
    pub reason: ConditionReason,
    /// Why, for people.
    pub message: String,
}

impl Verdict {
    /// It holds.
    pub fn yes(type_: ConditionType, reason: ConditionReason, message: impl Into<String>) -> Self {
        Self { type_, status: Some(true), reason, message: message.into() }
    }

    /// It does not hold.
    pub fn no(type_: ConditionType, reason: ConditionReason, message: impl Into<String>) -> Self {
        Self { type_, status: Some(false), reason, message: message.into() }
    }

    /// Nobody knows.
    pub fn unknown(type_: ConditionType, reason: ConditionReason, message: impl Into<String>) -> Self {
        Self { type_, status: None, reason, message: message.into() }
    }

    /// What a condition says, if it is one of ours.
    pub fn of(condition: &Condition) -> Option<Self> {
        let status = match condition.status.as_str() {
            "True" => Some(true),
            "False" => Some(false),
            _ => None,
        };
        Some(Self {
            type_: ConditionType::parse(&condition.type_)?,
            status,
            reason: ConditionReason::parse(&condition.reason)?,
            message: condition.message.clone(),
        })
    }

    /// Whether it holds.
    pub fn holds(&self) -> bool {
        self.status == Some(true)
    }

    fn status_text(&self) -> &'static str {
        match self.status {
            Some(true) => "True",
            Some(false) => "False",
            None => "Unknown",
        }
    }
}

/// The longest message, in bytes; the API allows 32768.
pub const MESSAGE_MAX: usize = 4096;

/// Puts a verdict into the list. The transition time moves only when the status changes.
pub fn upsert(conditions: &mut Vec<Condition>, verdict: &Verdict, generation: Option<i64>, now: &Time) {
    let found = conditions.iter_mut().find(|c| c.type_ == verdict.type_.as_str());
    let since = match &found {
        Some(old) if old.status == verdict.status_text() => old.last_transition_time.clone(),
        _ => now.clone(),
    };
    let new = Condition {
        type_: verdict.type_.as_str().to_owned(),
        status: verdict.status_text().to_owned(),
        reason: verdict.reason.as_str().to_owned(),
        message: shorten(&verdict.message),
        observed_generation: generation,
        last_transition_time: since,
    };
    match found {
        Some(old) => *old = new,
        None => conditions.push(new),
    }
}

/// The list after these verdicts, in their order; what has none is gone.
pub fn next(old: &[Condition], verdicts: &[Verdict], generation: Option<i64>, now: &Time) -> Vec<Condition> {
    let mut list: Vec<Condition> = verdicts
        .iter()
        .filter_map(|verdict| old.iter().find(|c| c.type_ == verdict.type_.as_str()).cloned())
        .collect();
    for verdict in verdicts {
        upsert(&mut list, verdict, generation, now);
    }
    list.sort_by_key(|c| verdicts.iter().position(|v| v.type_.as_str() == c.type_));
    list
}

/// The condition of this type.
pub fn find(conditions: &[Condition], type_: ConditionType) -> Option<&Condition> {
    conditions.iter().find(|c| c.type_ == type_.as_str())
}

/// Whether the condition of this type is True.
pub fn is_true(conditions: &[Condition], type_: ConditionType) -> bool {
    find(conditions, type_).is_some_and(|c| c.status == "True")
}

fn shorten(message: &str) -> String {
    if message.len() <= MESSAGE_MAX {
        return message.to_owned();
    }
    let mut end = MESSAGE_MAX - '…'.len_utf8();
    while !message.is_char_boundary(end) {
        end -= 1;
    }
    format!("{}…", &message[..end])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Time {
        Time(k8s_openapi::jiff::Timestamp::from_second(second).unwrap())
    }

    #[test]
    fn transition_time_moves_only_with_the_status() {
        let mut list = Vec::new();
        let no = Verdict::no(ConditionType::Ready, ConditionReason::Pending, "wait");
        upsert(&mut list, &no, Some(1), &at(1));
        let other = Verdict { reason: ConditionReason::ImportFailed, message: "line 3".into(), ..no };
        upsert(&mut list, &other, Some(2), &at(2));
        assert_eq!((list.len(), &list[0].last_transition_time), (1, &at(1)));
        assert_eq!((list[0].reason.as_str(), list[0].observed_generation), ("ImportFailed", Some(2)));
        upsert(&mut list, &Verdict { status: Some(true), ..other }, Some(2), &at(3));
        assert_eq!(list[0].last_transition_time, at(3));
    }

    #[test]
    fn next_forgets_what_has_no_verdict_and_is_stable() {
        let ready = Verdict::yes(ConditionType::Ready, ConditionReason::AsExpected, "");
        let routed = Verdict::yes(ConditionType::Routed, ConditionReason::AsExpected, "");
        let first = next(&[], &[ready.clone(), routed.clone()], Some(1), &at(1));
        assert_eq!(next(&first, &[ready.clone(), routed], Some(1), &at(9)), first);
        assert_eq!(next(&first, &[ready], Some(1), &at(9)), first[..1]);
    }

    #[test]
    fn long_messages_are_cut_at_a_character() {
        let mut list = Vec::new();
        let long = Verdict::no(ConditionType::Ready, ConditionReason::ImportFailed, "ä".repeat(5000));
        upsert(&mut list, &long, None, &at(1));
        assert!(list[0].message.len() <= MESSAGE_MAX && list[0].message.ends_with('…'));
    }

    #[test]
    fn names_read_back() {
        for one in ConditionReason::ALL {
            assert_eq!(ConditionReason::parse(one.as_str()), Some(*one));
        }
        assert_eq!(ConditionType::parse("Nothing"), None);
        let verdict = Verdict::no(ConditionType::RegistryReady, ConditionReason::RegistryDenied, "no");
        assert_eq!(Verdict::of(&next(&[], std::slice::from_ref(&verdict), None, &at(1))[0]), Some(verdict));
    }
}
