//! What to hold, from which node to make it, and what to give up for it.
//!
//! All benefits are weights of demand times microseconds saved, beyond what is saved without. A candidate is a set that
//! handlers import and no node serves fully, or what two such sets have in common (a split). The candidate with the
//! most benefit per byte is made first. While there is room, any benefit will do; else it must outweigh its victims'.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

use super::demand::Demand;
use super::known::Known;
use super::nodes::{Node, Nodes};
use super::set::Set;
use super::wish::Wish;
use super::{Action, NodeId, Settings};
use crate::Time;

/// The strongest sets that are intersected with each other.
const INTERSECTED: usize = 64;
/// Splits that are considered.
const MAX_SPLITS: usize = 256;
/// Sets that are considered, those with the most to save.
const MAX_UNSERVED: usize = 128;
/// Candidates that are looked at again after each decision.
const SHORTLIST: usize = 64;
/// Candidates in a row that are not worth what they would displace, before the rest is not tried either.
const MAX_REJECTED: usize = 8;
/// A split that adds less to its parent is not worth a process of its own.
const MIN_SPLIT: u64 = 4 << 20;
/// A parent that is being created is waited for twice as long as it should take, and this.
const PATIENCE: Time = Time::from_secs(1);

/// A set that is demanded.
#[derive(Debug)]
struct Want<'a> {
    wish: &'a Wish,
    weight: f64,
    imports: Set,
    /// Of each import.
    micros: Vec<u64>,
    /// What living nodes save it, the best first.
    held: Vec<(u64, NodeId)>,
    /// What is saved by nodes that this plan makes.
    promised: u64,
    /// What is saved by all nodes.
    level: u64,
}

impl Want<'_> {
    fn full(&self) -> u64 {
        self.micros.iter().sum()
    }

    fn saved_by(&self, set: &Set) -> u64 {
        self.imports.shared(set).map(|at| self.micros[at]).sum()
    }

    fn missing(&self) -> f64 {
        self.weight * self.full().saturating_sub(self.level) as f64
    }

    fn set_level(&mut self) {
        self.level = self.held.first().map_or(0, |(saved, _)| *saved).max(self.promised);
    }
}

/// A set that a node could hold.
#[derive(Debug)]
struct Candidate {
    set: Set,
    /// The wants whose set it is, or is common to. Its parent must fit them.
    of: [usize; 2],
    split: bool,
    /// The wants that could use it, and what they would save.
    uses: Vec<(usize, u64)>,
}

/// How a candidate would be made.
#[derive(Clone, Copy, Debug)]
struct Offer {
    /// Its place among the candidates.
    candidate: usize,
    parent: NodeId,
    /// Whether the parent must be waited for.
    waits: bool,
    bytes: u64,
    benefit: f64,
}

impl Offer {
    fn per_byte(&self) -> f64 {
        self.benefit / self.bytes.max(1) as f64
    }
}

/// What became of an offer.
#[derive(Clone, Copy, Debug)]
enum Decision {
    /// It is not worth what it would displace.
    Rejected,
    /// Its parent is waited for.
    Promised,
    /// It, or the first step to it, is being created.
    Created,
}

/// One plan in the making.
#[derive(Debug)]
pub(super) struct Planner<'a> {
    settings: &'a Settings,
    known: &'a Known,
    nodes: &'a mut Nodes,
    now: Time,
    /// The strongest first.
    wants: Vec<Want<'a>>,
    /// What new nodes can be forked from, now or soon, by the time it saves; the most last.
    parents: Vec<(u64, Reverse<NodeId>)>,
    /// Bytes for candidates that wait for their parents.
    promised: u64,
    pub actions: Vec<Action>,
}

impl<'a> Planner<'a> {
    pub fn new(
        settings: &'a Settings,
        known: &'a Known,
        nodes: &'a mut Nodes,
        demand: &'a Demand,
        now: Time,
    ) -> Self {
        let mut wants = Vec::new();
        let all: Vec<_> = nodes.iter().collect();
        for (wish, weight) in demand.strongest(now) {
            let imports = known.unmarked(&wish.imports);
            let micros = imports.iter().map(|package| known.micros_of(package)).collect();
            let mut want = Want { wish, weight, imports, micros, held: Vec::new(), promised: 0, level: 0 };
            for &(id, node) in all.iter().filter(|(_, node)| will_serve(node, wish, known)) {
                let saved = want.saved_by(&node.all);
                if saved > 0 {
                    want.held.push((saved, id));
                }
            }
            want.held.sort_by_key(|(saved, id)| (Reverse(*saved), *id));
            want.set_level();
            wants.push(want);
        }
        Self { settings, known, nodes, now, wants, parents: Vec::new(), promised: 0, actions: Vec::new() }
    }

    /// Evicts until what is held is within the budget, as far as that is possible.
    pub fn shrink(&mut self) {
        while self.nodes.bytes() > self.settings.budget {
            let Some((_, victim)) = self.cheapest(&BTreeSet::new(), |_, _| true) else { break };
            self.evict(victim);
        }
    }

    /// Evicts what has long been of no use to anyone.
    pub fn retire(&mut self) {
        let (now, disuse) = (self.now, self.settings.disuse);
        let is_disused = |_, node: &Node| node.last_used.saturating_add(disuse) <= now;
        while let Some((loss, victim)) = self.cheapest(&BTreeSet::new(), is_disused) {
            if loss > 0.0 {
                break;
            }
            self.evict(victim);
        }
    }

    /// Makes nodes for what is demanded.
    pub fn grow(&mut self) {
        let free = self.settings.at_once.saturating_sub(self.nodes.creating());
        if free == 0 || self.wants.iter().all(|want| want.missing() <= 0.0) {
            return;
        }
        let candidates = self.candidates();
        self.set_parents();
        let mut offers = self.offers(&candidates, 0..candidates.len());
        offers.drain(..offers.len().saturating_sub(SHORTLIST));
        let (mut left, mut rejected) = (free, 0);
        while left > 0 && rejected < MAX_REJECTED {
            let Some(offer) = offers.pop() else { break };
            match self.decide(&candidates, offer) {
                Decision::Rejected => {
                    rejected += 1;
                    continue;
                }
                Decision::Promised => {}
                Decision::Created => left -= 1,
            }
            rejected = 0;
            self.set_parents();
            offers = self.offers(&candidates, offers.into_iter().map(|offer| offer.candidate));
        }
    }

    /// Makes a node for this offer, if that is right.
    fn decide(&mut self, candidates: &[Candidate], offer: Offer) -> Decision {
        let candidate = &candidates[offer.candidate];
        let before: Vec<(u64, u64)> = self.wants.iter().map(|want| (want.promised, want.level)).collect();
        self.promise(candidate, offer.parent);
        if !self.make_room(offer) {
            for (want, (promised, level)) in self.wants.iter_mut().zip(before) {
                (want.promised, want.level) = (promised, level);
            }
            return Decision::Rejected;
        }
        if offer.waits {
            self.promised = self.promised.saturating_add(offer.bytes);
            return Decision::Promised;
        }
        let set = self.first_step(candidates, offer).map_or(&candidate.set, |split| &split.set);
        let Some((node, action)) = super::create(self.nodes, self.known, offer.parent, set.clone(), self.now)
        else {
            return Decision::Rejected;
        };
        let taken = self.nodes.get(node).map_or(0, |node| node.bytes);
        self.promised = self.promised.saturating_add(offer.bytes.saturating_sub(taken));
        self.actions.push(action);
        Decision::Created
    }

    /// The part of a candidate that others could share: it is to be a node of its own, which the rest is then put
    /// upon. Both together take no more memory than the candidate at once, and what comes later finds it there.
    fn first_step<'c>(&self, candidates: &'c [Candidate], offer: Offer) -> Option<&'c Candidate> {
        let Candidate { set: whole, of, .. } = &candidates[offer.candidate];
        let parent = &self.nodes.get(offer.parent)?.all;
        // The room is for the candidate at once: a split that was seen to take more has none.
        let is_worth_it = |split: &Set| {
            let own = split.without(parent);
            self.known.bytes(&own) >= MIN_SPLIT && self.known.expected_bytes(split, &own) <= offer.bytes
        };
        // What is known not to do for those whose set it is, for what it lacks, is no step either.
        let is_of_use = |split: &Candidate| of.iter().all(|at| split.uses.iter().any(|(user, _)| user == at));
        let is_step = |split: &&Candidate| {
            split.split
                && is_of_use(split)
                && parent.is_strictly_within(&split.set)
                && split.set.is_strictly_within(whole)
                && is_worth_it(&split.set)
                && self.is_possible(&split.set)
        };
        let beyond = |(at, saved): &(usize, u64)| {
            let want = &self.wants[*at];
            want.weight * saved.saturating_sub(want.saved_by(parent)) as f64
        };
        let shared = |split: &Candidate| split.uses.iter().map(beyond).sum::<f64>();
        candidates.iter().filter(is_step).max_by(|a, b| shared(a).total_cmp(&shared(b)))
    }

    /// Evicts what must go for this offer, whose benefit is promised already; nothing if that is worth more.
    fn make_room(&mut self, offer: Offer) -> bool {
        let (now, grace) = (self.now, self.settings.grace);
        let may_go = |id, node: &Node| id != offer.parent && node.since.saturating_add(grace) <= now;
        let needed = self.nodes.bytes().saturating_add(self.promised).saturating_add(offer.bytes);
        let unpinned = self.nodes.iter().filter(|(_, node)| node.pin.is_none()).count();
        let (mut gone, mut order) = (BTreeSet::new(), Vec::new());
        let (mut freed, mut lost) = (0, 0.0);
        while needed.saturating_sub(freed) > self.settings.budget
            || unpinned - order.len() >= self.settings.max_nodes.max(1)
        {
            // What waits for its parent only keeps room free, it displaces nothing yet.
            let Some((loss, victim)) = self.cheapest(&gone, may_go).filter(|_| !offer.waits) else {
                return false;
            };
            lost += loss;
            if offer.benefit <= self.settings.margin * lost {
                return false;
            }
            freed += self.nodes.get(victim).map_or(0, |node| node.bytes);
            gone.insert(victim);
            order.push(victim);
        }
        order.into_iter().for_each(|victim| self.evict(victim));
        true
    }

    /// The node whose eviction loses the least per byte, then the longest unused, and what is lost. It has no children
    /// when `gone` are thought away, and neither is pinned nor being created.
    fn cheapest(
        &self,
        gone: &BTreeSet<NodeId>,
        may_go: impl Fn(NodeId, &Node) -> bool,
    ) -> Option<(f64, NodeId)> {
        let parents = self.nodes.parents(gone);
        let losses = self.losses(gone);
        let loss = |id| losses.get(&id).copied().unwrap_or(0.0);
        let leaves = self.nodes.iter().filter(|(id, node)| {
            let is_leaf = !gone.contains(id) && !parents.contains(id);
            is_leaf && node.is_ready() && node.pin.is_none() && may_go(*id, node)
        });
        let value = |id, node: &Node| loss(id) / node.bytes.max(1) as f64;
        let least = leaves.min_by(|(a, x), (b, y)| {
            let by_value = value(*a, x).total_cmp(&value(*b, y));
            by_value.then(x.last_used.cmp(&y.last_used))
        });
        least.map(|(id, _)| (loss(id), id))
    }

    /// What is lost with each node alone, when `gone` are thought away.
    fn losses(&self, gone: &BTreeSet<NodeId>) -> BTreeMap<NodeId, f64> {
        let mut losses = BTreeMap::new();
        for want in &self.wants {
            let mut living = want.held.iter().filter(|(_, id)| !gone.contains(id));
            let Some((saved, id)) = living.next() else { continue };
            let without = living.next().map_or(0, |(saved, _)| *saved).max(want.promised);
            *losses.entry(*id).or_default() += want.weight * saved.saturating_sub(without) as f64;
        }
        losses
    }

    fn evict(&mut self, node: NodeId) {
        self.nodes.remove(node);
        self.actions.push(Action::Evict { node });
        for want in &mut self.wants {
            want.held.retain(|(_, id)| *id != node);
            want.set_level();
        }
    }

    /// The candidate counts as held from now on.
    fn promise(&mut self, candidate: &Candidate, parent: NodeId) {
        let footprint = self.nodes.get(parent).map(|node| &node.footprint);
        for (at, saved) in &candidate.uses {
            let want = &mut self.wants[*at];
            if footprint.is_some_and(|footprint| footprint.fits(want.wish)) {
                want.promised = want.promised.max(*saved);
                want.level = want.level.max(*saved);
            }
        }
    }

    /// How these would be made, if they are of any use; the most benefit per byte last.
    fn offers(&self, candidates: &[Candidate], at: impl IntoIterator<Item = usize>) -> Vec<Offer> {
        let mut offers: Vec<_> = at.into_iter().filter_map(|at| self.offer(candidates, at)).collect();
        offers.sort_by(|a, b| a.per_byte().total_cmp(&b.per_byte()));
        offers
    }

    /// How this candidate would be made now, if it is of any use.
    fn offer(&self, candidates: &[Candidate], at: usize) -> Option<Offer> {
        let candidate = &candidates[at];
        let (parent, node) = self.parent_for(candidate)?;
        let benefit = |(at, saved): &(usize, u64)| {
            let want = &self.wants[*at];
            let more = saved.saturating_sub(want.level);
            if more > 0 && node.footprint.fits(want.wish) { want.weight * more as f64 } else { 0.0 }
        };
        let benefit = candidate.uses.iter().map(benefit).sum();
        let bytes = self.known.expected_bytes(&candidate.set, &candidate.set.without(&node.all));
        let offer = Offer { candidate: at, parent, waits: !node.is_ready(), bytes, benefit };
        (benefit > 0.0).then_some(offer)
    }

    /// The node that holds the most of a candidate and nothing else.
    fn parent_for(&self, candidate: &Candidate) -> Option<(NodeId, &Node)> {
        let fits = |node: &Node| candidate.of.iter().all(|at| node.footprint.fits(self.wants[*at].wish));
        let mut parents =
            self.parents.iter().rev().filter_map(|(_, Reverse(id))| Some((*id, self.nodes.get(*id)?)));
        parents.find(|(_, node)| node.all.is_strictly_within(&candidate.set) && fits(node))
    }

    /// A node that is being created is a parent too, for a while.
    fn set_parents(&mut self) {
        let comes = |node: &Node| {
            let patience = node.expected.saturating_mul(2).saturating_add(PATIENCE);
            self.now < node.since.saturating_add(patience)
        };
        let may = self.nodes.with_root().filter(|(_, node)| !node.doomed && (node.is_ready() || comes(node)));
        self.parents = may.map(|(id, node)| (self.known.micros(&node.all), Reverse(id))).collect();
        self.parents.sort_unstable();
    }

    fn candidates(&self) -> Vec<Candidate> {
        let mut found: BTreeMap<Set, ([usize; 2], bool)> = BTreeMap::new();
        let mut unserved: Vec<usize> =
            (0..self.wants.len()).filter(|at| self.wants[*at].missing() > 0.0).collect();
        unserved.sort_by(|a, b| self.wants[*b].missing().total_cmp(&self.wants[*a].missing()));
        for at in unserved.into_iter().take(MAX_UNSERVED) {
            found.entry(self.wants[at].imports.clone()).or_insert(([at, at], false));
        }
        let most = found.len() + MAX_SPLITS;
        let strong = &self.wants[..self.wants.len().min(INTERSECTED)];
        for (a, b) in strong.iter().enumerate().flat_map(|(b, _)| (0..b).map(move |a| (a, b))) {
            let is_asked_for = strong[a].missing() > 0.0 || strong[b].missing() > 0.0;
            if is_asked_for && found.len() < most {
                found.entry(strong[a].imports.and(&strong[b].imports)).or_insert(([a, b], true));
            }
        }
        let possible = found.into_iter().filter(|(set, _)| self.is_possible(set));
        possible.map(|(set, (of, split))| self.candidate(set, of, split)).collect()
    }

    fn candidate(&self, set: Set, of: [usize; 2], split: bool) -> Candidate {
        let footprint = self.known.footprint(&set);
        let uses = self.wants.iter().enumerate().filter_map(|(at, want)| {
            let fits = || footprint.is_none_or(|footprint| footprint.fits(want.wish));
            let saved = if set.is_within(&want.wish.installed) && fits() { want.saved_by(&set) } else { 0 };
            (saved > 0).then_some((at, saved))
        });
        let uses = uses.collect();
        Candidate { set, of, split, uses }
    }

    /// Whether a node may be made of this set: none has it, and it has not failed just now.
    fn is_possible(&self, set: &Set) -> bool {
        !set.is_empty() && !self.nodes.holds(set) && !self.known.is_paused(set, self.now)
    }
}

/// Whether sandboxes of this wish may be forked from the node, as far as is known of one that is being created.
fn will_serve(node: &Node, wish: &Wish, known: &Known) -> bool {
    let may = !node.doomed && node.all.is_within(&wish.installed) && node.footprint.fits(wish);
    may && (node.is_ready() || known.footprint(&node.all).is_none_or(|footprint| footprint.fits(wish)))
}
