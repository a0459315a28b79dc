//! Each rule by hand.

use super::super::*;
use super::rig::{MIB, Rig, created, evicted, s, wish};

/// A cache with these sets, each demanded once.
fn holding(mut rig: Rig, sets: &[&[PackageId]]) -> Rig {
    for set in sets {
        rig.start(&wish(set), s(0));
        rig.settle(s(0));
    }
    rig
}

#[test]
fn a_set_that_was_demanded_once_is_there_for_the_next_call() {
    let mut rig = Rig::with_budget(100);
    rig.start(&wish(&[1, 2]), s(0));
    assert_eq!(created(&rig.cache.plan(s(0))), [(ROOT, vec![1, 2])]);
    assert_eq!(rig.cache.best(&wish(&[1, 2])), ROOT, "it is not ready yet");
    let mut rig = holding(Rig::with_budget(100), &[&[1, 2]]);
    assert_eq!(rig.best(&wish(&[1, 2])), [1, 2]);
    assert_eq!(rig.settle(s(0)), []);
}

#[test]
fn who_was_not_seen_to_import_anything_starts_from_the_root() {
    let mut rig = holding(Rig::with_budget(100), &[&[1]]);
    let new = Wish::new([1], [], [], []);
    rig.start(&new, s(0));
    assert_eq!((rig.settle(s(0)), rig.cache.best(&new)), (vec![], ROOT));
}

#[test]
fn the_best_node_saves_the_most_time_and_not_the_most_packages() {
    let rig = Rig::with_budget(1000).costs(3, 100, 10);
    let rig = holding(rig, &[&[1, 2], &[3]]);
    assert_eq!(rig.best(&wish(&[1, 2, 3])), [3]);
    // With 3 installed but not imported, it brings nothing.
    assert_eq!(rig.best(&Wish::new([1, 2, 3], [1, 2], [], [])), [1, 2]);
}

#[test]
fn of_nodes_that_save_as_much_the_one_with_the_least_besides_is_best() {
    let rig = holding(Rig::with_budget(1000), &[&[1, 2], &[1]]);
    assert_eq!(rig.best(&Wish::new([1, 2], [1], [], [])), [1]);
    assert_eq!(rig.best(&Wish::new([1, 2, 3], [3], [], [])), [0_u32; 0]);
}

#[test]
fn a_node_with_a_package_that_is_not_installed_is_none() {
    let rig = holding(Rig::with_budget(1000), &[&[1, 2]]);
    assert_eq!(rig.cache.best(&wish(&[1, 3])), ROOT);
}

#[test]
fn who_has_a_module_that_a_node_or_its_parent_missed_does_not_start_from_it() {
    let mut rig = Rig::with_budget(1000);
    rig.misses.insert(1, vec![77]);
    let rig = holding(rig, &[&[1], &[1, 2]]);
    let with = |provides: &[ModuleId], own: &[ModuleId]| {
        rig.best(&Wish::new([1, 2], [1, 2], provides.iter().copied(), own.iter().copied()))
    };
    assert_eq!(with(&[76], &[78]), [1, 2]);
    assert_eq!(with(&[77], &[]), [0_u32; 0]);
    assert_eq!(with(&[], &[77]), [0_u32; 0]);
}

#[test]
fn a_module_of_the_handler_wins_over_one_that_a_node_has_loaded() {
    let mut rig = Rig::with_budget(1000);
    rig.modules.insert(1, vec![5]);
    let rig = holding(rig, &[&[1, 2]]);
    assert_eq!(rig.best(&Wish::new([1, 2], [1, 2], [5], [])), [1, 2]);
    assert_eq!(rig.cache.best(&Wish::new([1, 2], [1, 2], [5], [5])), ROOT);
}

#[test]
fn a_set_that_serves_nobody_for_what_it_missed_is_not_made_again() {
    let mut rig = Rig::with_budget(1000);
    rig.misses.insert(1, vec![77]);
    let wish = Wish::new([1, 2], [1], [77], []);
    rig.start(&wish, s(0));
    assert_eq!(created(&rig.settle(s(0))).len(), 1);
    rig.cache.ended(rig.id(&[1]), s(1));
    rig.start(&wish, s(100));
    assert_eq!(rig.settle(s(100)), []);
}

#[test]
fn a_node_is_made_from_the_largest_part_of_it_and_imports_the_rest() {
    let mut rig = holding(Rig::with_budget(1000), &[&[1], &[1, 2]]);
    rig.start(&wish(&[1, 2, 3]), s(0));
    let parent = rig.id(&[1, 2]);
    assert_eq!(created(&rig.settle(s(0))), [(parent, vec![3])]);
}

#[test]
fn a_parent_that_missed_what_the_new_node_provides_is_passed_over() {
    let mut rig = Rig::with_budget(1000);
    rig.misses.insert(1, vec![77]);
    let mut rig = holding(rig, &[&[1]]);
    rig.start(&Wish::new([1, 2], [1, 2], [77], []), s(0));
    assert_eq!(created(&rig.cache.plan(s(0))), [(ROOT, vec![1, 2])]);
}

#[test]
fn what_two_sets_have_in_common_becomes_the_parent_of_both() {
    let mut rig = Rig::with_budget(1000);
    rig.start(&wish(&[1, 2]), s(0));
    rig.start(&wish(&[1, 3]), s(0));
    let done = created(&rig.settle(s(0)));
    let common = rig.id(&[1]);
    assert_eq!(done[0], (ROOT, vec![1]));
    assert_eq!(rig.held(), [vec![1], vec![1, 2], vec![1, 3]]);
    assert!(done.contains(&(common, vec![2])) && done.contains(&(common, vec![3])));
}

#[test]
fn what_comes_later_is_split_where_it_is_like_what_is_there() {
    let mut rig = holding(Rig::with_budget(1000), &[&[1, 2]]);
    rig.start(&wish(&[1, 3]), s(0));
    rig.settle(s(0));
    let common = rig.id(&[1]);
    rig.start(&wish(&[1, 4]), s(0));
    assert_eq!(created(&rig.settle(s(0))), [(common, vec![4])]);
}

#[test]
fn a_small_part_in_common_is_not_worth_a_process() {
    let mut rig = Rig::with_budget(1000).costs(1, 1, 1).costs(2, 100, 10).costs(3, 100, 10);
    rig.measure(&[1, 2, 3]);
    let rig = holding(rig, &[&[1, 2], &[1, 3]]);
    assert_eq!(rig.held(), [[1, 2], [1, 3]]);
}

#[test]
fn a_parent_that_is_about_to_be_ready_is_waited_for_but_not_forever() {
    let mut rig = Rig::with_budget(1000);
    rig.start(&wish(&[1]), s(0));
    let slow = rig.cache.plan(s(0));
    rig.start(&wish(&[1, 2]), s(0));
    assert_eq!(rig.cache.plan(s(1)), []);
    assert_eq!(created(&rig.cache.plan(s(2))), [(ROOT, vec![1, 2])]);
    rig.finish(&slow, s(3));
    assert_eq!(rig.best(&wish(&[1])), [1]);
}

#[test]
fn no_more_is_created_at_a_time_than_allowed() {
    let mut rig = Rig::new(Settings { budget: 1000 * MIB, at_once: 3, ..Settings::default() });
    for package in 0..5 {
        rig.start(&wish(&[package]), s(0));
    }
    let first = rig.cache.plan(s(0));
    assert_eq!((created(&first).len(), rig.cache.plan(s(0))), (3, vec![]));
    rig.finish(&first[..1], s(0));
    assert_eq!(created(&rig.cache.plan(s(0))).len(), 1);
}

/// A full cache: 1 and 2, at 10 MiB each.
fn full() -> Rig {
    let half_life = s(60);
    let mut rig = Rig::new(Settings { budget: 20 * MIB, half_life, ..Settings::default() });
    rig.measure(&[1, 2, 3]);
    for _ in 0..4 {
        rig.start(&wish(&[1]), s(0));
    }
    rig.start(&wish(&[2]), s(0));
    rig.settle(s(0));
    assert_eq!(rig.held(), [[1], [2]]);
    rig
}

#[test]
fn under_pressure_the_least_worth_by_byte_goes_for_what_is_worth_a_margin_more() {
    let mut rig = full();
    rig.start(&wish(&[2]), s(60));
    // 2 weighs 1.5 now, so 3 must save more than 2.25.
    for _ in 0..2 {
        rig.start(&wish(&[3]), s(60));
    }
    assert_eq!(rig.settle(s(60)), []);
    rig.start(&wish(&[3]), s(60));
    let victim = rig.id(&[2]);
    assert_eq!(evicted(&rig.settle(s(60))), [victim]);
    assert_eq!(rig.held(), [[1], [3]]);
}

#[test]
fn a_young_node_is_not_displaced() {
    let mut rig = full();
    for _ in 0..100 {
        rig.start(&wish(&[3]), s(9));
    }
    assert_eq!(rig.settle(s(9)), []);
    rig.settle(s(10));
    assert_eq!(rig.held(), [[1], [3]]);
}

#[test]
fn what_cannot_fit_displaces_nothing() {
    let mut rig = full();
    rig.costs.insert(9, Cost { micros: 1_000_000, bytes: 21 * MIB });
    rig.measure(&[9]);
    rig.start(&wish(&[9]), s(100));
    assert_eq!(rig.settle(s(100)), []);
}

#[test]
fn a_node_that_turns_out_too_big_is_evicted_and_not_made_again() {
    let mut rig = Rig::with_budget(20).costs(9, 50, 21);
    rig.start(&wish(&[9]), s(0));
    let done = rig.settle(s(0));
    assert_eq!((created(&done).len(), evicted(&done).len()), (1, 1));
    rig.start(&wish(&[9]), s(100));
    assert_eq!((rig.settle(s(100)), rig.cache.bytes()), (vec![], 0));
}

#[test]
fn what_a_process_takes_besides_its_packages_is_expected_the_next_time() {
    let mut rig = Rig::new(Settings { budget: 40 * MIB, at_once: 3, ..Settings::default() });
    rig.extra = 5 * MIB;
    rig.measure(&[1, 2, 3]);
    // Three packages of 10 MiB fit, three processes of 15 do not.
    for package in [1, 2, 3] {
        rig.start(&wish(&[package]), s(0));
    }
    assert_eq!(evicted(&rig.settle(s(0))).len(), 1);
    for second in 1..100 {
        rig.start(&wish(&[second as u32 % 3 + 1]), s(second));
        assert_eq!(rig.settle(s(second)), []);
    }
}

#[test]
fn measured_memory_over_the_budget_is_freed_leaves_first() {
    let mut rig = holding(Rig::with_budget(40), &[&[1], &[1, 2], &[3]]);
    for _ in 0..10 {
        rig.start(&wish(&[1, 2]), s(1));
        rig.start(&wish(&[3]), s(1));
    }
    // The parent is the least worth, but it has a child.
    let (parent, child, other) = (rig.id(&[1]), rig.id(&[1, 2]), rig.id(&[3]));
    rig.cache.measured(parent, 30 * MIB);
    rig.cache.measured(child, 5 * MIB);
    rig.cache.measured(other, 8 * MIB);
    let actions = rig.cache.plan(s(1));
    assert_eq!(actions[0], Action::Evict { node: other });
    rig.cache.measured(parent, 50 * MIB);
    assert_eq!(evicted(&rig.cache.plan(s(1))), [child, parent]);
}

#[test]
fn what_nobody_demands_stays_until_memory_is_wanted_or_long_after() {
    let mut rig = holding(Rig::with_budget(1000), &[&[1], &[1, 2]]);
    let (parent, child) = (rig.id(&[1]), rig.id(&[1, 2]));
    assert_eq!(rig.settle(s(30 * 60 - 1)), []);
    assert_eq!(rig.best(&wish(&[1, 2])), [1, 2]);
    assert_eq!(evicted(&rig.settle(s(30 * 60))), [child, parent]);
}

#[test]
fn the_number_of_nodes_is_bounded() {
    let mut rig = Rig::new(Settings { budget: 1000 * MIB, max_nodes: 2, ..Settings::default() });
    for package in 0..5 {
        rig.start(&wish(&[package]), s(0));
    }
    rig.settle(s(0));
    assert_eq!(rig.held().len(), 2);
}

#[test]
fn the_children_of_a_node_that_ended_live_on_and_have_what_they_shared() {
    let mut rig = holding(Rig::with_budget(1000), &[&[1], &[1, 2], &[1, 3], &[1, 2, 4]]);
    let (parent, before) = (rig.id(&[1]), rig.cache.bytes());
    let generation = rig.cache.generation();
    rig.cache.ended(parent, s(1));
    assert_ne!(rig.cache.generation(), generation);
    assert_eq!(rig.cache.bytes(), before);
    let view = rig.cache.view();
    let of = |packages: &[PackageId]| view.iter().find(|node| node.packages == packages).unwrap();
    assert_eq!((of(&[1, 2]).parent, of(&[1, 2]).bytes), (ROOT, 15 * MIB));
    assert_eq!((of(&[1, 2, 4]).parent, of(&[1, 2, 4]).bytes), (of(&[1, 2]).id, 10 * MIB));
    assert_eq!(rig.best(&wish(&[1, 2])), [1, 2]);
}

#[test]
fn a_node_that_ended_is_made_again_after_a_pause_that_grows() {
    let mut rig = holding(Rig::with_budget(1000), &[&[1]]);
    let mut now = s(0);
    for pause in [500, 1000, 2000, 4000] {
        let pause = Time::from_millis(pause);
        rig.cache.ended(rig.id(&[1]), now);
        assert_eq!(rig.settle(now + pause - Time::from_millis(1)), []);
        now += pause;
        assert_eq!(rig.settle(now).len(), 1);
    }
    // It has lived long now, so it is sound.
    rig.start(&wish(&[1]), now + s(100));
    rig.cache.ended(rig.id(&[1]), now + s(100));
    assert_eq!(rig.settle(now + s(101)).len(), 1);
}

#[test]
fn a_creation_that_failed_for_no_known_reason_is_tried_again_later() {
    let mut rig = Rig::with_budget(1000);
    rig.start(&wish(&[1]), s(0));
    assert_eq!(rig.cache.plan(s(0)).len(), 1);
    let node = rig.id(&[1]);
    rig.cache.failed(node, Failure::Other, s(0));
    assert_eq!((rig.cache.bytes(), rig.cache.plan(s(0))), (0, vec![]));
    // Blaming what it did not import blames nothing.
    assert_eq!(rig.cache.plan(s(1)).len(), 1);
    rig.cache.failed(rig.id(&[1]), of_package(8, &[]), s(1));
    assert!(!rig.cache.is_marked(8));
    assert_eq!(rig.cache.plan(s(1)), []);
}

#[test]
fn a_package_that_fails_is_marked_and_the_others_are_held_without_it() {
    let mut rig = Rig::with_budget(1000);
    rig.start(&wish(&[1, 2]), s(0));
    assert_eq!(rig.cache.plan(s(0)).len(), 1);
    rig.cache.failed(rig.id(&[1, 2]), of_package(2, &[]), s(0));
    assert!(rig.cache.is_marked(2));
    rig.settle(s(0));
    assert_eq!(rig.held(), [[1]]);
    assert_eq!(rig.best(&wish(&[1, 2])), [1]);
}

fn of_package(package: PackageId, misses: &[ModuleId]) -> Failure {
    Failure::Package { package, misses: misses.to_vec() }
}

#[test]
fn what_handlers_have_in_common_may_lack_what_it_needs_and_nothing_is_to_blame_then() {
    let mut rig = Rig::with_budget(1000);
    // 1 needs the module 7, of which each has its own version.
    let wishes = [[1, 2, 3], [1, 2, 4]].map(|packages| Wish::new(packages, packages, [7], []));
    wishes.iter().for_each(|wish| rig.start(wish, s(0)));
    for _ in 0..10 {
        for action in rig.cache.plan(s(0)) {
            let Action::Create { node, packages, .. } = &action else { continue };
            let view = rig.cache.view().into_iter().find(|view| view.id == *node).unwrap();
            if packages.contains(&1) && !view.packages.iter().any(|package| [3, 4].contains(package)) {
                assert!(!rig.cache.failed(*node, of_package(1, &[7]), s(0)));
            } else {
                rig.finish(&[action], s(0));
            }
        }
    }
    assert!(!rig.cache.is_marked(1));
    assert_eq!(wishes.each_ref().map(|wish| rig.best(wish)), [[1, 2, 3], [1, 2, 4]]);
    // One that has not what was missing shows that the package is to blame.
    let other = Wish::new([1, 2], [1, 2], [], []);
    rig.start(&other, s(1));
    let node = rig.cache.plan(s(1)).into_iter().find_map(|action| match action {
        Action::Create { node, .. } => Some(node),
        Action::Evict { .. } => None,
    });
    assert!(rig.cache.failed(node.unwrap(), of_package(1, &[7]), s(1)));
    assert!(rig.cache.is_marked(1));
}

#[test]
fn nodes_with_a_marked_package_answer_no_more_and_go_children_first() {
    let mut rig = holding(Rig::with_budget(1000), &[&[1], &[1, 2], &[1, 2, 3]]);
    let ids = [rig.id(&[1, 2, 3]), rig.id(&[1, 2])];
    let generation = rig.cache.generation();
    rig.cache.mark(2);
    assert_ne!(rig.cache.generation(), generation);
    assert_eq!(rig.best(&wish(&[1, 2, 3])), [1]);
    assert_eq!(evicted(&rig.settle(s(0))), ids);
    assert_eq!(rig.held(), [vec![1], vec![1, 3]]);
}

#[test]
fn a_marked_node_waits_for_the_child_that_is_being_created_from_it() {
    let mut rig = holding(Rig::with_budget(1000), &[&[1]]);
    rig.start(&wish(&[1, 2]), s(0));
    let creation = rig.cache.plan(s(0));
    rig.cache.mark(1);
    assert_eq!(evicted(&rig.cache.plan(s(0))), [0_u64; 0]);
    let child = rig.id(&[1, 2]);
    rig.finish(&creation, s(0));
    let parent = rig.id(&[1]);
    assert_eq!(evicted(&rig.settle(s(0))), [child, parent]);
    assert_eq!(rig.held(), [[2]]);
}

#[test]
fn the_given_tree_is_always_there_whatever_the_budget() {
    let mut rig = Rig::new(Settings { mode: Mode::Tree, ..Settings::default() });
    let a = rig.cache.pin(ROOT, &[1]);
    let b = rig.cache.pin(a, &[2]);
    let done = created(&rig.settle(s(0)));
    let parent = rig.id(&[1]);
    assert_eq!(done, [(ROOT, vec![1]), (parent, vec![2])]);
    rig.start(&wish(&[1, 3]), s(0));
    assert_eq!(rig.settle(s(9999)), [], "nothing else is made, and nothing of it goes");
    assert_eq!(rig.best(&wish(&[1, 3])), [1]);
    rig.cache.ended(parent, s(9999));
    assert_eq!(created(&rig.settle(s(10_000))), [(ROOT, vec![1])]);
    assert_ne!(rig.id(&[1]), parent);
    let pins: Vec<_> = rig.cache.view().into_iter().map(|node| node.pin).collect();
    assert_eq!(pins, [None, Some(b), Some(a)]);
}

#[test]
fn a_given_node_does_without_a_marked_package_and_without_a_process_if_that_is_all() {
    let mut rig = Rig::new(Settings { mode: Mode::Tree, ..Settings::default() });
    let a = rig.cache.pin(ROOT, &[1]);
    let b = rig.cache.pin(a, &[2]);
    rig.cache.pin(b, &[3, 4]);
    rig.settle(s(0));
    assert_eq!(rig.held(), [vec![1], vec![1, 2], vec![1, 2, 3, 4]]);
    rig.cache.mark(2);
    rig.cache.mark(4);
    assert_eq!(evicted(&rig.settle(s(0))).len(), 2);
    assert_eq!(rig.held(), [vec![1], vec![1, 3]]);
}

#[test]
fn other_nodes_make_room_for_the_given_ones() {
    let mut rig = full();
    rig.cache.pin(ROOT, &[7, 8]);
    rig.settle(s(0));
    assert_eq!((rig.held(), rig.cache.bytes()), (vec![vec![7, 8]], 20 * MIB));
}

#[test]
fn costs_are_remembered_when_the_nodes_are_gone() {
    let mut rig = holding(Rig::with_budget(1000).costs(1, 30, 3), &[&[1]]);
    rig.cache.ended(rig.id(&[1]), s(1));
    assert_eq!(rig.cache.cost(1), Some(Cost { micros: 30_000, bytes: 3 * MIB }));
    assert_eq!(rig.cache.cost(2), None);
}

#[test]
fn late_reports_of_nodes_that_are_gone_are_ignored() {
    let mut rig = holding(Rig::with_budget(1000), &[&[1]]);
    for node in [ROOT, 99] {
        rig.cache.ready(node, Ready { bytes: 5, ..Ready::default() }, s(1));
        rig.cache.failed(node, Failure::Other, s(1));
        rig.cache.measured(node, 5);
        rig.cache.ended(node, s(1));
    }
    assert_eq!((rig.cache.bytes(), rig.cache.view().len()), (10 * MIB, 2));
}
