//! The maps of user ids of Zygotes that are born of Zygotes.

use std::fmt::Write as _;

/// The first id that sandboxes and branches have; those below belong to the base root's files.
pub const FIRST_USER: u32 = 1000;

/// The map of a user namespace within one whose map is `own` (the text of its `uid_map`): all ids from [`FIRST_USER`] on that
/// `own` has, as they are, but for `root`, which is 0 in the new one. So the users of sandboxes are the same in all, and no two
/// branches have the same root.
pub fn nested(own: &str, root: u32) -> String {
    let mut text = format!("0 {root} 1\n");
    for (first, count) in own.lines().filter_map(extent) {
        let end = u64::from(first) + u64::from(count);
        let (first, root) = (u64::from(first.max(FIRST_USER)), u64::from(root));
        for (from, to) in [(first, end.min(root)), (first.max(root + 1), end)] {
            if from < to {
                // Writing to a string cannot fail.
                let _ = writeln!(text, "{from} {from} {}", to - from);
            }
        }
    }
    text
}

/// The ids of a line, inside.
fn extent(line: &str) -> Option<(u32, u32)> {
    let mut words = line.split_whitespace();
    let first = words.next()?.parse().ok()?;
    words.next()?;
    Some((first, words.next()?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_branch_of_a_branch_has_all_ids_but_those_of_its_ancestors() {
        let first = nested("         0 1879048192      65536\n", 61_000);
        assert_eq!(first, "0 61000 1\n1000 1000 60000\n61001 61001 4535\n");
        assert_eq!(nested(&first, 61_001), "0 61001 1\n1000 1000 60000\n61002 61002 4534\n");
        assert_eq!(nested(&first, 65_535), "0 65535 1\n1000 1000 60000\n61001 61001 4534\n");
    }
}
