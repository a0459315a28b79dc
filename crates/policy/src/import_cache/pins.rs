//! The given tree: nodes that are to be there always.

use super::known::Known;
use super::nodes::Nodes;
use super::set::Set;
use super::{NodeId, PinId, ROOT};

#[derive(Debug)]
struct Pin {
    parent: PinId,
    packages: Set,
    node: Option<NodeId>,
}

/// A pin that has no process and can get one.
#[derive(Debug)]
pub(super) struct Missing {
    pub pin: PinId,
    pub parent: NodeId,
    /// All that it is to hold.
    pub all: Set,
}

/// Pins by their number, from 1; a parent's is below its children's.
#[derive(Debug, Default)]
pub(super) struct Pins(Vec<Pin>);

impl Pins {
    pub fn add(&mut self, parent: PinId, packages: Set) -> PinId {
        let parent = if self.get(parent).is_some() { parent } else { ROOT };
        self.0.push(Pin { parent, packages, node: None });
        self.0.len() as PinId
    }

    pub fn set_node(&mut self, pin: PinId, node: NodeId) {
        if let Some(pin) = index(pin).and_then(|at| self.0.get_mut(at)) {
            pin.node = Some(node);
        }
    }

    /// Those without a process whose parents have one.
    pub fn missing(&self, nodes: &Nodes, known: &Known) -> Vec<Missing> {
        let lives = |pin: &Pin| pin.node.is_some_and(|node| nodes.get(node).is_some());
        let pins = (1..).zip(&self.0).filter(|(_, pin)| !lives(pin));
        pins.filter_map(|(id, pin)| {
            let all = self.wanted(id, known);
            // Without anything of its own (it was marked) a pin needs no process: its children go to its parent.
            let mut above = pin.parent;
            if self.wanted(above, known) == all {
                return None;
            }
            while let Some(void) =
                self.get(above).filter(|p| self.wanted(p.parent, known) == self.wanted(above, known))
            {
                above = void.parent;
            }
            let parent = self.get(above).map_or(Some(ROOT), |pin| pin.node)?;
            nodes.get(parent)?.forks().then_some(Missing { pin: id, parent, all })
        })
        .collect()
    }

    /// What it is to hold, its ancestors' too, without what is marked.
    fn wanted(&self, pin: PinId, known: &Known) -> Set {
        let mut all = Set::default();
        let mut next = self.get(pin);
        while let Some(pin) = next {
            all = all.or(&pin.packages);
            next = self.get(pin.parent);
        }
        known.unmarked(&all)
    }

    fn get(&self, pin: PinId) -> Option<&Pin> {
        self.0.get(index(pin)?)
    }
}

fn index(pin: PinId) -> Option<usize> {
    usize::try_from(pin).ok()?.checked_sub(1)
}
