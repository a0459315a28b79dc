//! A short soak; the long one is `cargo xtask soak`.

use std::time::Duration;

use anyhow::{Result, ensure};
use openlambda_tests::soak::{self, Plan};

#[test]
fn a_short_soak_is_right_honest_and_leaves_nothing() -> Result<()> {
    let plan =
        Plan { calls: None, time: Some(Duration::from_secs(10)), seed: 1, fault_rate: 0.02, clients: 8 };
    let account = soak::run(&plan, |line| println!("{line}"))?;
    ensure!(account.is_good(), "{:#}", account.json());
    // It must have been a soak.
    ensure!(account.calls > 200 && account.faults.len() >= 3, "{:#}", account.json());
    Ok(())
}
