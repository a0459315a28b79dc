//! The tree: which processes there are, what they hold, who was forked from whom.

use std::collections::{BTreeMap, BTreeSet};

use super::set::Set;
use super::wish::Footprint;
use super::{NodeId, NodeState, PackageId, PinId, ROOT};
use crate::Time;

#[derive(Debug)]
pub(super) struct Node {
    /// What it was forked from, or the nearest ancestor of that which still lives.
    pub parent: NodeId,
    /// All that it holds, its ancestors' too.
    pub all: Set,
    /// All that it remembers, its ancestors' too. While it is created: its ancestors' only.
    pub footprint: Footprint,
    pub state: NodeState,
    /// Since when it has had this state.
    pub since: Time,
    /// How long the creation is expected to take.
    pub expected: Time,
    /// What it holds beyond its parent: estimated, then measured.
    pub bytes: u64,
    pub hits: u64,
    pub last_used: Time,
    pub pin: Option<PinId>,
    /// It holds a marked package: nothing is forked from it any more.
    pub doomed: bool,
}

impl Node {
    fn root() -> Self {
        Self {
            parent: ROOT,
            all: Set::default(),
            footprint: Footprint::default(),
            state: NodeState::Ready,
            since: Time::ZERO,
            expected: Time::ZERO,
            bytes: 0,
            hits: 0,
            last_used: Time::ZERO,
            pin: None,
            doomed: false,
        }
    }

    pub fn is_ready(&self) -> bool {
        self.state == NodeState::Ready
    }

    /// Whether sandboxes and nodes are forked from it.
    pub fn forks(&self) -> bool {
        self.is_ready() && !self.doomed
    }
}

/// The nodes by id. A parent's id is below its children's.
#[derive(Debug)]
pub(super) struct Nodes {
    by_id: BTreeMap<NodeId, Node>,
    next: NodeId,
    pub generation: u64,
}

impl Nodes {
    pub fn new() -> Self {
        Self { by_id: BTreeMap::from([(ROOT, Node::root())]), next: ROOT + 1, generation: 0 }
    }

    pub fn get(&self, id: NodeId) -> Option<&Node> {
        self.by_id.get(&id)
    }

    pub fn get_mut(&mut self, id: NodeId) -> Option<&mut Node> {
        self.by_id.get_mut(&id)
    }

    /// What the node holds and its parent does not.
    pub fn own(&self, id: NodeId) -> Option<Set> {
        let node = self.get(id)?;
        Some(node.all.without(&self.get(node.parent)?.all))
    }

    /// With the root, by id.
    pub fn with_root(&self) -> impl DoubleEndedIterator<Item = (NodeId, &Node)> {
        self.by_id.iter().map(|(id, node)| (*id, node))
    }

    /// Without the root, by id.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = (NodeId, &Node)> {
        self.with_root().filter(|(id, _)| *id != ROOT)
    }

    pub fn bytes(&self) -> u64 {
        self.iter().fold(0, |sum, (_, node)| sum.saturating_add(node.bytes))
    }

    pub fn creating(&self) -> usize {
        self.iter().filter(|(_, node)| !node.is_ready()).count()
    }

    pub fn holds(&self, set: &Set) -> bool {
        self.by_id.values().any(|node| node.all == *set)
    }

    /// Those with children, when `gone` are thought away.
    pub fn parents(&self, gone: &BTreeSet<NodeId>) -> BTreeSet<NodeId> {
        self.iter().filter(|(id, _)| !gone.contains(id)).map(|(_, node)| node.parent).collect()
    }

    /// A node that is to be forked from `parent` and to hold `all`, of which `bytes` are new.
    pub fn create(&mut self, parent: NodeId, all: Set, bytes: u64, expected: Time, now: Time) -> NodeId {
        let footprint = self.get(parent).map(|node| node.footprint.clone()).unwrap_or_default();
        let id = self.next;
        self.next += 1;
        let state = NodeState::Creating;
        let node = Node {
            parent,
            all,
            footprint,
            state,
            since: now,
            expected,
            bytes,
            last_used: now,
            ..Node::root()
        };
        self.by_id.insert(id, node);
        id
    }

    /// Its children live on, as children of its parent. What they shared with it is theirs now, in equal parts.
    pub fn remove(&mut self, id: NodeId) -> Option<Node> {
        if id == ROOT {
            return None;
        }
        let node = self.by_id.remove(&id)?;
        self.generation += u64::from(node.is_ready());
        let mut left = self.by_id.values().filter(|child| child.parent == id).count() as u64;
        let mut bytes = node.bytes;
        for child in self.by_id.values_mut().filter(|child| child.parent == id) {
            let part = bytes / left;
            child.parent = node.parent;
            child.bytes = child.bytes.saturating_add(part);
            (bytes, left) = (bytes - part, left - 1);
        }
        Some(node)
    }

    /// Those that hold the package are doomed.
    pub fn doom(&mut self, package: PackageId) {
        for node in self.by_id.values_mut().filter(|node| node.all.contains(package)) {
            node.doomed = true;
        }
        self.generation += 1;
    }
}
