//! Which part of a handler's calls a call belongs to, by its request id: the same id always to the same part, on every
//! node, and of many ids each part gets its share.

use crate::hash::fnv;

/// The part of a call, as its place in `percents`; none if they are all 0. What they lack of 100 goes to all of them
/// in proportion.
pub fn part(request_id: &str, percents: impl IntoIterator<Item = u32> + Clone) -> Option<usize> {
    let sum: u64 = percents.clone().into_iter().map(u64::from).sum();
    if sum == 0 {
        return None;
    }
    // The high half of the product: each of the numbers below `sum` for as many hashes as any other.
    let mut point = (u128::from(fnv(request_id)) * u128::from(sum)) >> 64;
    percents.into_iter().position(|percent| {
        let is_here = point < u128::from(percent);
        point = point.saturating_sub(u128::from(percent));
        is_here
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_get_their_shares() {
        for percents in [vec![90, 10], vec![1, 99], vec![25, 0, 50, 25], vec![100]] {
            let mut counts = vec![0_u32; percents.len()];
            for number in 0..20_000 {
                counts[part(&format!("id-{number}"), percents.iter().copied()).unwrap()] += 1;
            }
            for (count, percent) in counts.iter().zip(&percents) {
                // Four standard deviations of a share of one half.
                assert!(count.abs_diff(percent * 200) <= 283, "{counts:?} of {percents:?}");
                assert!(*percent > 0 || *count == 0, "{counts:?}");
            }
        }
        assert_eq!(part("a", [0, 0]), None);
        assert_eq!(part("a", []), None);
    }

    /// Ids of the first part stay there when it grows: a rollout takes nobody back.
    #[test]
    fn a_growing_part_keeps_whom_it_has() {
        for number in 0..1000 {
            let id = format!("id-{number}");
            if part(&id, [10, 90]) == Some(0) {
                assert_eq!(part(&id, [50, 50]), Some(0), "{id}");
            }
        }
    }
}
