//! Where this process stands in the mounted hierarchies: a pure reading of `/proc/self/mountinfo` and `/proc/self/cgroup`.

use std::path::{Path, PathBuf};

/// The controllers a sandbox needs on v1, each its own hierarchy.
pub(super) const V1_CONTROLLERS: [&str; 4] = ["memory", "cpu", "pids", "freezer"];

/// The folders that stand for this process's own cgroup.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Own {
    /// One folder per controller, in the order of [`V1_CONTROLLERS`].
    V1(Vec<PathBuf>),
    /// This process's folder, and the folder at which the hierarchy is mounted.
    V2 { own: PathBuf, mount: PathBuf },
}

/// One line of mountinfo that mounts a cgroup hierarchy.
struct Mounted<'a> {
    root: &'a str,
    point: &'a str,
    kind: &'a str,
    options: &'a str,
}

fn mounted(line: &str) -> Option<Mounted<'_>> {
    let (left, right) = line.split_once(" - ")?;
    let mut left = left.split(' ').skip(3);
    let (root, point) = (left.next()?, left.next()?);
    let mut right = right.split(' ');
    let kind = right.next()?;
    let options = right.nth(1)?;
    kind.starts_with("cgroup").then_some(Mounted { root, point, kind, options })
}

/// The folder of cgroup `path` in a hierarchy whose `root` is mounted at `point`. In a container `path` may lie outside of
/// what is mounted: then the mount is the container's own cgroup.
fn folder(mount: &Mounted<'_>, path: &str) -> PathBuf {
    let below = Path::new(path).strip_prefix(mount.root).unwrap_or(Path::new(""));
    Path::new(mount.point).join(below)
}

/// Finds the cgroup folders of a process, given its `/proc/…/mountinfo` and `/proc/…/cgroup`. Controllers mounted as v1 win, as on a
/// hybrid machine the v2 hierarchy has none. The error names what is missing.
pub(super) fn own(mountinfo: &str, cgroup: &str) -> Result<Own, String> {
    let mounts: Vec<_> = mountinfo.lines().filter_map(mounted).collect();
    let path_of = |controller: &str| {
        cgroup.lines().find_map(|line| {
            let mut parts = line.splitn(3, ':').skip(1);
            let (names, path) = (parts.next()?, parts.next()?);
            names.split(',').any(|name| name == controller).then_some(path)
        })
    };
    let v1 = |controller: &str| {
        let mount =
            mounts.iter().find(|m| m.kind == "cgroup" && m.options.split(',').any(|o| o == controller))?;
        Some(folder(mount, path_of(controller)?))
    };
    let found: Vec<_> = V1_CONTROLLERS.iter().map(|controller| (controller, v1(controller))).collect();
    if found.iter().any(|(name, folder)| **name == "memory" && folder.is_some()) {
        let missing: Vec<_> =
            found.iter().filter(|(_, folder)| folder.is_none()).map(|(name, _)| **name).collect();
        if !missing.is_empty() {
            return Err(format!("the cgroup v1 controllers {} are not mounted", missing.join(", ")));
        }
        return Ok(Own::V1(found.into_iter().filter_map(|(_, folder)| folder).collect()));
    }
    let mount = mounts.iter().find(|m| m.kind == "cgroup2").ok_or("no cgroup hierarchy is mounted")?;
    let own = folder(mount, path_of("").ok_or("/proc/self/cgroup names no cgroup v2")?);
    Ok(Own::V2 { own, mount: mount.point.into() })
}

#[cfg(test)]
mod tests {
    use super::*;

    const V1: &str = "\
30 25 0:26 / /sys/fs/cgroup rw - tmpfs tmpfs rw
31 30 0:27 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct
32 30 0:28 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory
33 30 0:29 /kubepods/pod1 /sys/fs/cgroup/pids rw - cgroup cgroup rw,pids
34 30 0:30 / /sys/fs/cgroup/freezer rw - cgroup cgroup rw,freezer
35 30 0:31 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw";

    #[test]
    fn v1_with_shared_controllers_and_a_containers_view() {
        let cgroup = "4:cpu,cpuacct:/a\n3:memory:/b/c\n2:pids:/kubepods/pod1/x\n1:freezer:/\n0::/";
        let folders = ["cpu", "memory", "pids", "freezer"].map(|_| ());
        let Ok(Own::V1(found)) = own(V1, cgroup) else { panic!("not v1") };
        assert_eq!(found.len(), folders.len());
        assert_eq!(found[0], Path::new("/sys/fs/cgroup/memory/b/c"));
        assert_eq!(found[1], Path::new("/sys/fs/cgroup/cpu,cpuacct/a"));
        assert_eq!(found[2], Path::new("/sys/fs/cgroup/pids/x"));
        assert_eq!(found[3], Path::new("/sys/fs/cgroup/freezer"));
    }

    #[test]
    fn v1_without_a_controller_names_it() {
        let mountinfo: String = V1.lines().filter(|l| !l.contains("pids")).collect::<Vec<_>>().join("\n");
        let error = own(&mountinfo, "4:cpu,cpuacct:/\n3:memory:/\n1:freezer:/").unwrap_err();
        assert!(error.contains("pids"), "{error}");
    }

    #[test]
    fn v2_in_a_namespace_and_outside() {
        let mountinfo = "35 30 0:31 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw,nsdelegate";
        let found = own(mountinfo, "0::/user.slice/x.scope").unwrap();
        let wanted =
            Own::V2 { own: "/sys/fs/cgroup/user.slice/x.scope".into(), mount: "/sys/fs/cgroup".into() };
        assert_eq!(found, wanted);
        assert!(own("", "0::/").unwrap_err().contains("no cgroup hierarchy"));
    }
}
