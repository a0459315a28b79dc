//! The store by itself: what it keeps, shares, evicts and refuses.

use super::*;

fn pin(name: &str, version: &str) -> Pin {
    Pin { name: name.into(), version: version.into(), hashes: vec![] }
}

/// Puts a package of `size` bytes into a job's folder, as a tool would.
fn fill(job: &Job, pin: &Pin, size: usize) {
    let folder = job.path.join(pin.folder());
    let info = folder.join(format!("{}.dist-info", pin.folder()));
    fs::create_dir_all(&info).unwrap();
    fs::write(info.join("RECORD"), format!("{}.py,,\n", pin.name)).unwrap();
    fs::write(folder.join(format!("{}.py", pin.name)), vec![b'#'; size]).unwrap();
}

fn install(store: &Store, pin: &Pin, size: usize) -> Result<Arc<Package>, PackageError> {
    match store.claim(pin)? {
        Claim::There(package) => Ok(package),
        Claim::Install(right) => {
            let job = store.job()?;
            fill(&job, pin, size);
            store.adopt(&job, pin, right)
        }
    }
}

fn open(root: &Path, budget: u64) -> Store {
    Store::open(root.to_owned(), budget, geteuid().as_raw(), "python3.11").unwrap()
}

#[test]
fn a_version_is_installed_once_and_versions_lie_side_by_side() {
    let root = tempfile::tempdir().unwrap();
    let store = open(root.path(), u64::MAX);
    let one = install(&store, &pin("a", "1"), 10).unwrap();
    assert_eq!((one.folder.as_str(), one.imports.as_slice()), ("a-1", ["a".to_owned()].as_slice()));
    assert!(matches!(store.claim(&pin("a", "1")).unwrap(), Claim::There(again) if Arc::ptr_eq(&again, &one)));
    let two = install(&store, &pin("a", "2"), 10).unwrap();
    assert!(one.bytes > 0 && root.path().join("installed/a-1").is_dir() && two.version == "2");
    assert_eq!(fs::read_dir(&store.work).unwrap().count(), 1, "only the lock is left of the jobs");
    // Another worker of the same cluster finds it.
    let other = open(root.path(), u64::MAX);
    assert!(matches!(other.claim(&pin("a", "1")).unwrap(), Claim::There(package) if package == one));
    assert_ne!(other.work, store.work);
}

#[test]
fn the_same_version_with_another_hash_is_another_thing() {
    let root = tempfile::tempdir().unwrap();
    let store = open(root.path(), u64::MAX);
    let hash = |digit: &str| format!("sha256:{}", digit.repeat(64));
    let of = |digits: &[&str]| Pin { hashes: digits.iter().map(|one| hash(one)).collect(), ..pin("a", "1") };
    let Claim::Install(right) = store.claim(&of(&["1", "2"])).unwrap() else { panic!("it is there") };
    let job = store.job().unwrap();
    fill(&job, &pin("a", "1"), 1);
    let cache = job.path.join("cache/wheels-v8/pypi/a");
    fs::create_dir_all(&cache).unwrap();
    fs::write(cache.join("1-py3-none-any.http"), format!("\0sha256\0{}", "2".repeat(64))).unwrap();
    store.adopt(&job, &of(&["1", "2"]), right).unwrap();
    for fits in [of(&["2"]), of(&["3", "2"]), pin("a", "1")] {
        assert!(store.look(&fits).unwrap().is_some(), "{fits:?}");
    }
    let other = store.look(&of(&["1"])).unwrap_err();
    assert_eq!(other.reason, ConditionReason::HashMismatch);
    assert!(matches!(store.claim(&of(&["1"])), Err(error) if error == other));
}

#[test]
fn links_are_no_part_of_a_package() {
    let root = tempfile::tempdir().unwrap();
    let store = open(root.path(), u64::MAX);
    let Claim::Install(right) = store.claim(&pin("a", "1")).unwrap() else { panic!("it is there") };
    let job = store.job().unwrap();
    fill(&job, &pin("a", "1"), 1);
    std::os::unix::fs::symlink("/etc/passwd", job.path.join("a-1/linked.py")).unwrap();
    let secret = job.path.join("a-1/secret.py");
    fs::write(&secret, "x").unwrap();
    fs::set_permissions(&secret, fs::Permissions::from_mode(0o4600)).unwrap();
    store.adopt(&job, &pin("a", "1"), right).unwrap();
    let installed = root.path().join("installed/a-1");
    assert!(fs::symlink_metadata(installed.join("linked.py")).is_err());
    let mode = fs::metadata(installed.join("secret.py")).unwrap().permissions().mode();
    assert_eq!(mode & 0o7777, 0o644);
}

#[test]
fn a_second_one_waits_for_the_first() {
    let root = tempfile::tempdir().unwrap();
    let store = open(root.path(), u64::MAX);
    let Claim::Install(right) = store.claim(&pin("a", "1")).unwrap() else { panic!("it is there") };
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| store.claim(&pin("a", "1")).unwrap());
        let job = store.job().unwrap();
        fill(&job, &pin("a", "1"), 1);
        let package = store.adopt(&job, &pin("a", "1"), right).unwrap();
        assert!(matches!(waiting.join().unwrap(), Claim::There(there) if Arc::ptr_eq(&there, &package)));
    });
}

#[test]
fn the_budget_evicts_what_nobody_uses_and_refuses_what_never_fits() {
    let root = tempfile::tempdir().unwrap();
    let probe = open(&root.path().join("probe"), u64::MAX);
    let size = install(&probe, &pin("a", "1"), 100_000).unwrap().bytes;
    let store = open(&root.path().join("store"), 2 * size);
    let other = open(&root.path().join("store"), 2 * size);
    let used = install(&store, &pin("used", "1"), 100_000).unwrap();
    drop(install(&store, &pin("idle", "1"), 100_000).unwrap());
    let third = install(&store, &pin("third", "1"), 100_000).unwrap();
    assert!(!root.path().join("store/installed/idle-1").exists());
    // What another worker uses stays too.
    drop(used);
    let theirs = install(&other, &pin("used", "1"), 100_000).unwrap();
    let full = install(&store, &pin("fourth", "1"), 100_000).unwrap_err();
    assert_eq!(full.reason, ConditionReason::DiskFull);
    assert!(
        root.path().join("store/installed/used-1").exists() && full.message.contains("packages_size"),
        "{full}"
    );
    drop((theirs, third));
    other.release_unused();
    install(&store, &pin("fourth", "1"), 100_000).unwrap();
}

#[test]
fn what_a_killed_worker_leaves_is_removed() {
    let root = tempfile::tempdir().unwrap();
    let store = open(root.path(), u64::MAX);
    let job = store.job().unwrap();
    let left = job.path.clone();
    // Killed: nothing is tidied up, but its lock is gone.
    std::mem::forget(job);
    drop(store);
    open(root.path(), u64::MAX);
    assert!(!left.exists());
}

#[test]
fn workers_that_start_at_once_share_a_new_store() {
    for _ in 0..50 {
        let root = tempfile::tempdir().unwrap();
        let stores = std::thread::scope(|scope| {
            let opening: Vec<_> = (0..4).map(|_| scope.spawn(|| open(root.path(), u64::MAX))).collect();
            opening.into_iter().map(|one| one.join().unwrap()).collect::<Vec<_>>()
        });
        assert_eq!(stores.len(), 4);
    }
}

#[test]
fn another_python_begins_anew() {
    let root = tempfile::tempdir().unwrap();
    let store = open(root.path(), u64::MAX);
    let held = install(&store, &pin("a", "1"), 1).unwrap();
    store.record_resolved("h", "1", "a==1\n").unwrap();
    let user = geteuid().as_raw();
    let used = Store::open(root.path().to_owned(), u64::MAX, user, "python3.12").unwrap_err().to_string();
    assert!(used.contains("python3.11") && used.contains("Pkgs_dir"), "{used}");
    drop((held, store));
    let store = Store::open(root.path().to_owned(), u64::MAX, user, "python3.12").unwrap();
    assert_eq!((store.look(&pin("a", "1")).unwrap(), store.resolved("h", "1")), (None, None));
}

#[test]
fn what_was_resolved_counts_for_the_same_requirements_only() {
    let root = tempfile::tempdir().unwrap();
    let store = open(root.path(), u64::MAX);
    assert_eq!(store.resolved("h", "1"), None);
    store.record_resolved("h", "1", "a==1\n").unwrap();
    assert_eq!(store.resolved("h", "1").as_deref(), Some("a==1\n"));
    assert_eq!(store.resolved("h", "2"), None);
    assert_eq!(store.resolved("other", "1"), None);
}
