//! How much memory to give back before the kernel takes it: by what is left of the machine's, and by how long processes waited for some.

/// Less than this part of the memory left is too little, whoever waits.
const LOW: f64 = 0.05;
/// Below this part, waiting is a sign that it is little.
const SPARSE: f64 = 0.15;
/// Processes waited for so much of the time.
const STALLED: f64 = 0.10;
/// What is given back when they wait: this part of all.
const STEP: f64 = 0.02;

/// Bytes to give back of `total`, of which `available` are left; `stalled` is the part of the time since the last look in which some
/// process waited for memory (the kernel's `some` of `/proc/pressure/memory`).
pub fn to_give_back(total: u64, available: u64, stalled: f64) -> u64 {
    let part = |part: f64| (total as f64 * part) as u64;
    if available < part(LOW) {
        // To twice that, so that it is not at the edge again at once.
        part(2.0 * LOW) - available
    } else if available < part(SPARSE) && stalled >= STALLED {
        part(STEP)
    } else {
        0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn little_is_given_back_early_and_more_late() {
        assert_eq!(to_give_back(1000, 500, 1.0), 0, "it waits for something else");
        assert_eq!(to_give_back(1000, 140, 0.05), 0);
        assert_eq!(to_give_back(1000, 140, 0.10), 20);
        assert_eq!(to_give_back(1000, 40, 0.0), 60);
    }
}
