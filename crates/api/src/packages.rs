//! Sets of packages by a digest, which agents and lard must come to alike.
//!
//! It tells sets apart, it does not protect: who makes two sets with one digest only has them meet.

/// What separates two names; no name has it.
const END: u8 = b'\n';

/// The digest of a set of packages, given by their folders (`name-version`) in any order: FNV-1a of the sorted names.
pub fn digest<'a>(folders: impl IntoIterator<Item = &'a str>) -> u64 {
    let mut folders: Vec<&str> = folders.into_iter().collect();
    folders.sort_unstable();
    folders.dedup();
    let bytes = folders.iter().flat_map(|folder| folder.bytes().chain([END]));
    bytes.fold(0xcbf2_9ce4_8422_2325, |hash: u64, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

/// The digest of a lock, of `name==version` each; none if it is of nothing.
pub fn of_lock<T: AsRef<str>>(locked: &[T]) -> Option<u64> {
    let folders: Vec<String> = locked.iter().map(|pin| pin.as_ref().replacen("==", "-", 1)).collect();
    (!folders.is_empty()).then(|| digest(folders.iter().map(String::as_str)))
}

/// A digest as text: 16 digits.
pub fn text(digest: u64) -> String {
    format!("{digest:016x}")
}

/// Reads [`text`].
pub fn parse(text: &str) -> Option<u64> {
    let is_digit = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
    (text.len() == 16 && text.bytes().all(is_digit)).then(|| u64::from_str_radix(text, 16).ok())?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_order_does_not_count_and_the_names_do() {
        assert_eq!(digest(["numpy-2.2.1", "pytz-1"]), digest(["pytz-1", "numpy-2.2.1", "pytz-1"]));
        assert_ne!(digest(["ab", "c"]), digest(["a", "bc"]));
        assert_ne!(digest(["a-1"]), digest(["a-2"]));
        // Replicas and agents of different versions must agree: it never changes.
        assert_eq!(text(digest(["numpy-2.2.1", "pytz-1"])), "ece2300940515e7b");
    }

    #[test]
    fn a_lock_names_the_folders() {
        assert_eq!(of_lock(&["pytz==1", "numpy==2.2.1"]), Some(digest(["numpy-2.2.1", "pytz-1"])));
        assert_eq!(of_lock::<&str>(&[]), None);
    }

    #[test]
    fn text_is_read_again_and_nothing_else_is() {
        assert_eq!(parse(&text(7)), Some(7));
        assert_eq!(parse(&text(u64::MAX)), Some(u64::MAX));
        for bad in ["", "7", "+000000000000007", "00000000000000AB", "00000000000000007"] {
            assert_eq!(parse(bad), None, "{bad:?}");
        }
    }
}
