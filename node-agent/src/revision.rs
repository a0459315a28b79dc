//! A revision: a handler's code at one moment, and what holds for its instances and calls. It never changes; an edit
//! of either makes another one.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use http::HeaderValue;
use openlambda_api::handler::DEFAULT_ENTRYPOINT;
use openlambda_api::packages;
use openlambda_config::WorkerConfig;
use openlambda_sandbox::Limits;

use crate::births::Births;
use crate::bundles::Bundle;
use crate::frame;
use crate::gate::{Gate, Gates};
use crate::import_cache::Imports;
use crate::packages::PackageSet;

/// What holds for a handler's instances and calls.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    /// MODULE.FUNCTION.
    pub entrypoint: String,
    /// Variables of the environment, besides those that every sandbox has.
    pub env: BTreeMap<String, String>,
    /// What one instance may use.
    pub limits: Limits,
    /// The time of one call.
    pub timeout: Duration,
    /// The longest body of a call.
    pub request: u64,
    /// The longest answer.
    pub response: usize,
    /// What one call may print.
    pub log: u64,
    /// Calls at a time in one instance, 1 or more.
    pub runners: u32,
    /// Instances.
    pub max_instances: u32,
    /// Instances that are kept ready without calls.
    pub min_warm: u32,
    /// An instance idle for so long is destroyed.
    pub idle_timeout: Duration,
    /// Whether an instance serves more than one call.
    pub reuse: bool,
}

impl Settings {
    /// Those of a handler that says nothing.
    pub fn of(config: &WorkerConfig) -> Self {
        let limits = &config.limits;
        Self {
            entrypoint: DEFAULT_ENTRYPOINT.to_owned(),
            env: BTreeMap::new(),
            limits: Limits {
                memory: limits.memory.bytes(),
                cpu_millis: limits.cpu_millis,
                cpu_weight: limits.cpu_weight,
                pids: limits.pids,
                scratch: limits.scratch.bytes(),
                open_files: limits.open_files,
            },
            timeout: limits.timeout,
            request: limits.request.bytes(),
            response: wide(limits.response.bytes()),
            log: limits.log.bytes(),
            runners: config.max_runners,
            max_instances: config.max_instances,
            min_warm: config.min_warm,
            idle_timeout: config.idle_timeout,
            reuse: true,
        }
    }

    /// Whether a sandbox that was made for these can have the other ones: what it was told when it loaded its code, its scratch space and
    /// its open files stay as they are.
    fn can_become(&self, other: &Self) -> bool {
        let fixed = |settings: &Self| {
            let Self { entrypoint, env, limits, runners, reuse, .. } = settings;
            (entrypoint.clone(), env.clone(), limits.scratch, limits.open_files, *runners, *reuse)
        };
        fixed(self) == fixed(other)
    }

    /// Calls that may run at a time.
    fn width(&self) -> usize {
        wide(self.max_instances.into()).saturating_mul(wide(self.runners.into()))
    }
}

/// A number of bytes as a length.
pub fn wide(number: u64) -> usize {
    usize::try_from(number).unwrap_or(usize::MAX)
}

/// The file of an entrypoint's module, below the handler's directory.
pub fn entry_file(entrypoint: &str) -> String {
    let module = entrypoint.rsplit_once('.').map_or(entrypoint, |(module, _)| module);
    format!("{}.py", module.replace('.', "/"))
}

/// Code, and what holds for it.
#[derive(Debug)]
pub struct Revision {
    /// The code.
    pub bundle: Arc<Bundle>,
    /// What holds for it.
    pub settings: Settings,
    /// The packages that it imports from.
    pub packages: PackageSet,
    /// Their digest, if there are any: as a number, and as lard reads it off an answer.
    pub set: Option<(u64, HeaderValue)>,
    /// What it imports, and where it may be forked from.
    pub imports: Imports,
    /// Who may run.
    pub gate: Arc<Gate>,
    /// Who may have an instance made.
    pub births: Births,
    /// Whether a call of it got an instance here.
    ran: AtomicBool,
    /// The meta of a load frame.
    load: Vec<u8>,
}

impl Revision {
    /// The revision of handler `name` after `former`: calls that run at that one count at this one too, unless the
    /// number that may run is another.
    pub fn new(
        name: &str,
        bundle: Arc<Bundle>,
        settings: Settings,
        packages: PackageSet,
        gates: &Gates,
        former: Option<&Revision>,
    ) -> Arc<Self> {
        let width = settings.width();
        let gate = match former {
            Some(former) if former.gate.width() == width => Arc::clone(&former.gate),
            _ => gates.make(width),
        };
        let load = load_meta(name, &settings, &packages);
        let (set, imports, births) = (digest(&packages), Imports::default(), Births::new());
        let ran = AtomicBool::new(false);
        Arc::new(Self { bundle, settings, packages, set, imports, gate, births, ran, load })
    }

    /// A call got an instance that was there (`warm`) or was made for it. Gives whether the instances were kept since it ran
    /// before, unless this cannot be told: it did not run before, or one more was made beside others that were busy.
    pub fn ran(&self, warm: bool) -> Option<bool> {
        let before = self.ran.swap(true, Ordering::Relaxed) && self.settings.reuse;
        (before && (warm || self.gate.counts().0 <= 1)).then_some(warm)
    }

    /// Whether an instance of this one can serve the other: the code and all that it was loaded with are the same.
    pub fn can_become(&self, other: &Self) -> bool {
        let folders = |revision: &Self| {
            revision.packages.iter().map(|package| package.folder.clone()).collect::<Vec<_>>()
        };
        self.bundle.digest == other.bundle.digest
            && self.settings.can_become(&other.settings)
            && folders(self) == folders(other)
    }

    /// Appends the meta of a load frame.
    pub fn put_load_meta(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.load);
        if !self.packages.is_empty() && self.imports.is_unknown() {
            out.pop();
            out.extend_from_slice(b",\"observe\":true}");
        }
    }
}

fn digest(packages: &PackageSet) -> Option<(u64, HeaderValue)> {
    let digest = packages::digest(packages.iter().map(|package| &*package.folder));
    let text = HeaderValue::from_str(&packages::text(digest)).ok()?;
    (!packages.is_empty()).then_some((digest, text))
}

fn load_meta(name: &str, settings: &Settings, packages: &PackageSet) -> Vec<u8> {
    let mut out = b"{\"handler\":".to_vec();
    frame::put_json_string(&mut out, name);
    out.extend_from_slice(b",\"entrypoint\":");
    frame::put_json_string(&mut out, &settings.entrypoint);
    out.extend_from_slice(b",\"env\":{");
    for (index, (name, value)) in settings.env.iter().enumerate() {
        if index > 0 {
            out.push(b',');
        }
        frame::put_json_string(&mut out, name);
        out.push(b':');
        frame::put_json_string(&mut out, value);
    }
    out.extend_from_slice(b"},\"packages\":[");
    for (index, package) in packages.iter().enumerate() {
        if index > 0 {
            out.push(b',');
        }
        frame::put_json_string(&mut out, &package.folder);
    }
    out.extend_from_slice(b"],\"threads\":");
    out.extend_from_slice(settings.runners.to_string().as_bytes());
    out.push(b'}');
    out
}

#[cfg(test)]
pub mod tests {
    use std::path::Path;

    use serde_json::{Value, json};

    use super::*;
    use crate::packages::Package;

    /// The settings of a worker whose file says nothing of them.
    pub fn defaults() -> Settings {
        let file = json!({"registry_dir": "r", "worker_dir": "w"});
        Settings::of(&WorkerConfig::from_value(&file, Path::new("/c/worker.json")).unwrap())
    }

    #[test]
    fn the_meta_of_a_load_has_all_that_python_needs() {
        let env = BTreeMap::from([("A".to_owned(), "\"1\"\n".to_owned()), ("B".to_owned(), "ä".to_owned())]);
        let settings = Settings { env, runners: 4, entrypoint: "app.main".into(), ..defaults() };
        let package = |folder: &str| {
            let (name, version) = folder.rsplit_once('-').unwrap();
            Arc::new(Package {
                name: name.into(),
                version: version.into(),
                folder: folder.into(),
                imports: vec![],
                bytes: 0,
            })
        };
        let packages = PackageSet::from([package("a-1.0"), package("b-2")]);
        assert_eq!(digest(&packages).map(|set| set.0), packages::of_lock(&["b==2", "a==1.0"]));
        assert_eq!(digest(&PackageSet::from([])), None);
        let meta: Value = serde_json::from_slice(&load_meta("h", &settings, &packages)).unwrap();
        let want = json!({
            "handler": "h", "entrypoint": "app.main", "env": {"A": "\"1\"\n", "B": "ä"}, "packages": ["a-1.0", "b-2"],
            "threads": 4
        });
        assert_eq!(meta, want);
    }

    #[test]
    fn what_a_sandbox_that_lives_can_become() {
        let limits = Limits { memory: 1, cpu_millis: Some(1), cpu_weight: 1, pids: 1, ..defaults().limits };
        let other =
            Settings { limits, timeout: Duration::from_secs(1), max_instances: 1, min_warm: 1, ..defaults() };
        assert!(defaults().can_become(&other));
        let scratch = Limits { scratch: 1, ..defaults().limits };
        for other in [
            Settings { entrypoint: "a.b".into(), ..defaults() },
            Settings { env: BTreeMap::from([("A".into(), "1".into())]), ..defaults() },
            Settings { limits: scratch, ..defaults() },
            Settings { runners: 2, ..defaults() },
            Settings { reuse: false, ..defaults() },
        ] {
            assert!(!defaults().can_become(&other), "{other:?}");
        }
    }

    #[test]
    fn the_file_of_an_entrypoint() {
        assert_eq!(entry_file("lambda_func.handler"), "lambda_func.py");
        assert_eq!(entry_file("app.api.main"), "app/api.py");
    }
}
