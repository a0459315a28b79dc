//! From what a bundle says of itself to what holds for its handler: a pure mapping. What it leaves out is the worker's
//! default.

use std::time::Duration;

use openlambda_bundle::Manifest;

use super::shelf::Unpacked;
use crate::revision::Settings;

impl Unpacked {
    /// What holds for a handler of this bundle that says nothing more.
    pub fn settings(&self, defaults: &Settings) -> Settings {
        settings(defaults, &self.manifest, &self.entrypoint)
    }
}

fn settings(defaults: &Settings, manifest: &Manifest, entrypoint: &str) -> Settings {
    let mut settings =
        Settings { entrypoint: entrypoint.to_owned(), env: manifest.environment.clone(), ..defaults.clone() };
    let (limits, said) = (&mut settings.limits, &manifest.limits);
    if let Some(mib) = said.mem_mb {
        limits.memory = mib << 20;
    }
    if let Some(percent) = said.cpu_percent {
        // The kernel's smallest quota is a hundredth of a core.
        limits.cpu_millis = Some(percent * 10);
    }
    if let Some(procs) = said.procs {
        limits.pids = procs;
    }
    if let Some(seconds) = said.runtime_sec {
        settings.timeout = Duration::from_secs(seconds);
    }
    if !manifest.reuse {
        settings.reuse = false;
        settings.runners = 1;
    }
    settings
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::revision::tests::defaults;

    #[test]
    fn what_a_bundle_says_holds() {
        let text = "environment: {A: 1}\nlimits: {mem_mb: 64, cpu_percent: 50, procs: 7, runtime_sec: 3}\n\
                    reuse-sandbox: false\n";
        let settings = settings(&defaults(), &Manifest::parse(text).unwrap(), "f.f");
        let limits = settings.limits;
        assert_eq!((limits.memory, limits.cpu_millis, limits.pids), (64 << 20, Some(500), 7));
        assert_eq!((settings.timeout.as_secs(), settings.reuse, settings.runners), (3, false, 1));
        assert_eq!((&*settings.entrypoint, &*settings.env["A"]), ("f.f", "1"));
    }

    #[test]
    fn what_it_does_not_say_is_the_default() {
        let manifest = Manifest::parse("{}").unwrap();
        assert_eq!(settings(&defaults(), &manifest, "lambda_func.handler"), defaults());
    }
}
