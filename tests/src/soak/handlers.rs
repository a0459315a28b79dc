//! The handlers of the soak, and what is right of each.

use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::{Result, ensure};
use serde_json::{Value, json};

use super::Chance;
use crate::{Cluster, LoopbackIndex, Request, until};

/// Handlers of which each answer tells the revision that gave it.
const EDITED: usize = 4;
/// The length of a big answer.
const BIG: usize = 1 << 20;

/// Two children each time, and now and then a daemon that never ends. It reaps what has ended.
const FORKING: &str = r"
import os, time
def handler(event):
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        pass
    for _ in range(2):
        if os.fork() == 0:
            time.sleep(0.05)  # lives when the answer is given
            os._exit(0)
    if event % 10 == 0 and os.fork() == 0:
        os.setsid()
        time.sleep(1000)  # stays until the sandbox ends
    return event
";

/// How a handler behaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// It is edited all the time.
    Edited(usize),
    /// It imports a package.
    Package,
    /// It takes its time.
    Slow,
    /// Its answers are long.
    Big,
    /// It leaves processes behind.
    Forking,
    /// It raises.
    Raising,
    /// Its process ends in the middle.
    Crashing,
    /// It takes more memory than it may.
    Hungry,
    /// It takes longer than its caller has.
    Late,
}

/// What each is called for, out of a hundred.
pub const MIX: [(u64, Kind); 12] = [
    (18, Kind::Edited(0)),
    (18, Kind::Edited(1)),
    (12, Kind::Edited(2)),
    (12, Kind::Edited(3)),
    (10, Kind::Package),
    (10, Kind::Slow),
    (5, Kind::Big),
    (5, Kind::Forking),
    (4, Kind::Raising),
    (3, Kind::Crashing),
    (1, Kind::Hungry),
    (2, Kind::Late),
];

/// The revisions of the edited ones.
#[derive(Debug, Default)]
pub struct Registry {
    /// Written to the registry.
    revisions: [AtomicU64; EDITED],
}

/// Puts the package into the index.
pub fn publish(index: &LoopbackIndex) -> Result<()> {
    index.wheel("soakpkg", "1.0", &[], &[("soakpkg/__init__.py", "VALUE = 'from the package'\n")]).map(drop)
}

impl Kind {
    /// Its handler's name.
    pub fn name(self) -> String {
        match self {
            Self::Edited(index) => format!("edited-{index}"),
            other => format!("{other:?}").to_lowercase(),
        }
    }

    fn source(self) -> &'static str {
        match self {
            Self::Edited(_) => "",
            Self::Package => "import soakpkg\ndef handler(event):\n    return [event, soakpkg.VALUE]\n",
            // How slow it is, is what makes it this kind.
            Self::Slow => {
                "import time\ndef handler(event):\n    time.sleep(0.02 + event % 7 / 50)\n    return event\n"
            }
            Self::Big => "def handler(event):\n    return [event, 'x' * (1 << 20), event]\n",
            Self::Forking => FORKING,
            Self::Raising => "def handler(event):\n    raise RuntimeError(f'wanted {event}')\n",
            Self::Crashing => "import os\ndef handler(event):\n    os._exit(3)\n",
            Self::Hungry => {
                "def handler(event):\n    keep = []\n    while True:\n        keep.append(bytearray(1 << 20))\n"
            }
            Self::Late => "import time\ndef handler(event):\n    time.sleep(60)\n",
        }
    }

    /// Whether an answer is right, too.
    pub fn may_answer(self) -> bool {
        !matches!(self, Self::Raising | Self::Crashing | Self::Hungry | Self::Late)
    }

    /// A call with this number, which no other call has.
    pub fn request(self, nonce: u64) -> Request {
        let request = Request::call(&self.name(), &json!(nonce));
        if self == Self::Late { request.header("X-Timeout", "200ms") } else { request }
    }

    /// The error that is right, and what its message has.
    pub fn error(self, nonce: u64) -> Option<(&'static str, String)> {
        match self {
            // What it leaves behind counts against its limit, until there is no room for more.
            Self::Forking => Some(("function_error", "temporarily unavailable".into())),
            Self::Raising => Some(("function_error", format!("wanted {nonce}"))),
            Self::Crashing => Some(("function_crashed", "exited with status 3".into())),
            Self::Hungry => Some(("out_of_memory", "64 MiB".into())),
            Self::Late => Some(("function_timeout", String::new())),
            _ => None,
        }
    }
}

impl Registry {
    /// Writes all of them.
    pub fn deploy(cluster: &Cluster) -> Result<Self> {
        let registry = Self::default();
        for (_, kind) in MIX {
            match kind {
                Kind::Edited(index) => registry.write(cluster, index)?,
                _ => cluster.handler(&kind.name(), kind.source())?,
            }
        }
        cluster.file(&Kind::Package.name(), "requirements.txt", "soakpkg==1.0\n")?;
        Ok(registry)
    }

    /// Calls each on each worker, until what it needs is there.
    pub fn warm_up(&self, cluster: &Cluster, workers: u16) -> Result<()> {
        for (_, kind) in MIX {
            for worker in 0..workers {
                until(&format!("the first call of {}", kind.name()), || {
                    let response = kind.request(0).send(cluster.worker_port(worker))?;
                    Ok((response.status != 503).then_some(()))
                })?;
            }
        }
        Ok(())
    }

    /// A deploy or an edit, as chance has it.
    pub fn edit(&self, cluster: &Cluster, chance: &mut Chance) -> Result<()> {
        self.write(cluster, chance.below(EDITED as u64) as usize)
    }

    fn write(&self, cluster: &Cluster, index: usize) -> Result<()> {
        let next = self.revisions[index].load(Ordering::Acquire) + 1;
        let source = format!("def handler(event):\n    return [event, {next}]\n");
        cluster.handler(&Kind::Edited(index).name(), &source)?;
        self.revisions[index].store(next, Ordering::Release);
        Ok(())
    }

    /// The revision that a call finds which begins now.
    pub fn revision(&self, kind: Kind) -> u64 {
        match kind {
            Kind::Edited(index) => self.revisions[index].load(Ordering::Acquire),
            _ => 0,
        }
    }

    /// Checks an answer to a call that began when the revision was `began`.
    pub fn check(&self, kind: Kind, nonce: u64, began: u64, answer: &Value) -> Result<()> {
        match kind {
            Kind::Edited(_) => {
                let revision = answer[1].as_u64().unwrap_or(0);
                // An edit is served by the next call or the one after; one may be on its way while the call runs.
                let known = began.saturating_sub(1)..=self.revision(kind) + 1;
                ensure!(known.contains(&revision), "revision {revision} instead of one in {known:?}");
                ensure!(answer[0] == json!(nonce), "the nonce of another call");
            }
            Kind::Package => ensure!(*answer == json!([nonce, "from the package"]), "not its answer"),
            Kind::Big => {
                let length = answer[1].as_str().map_or(0, str::len);
                ensure!(answer[0] == json!(nonce) && answer[2] == json!(nonce), "the nonce of another call");
                ensure!(length == BIG, "{length} characters instead of {BIG}");
            }
            _ => ensure!(*answer == json!(nonce), "the nonce of another call"),
        }
        Ok(())
    }
}
