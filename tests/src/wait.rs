//! Waiting for a condition: the only kind of waiting a test does.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};

/// Longer than anything takes on a busy machine; a test that needs this long has failed.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// Looks again and again until `look` gives a value; names `what` was waited for if it never does.
pub fn until<T>(what: &str, look: impl FnMut() -> Result<Option<T>>) -> Result<T> {
    until_within(PATIENCE, what, look)
}

/// The same with a patience of its own, for what may take longer, or must not.
pub fn until_within<T>(
    patience: Duration,
    what: &str,
    mut look: impl FnMut() -> Result<Option<T>>,
) -> Result<T> {
    let deadline = Instant::now() + patience;
    loop {
        if let Some(found) = look()? {
            return Ok(found);
        }
        if Instant::now() > deadline {
            bail!("waited {patience:?} in vain: {what}");
        }
        // Only the pause between two looks; the condition decides.
        std::thread::sleep(Duration::from_millis(5));
    }
}
