//! Zygotes born of Zygotes, and spare sandboxes.

use std::fs;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use openlambda_sandbox::{BranchError, Limits, SandboxSpec, Zygote};
use serde_json::{Value, json};

use crate::fixture::{Caller, Fixture, LOAD, Test};

pub const TESTS: &[(&str, Test)] = &[
    ("branches::a_branch_has_imported_what_its_children_then_have", |f| Box::pin(imports(f))),
    ("branches::a_branch_of_a_branch_has_what_both_imported", |f| Box::pin(twice(f))),
    ("branches::a_branch_says_which_package_will_not_do", |f| Box::pin(unusable(f))),
    ("branches::a_branch_is_confined_while_it_imports", |f| Box::pin(confined(f))),
    ("branches::a_child_of_a_branch_is_confined_as_any_other", |f| Box::pin(child_confined(f))),
    ("branches::a_branch_cannot_pass_off_another_process_as_its_child", |f| Box::pin(liar(f))),
    ("branches::the_children_of_a_branch_outlive_it", |f| Box::pin(outlive(f))),
    ("branches::a_branch_is_held_to_its_memory", |f| Box::pin(memory(f))),
    ("branches::a_spare_serves_what_it_is_told_to", |f| Box::pin(spare(f))),
    ("branches::a_spare_of_a_branch_has_its_packages", |f| Box::pin(spare_of_branch(f))),
    ("branches::children_of_one_zygote_do_not_share_their_randomness", |f| Box::pin(random(f))),
];

/// Puts a package of one file into the store.
fn package(fixture: &Fixture, name: &str, source: &str) -> Result<()> {
    let folder = fixture.store().join(format!("{name}-1"));
    fs::create_dir_all(&folder)?;
    Ok(fs::write(folder.join(format!("{name}.py")), source)?)
}

fn job(all: &[&str], new: &[&str]) -> Vec<u8> {
    let folder = |name: &&str| format!("{name}-1");
    let path: Vec<_> = all.iter().map(folder).collect();
    let packages: Vec<_> = new.iter().map(|name| (folder(name), vec![*name])).collect();
    json!({"path": path, "packages": packages}).to_string().into_bytes()
}

fn limits() -> Limits {
    Limits { memory: 256 << 20, ..Limits::default() }
}

/// A branch of `parent` that has imported `new`; what it told.
async fn branch(parent: &Zygote, all: &[&str], new: &[&str]) -> (Result<Zygote, BranchError>, Vec<Value>) {
    let mut told = Vec::new();
    let heard = |record: &[u8]| told.push(serde_json::from_slice(record).unwrap_or(Value::Null));
    let result = parent.branch(&limits(), &job(all, new), heard).await;
    (result, told)
}

/// What a handler answers that sees `packages` and is forked from `zygote`.
async fn answer(f: &Fixture, zygote: &Zygote, source: &str, packages: &[&str]) -> Result<Value> {
    start(f, zygote, source, packages).await?.call(Value::Null).await
}

async fn start(f: &Fixture, zygote: &Zygote, source: &str, packages: &[&str]) -> Result<Caller> {
    f.start_with(zygote, source, limits(), load(packages)).await
}

fn load(packages: &[&str]) -> Value {
    let folders: Vec<_> = packages.iter().map(|name| format!("{name}-1")).collect();
    json!({"packages": folders})
}

const COUNT: &str = "import sys\nbefore = set(sys.modules)\nimport one\n\
    def handler(event):\n    return [one.VALUE, 'one' in before, 'two' in before]\n";

async fn imports(f: Fixture) -> Result<()> {
    package(&f, "one", "VALUE = 'one'\ntry:\n    import not_there\nexcept ImportError:\n    pass\n")?;
    let (zygote, told) = branch(f.zygote(), &["one"], &["one"]).await;
    let zygote = zygote.with_context(|| format!("{told:?}"))?;
    ensure!(told[0] == json!({"begin": "one-1"}) && told[1]["end"] == json!("one-1"), "{told:?}");
    ensure!(told[1]["us"].as_u64().is_some_and(|us| us > 0), "{told:?}");
    ensure!(
        told[2] == json!({"misses": ["not_there"]}) && told[3] == json!({"modules": ["one"]}),
        "{told:?}"
    );
    ensure!(zygote.memory_bytes()? > 0);
    let got = answer(&f, &zygote, COUNT, &["one"]).await?;
    ensure!(got == json!(["one", true, false]), "{got}");
    Ok(())
}

async fn twice(f: Fixture) -> Result<()> {
    package(&f, "one", "VALUE = 'one'\n")?;
    package(&f, "two", "import one\nVALUE = one.VALUE + ' two'\n")?;
    let (one, told) = branch(f.zygote(), &["one"], &["one"]).await;
    let one = one.with_context(|| format!("{told:?}"))?;
    let (two, told) = branch(&one, &["one", "two"], &["two"]).await;
    let two = two.with_context(|| format!("{told:?}"))?;
    // The children of a branch need no more of their ancestors.
    drop(one);
    let got = answer(&f, &two, COUNT, &["one", "two"]).await?;
    ensure!(got == json!(["one", true, true]), "{got}");
    Ok(())
}

async fn unusable(f: Fixture) -> Result<()> {
    package(&f, "good", "")?;
    for (name, source, reason) in [
        ("raises", "raise ValueError('no')\n", "raises"),
        ("exits", "import sys\nsys.exit(3)\n", "raises"),
        (
            "threads",
            "import threading, time\nthreading.Thread(target=time.sleep, args=[60], daemon=True).start()\n",
            "threads",
        ),
        ("files", "FILE = open('/dev/zero')\n", "files"),
    ] {
        package(&f, name, source)?;
        let (zygote, told) = branch(f.zygote(), &["good", name], &["good", name]).await;
        ensure!(matches!(zygote, Err(BranchError::Ended(_))), "{name}: {:?}", zygote.err());
        let last = told.last().context("nothing told")?;
        ensure!(
            last["bad"] == json!(format!("{name}-1")) && last["reason"] == json!(reason),
            "{name}: {last}"
        );
    }
    package(&f, "crashes", "import os, signal\nos.kill(os.getpid(), signal.SIGSEGV)\n")?;
    let (zygote, told) = branch(f.zygote(), &["crashes"], &["crashes"]).await;
    let Err(BranchError::Ended(exit)) = zygote else { bail!("it did not end") };
    ensure!(
        exit.to_string().contains("SIGSEGV") && told == [json!({"begin": "crashes-1"})],
        "{exit} {told:?}"
    );
    Ok(())
}

/// What hostile code in a Zygote tries; each line is true if it was refused.
const ATTEMPTS: &str = "
import ctypes, os, signal, socket
libc = ctypes.CDLL(None, use_errno=True)
def refused(act):
    try:
        return act() in (-1, None)
    except OSError:
        return True
with open('/proc/self/status') as file:
    STATUS = {line.partition(':')[0]: line.partition(':')[2].strip() for line in file}
SEEN = sorted(int(name) for name in os.listdir('/proc') if name.isdigit())
CHECKS = {
    'no capability but three': int(STATUS['CapEff'], 16) & ~((1 << 21) | (1 << 6) | (1 << 7)) == 0,
    'no way to more': int(STATUS['CapBnd'], 16) == 0 and STATUS['NoNewPrivs'] == '1' and STATUS['Seccomp'] == '2',
    'sees only itself': SEEN == [os.getpid()],
    'cannot kill the nursery': refused(lambda: os.kill(1, signal.SIGTERM)),
    'cannot kill its parent Zygote': all(refused(lambda: os.kill(pid, 0)) for pid in range(2, os.getpid())),
    'cannot write to the root': refused(lambda: os.mkdir('/x')),
    'cannot write to packages': refused(lambda: os.mkdir('/packages/x')),
    'cannot uncover mounts': libc.umount2(b'/proc', 2) == -1 and libc.umount2(b'/packages', 2) == -1,
    'cannot make packages writable': libc.mount(None, b'/packages', None, 32 | 4096, None) == -1,
    'cannot trace': libc.ptrace(16, 1, 0, 0) == -1,
    'cannot set the clock': libc.syscall(227, 0, 0) == -1,
    'may write to /tmp': os.mkdir('/tmp/x') is None,
}
";

async fn confined(f: Fixture) -> Result<()> {
    let source = format!(
        "{ATTEMPTS}\nFAILED = [name for name, held in CHECKS.items() if not held]\nassert not FAILED, FAILED\n"
    );
    package(&f, "hostile", &source)?;
    let (zygote, told) = branch(f.zygote(), &["hostile"], &["hostile"]).await;
    zygote.with_context(|| format!("{told:?}"))?;
    Ok(())
}

async fn child_confined(f: Fixture) -> Result<()> {
    package(&f, "one", "VALUE = 1\n")?;
    let (zygote, _) = branch(f.zygote(), &["one"], &["one"]).await;
    let source = "import os\n\
        def handler(event):\n    \
            status = {line.partition(':')[0]: line.partition(':')[2].strip() for line in open('/proc/self/status')}\n    \
            pids = [int(name) for name in os.listdir('/proc') if name.isdigit()]\n    \
            fds = sorted(int(fd) for fd in os.listdir('/proc/self/fd'))[:4]\n    \
            return [status['CapEff'], status['CapBnd'], status['Seccomp_filters'], pids, os.getuid() >= 1000, fds, sorted(os.listdir('/tmp')),\n        \
                os.path.exists('/handler/lambda_func.py'), os.statvfs('/host').f_blocks > 0]\n";
    let got = answer(&f, &zygote?, source, &["one"]).await?;
    let want = json!(["0000000000000000", "0000000000000000", "2", [1], true, [0, 1, 2, 3], [], true, true]);
    ensure!(got == want, "{got}");
    Ok(())
}

async fn liar(f: Fixture) -> Result<()> {
    // It answers the next request with a descriptor of the nursery, which the agent would come to kill.
    package(
        &f,
        "liar",
        "import array, os, socket, struct\n\
         control = socket.socket(fileno=3)\n\
         def lie():\n    \
             data, ancillary, _, _ = control.recvmsg(4096, 4096)\n    \
             number = struct.unpack_from('<Q', data)[0]\n    \
             victim = os.pidfd_open(1)\n    \
             answer = struct.pack('<QiI', number, 1, 0)\n    \
             control.sendmsg([answer], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array('i', [victim]))])\n\
         control.send(b'ready')\n\
         lie()\n\
         import time\n\
         time.sleep(60)\n",
    )?;
    let (zygote, told) = branch(f.zygote(), &["liar"], &["liar"]).await;
    let zygote = zygote.with_context(|| format!("{told:?}"))?;
    let sandbox = zygote.fork(&SandboxSpec { code: None, limits: limits() }).await?;
    let exit = sandbox.handle.exited().await;
    ensure!(exit.failure.as_deref() == Some("the Zygote lied about it"), "{exit}");
    zygote.exited().await;
    // All others live.
    ensure!(f.answer("def handler(event): return event", json!(7)).await? == json!(7));
    Ok(())
}

async fn outlive(f: Fixture) -> Result<()> {
    package(&f, "one", "VALUE = 1\n")?;
    let (zygote, _) = branch(f.zygote(), &["one"], &["one"]).await;
    let zygote = zygote?;
    let mut callers = Vec::new();
    for _ in 0..5 {
        let mut caller = start(&f, &zygote, "def handler(event): return event", &["one"]).await?;
        ensure!(caller.call(json!(1)).await? == json!(1));
        callers.push(caller);
    }
    zygote.kill();
    zygote.exited().await;
    // Longer than the Zygote's cgroup is given to become empty.
    tokio::time::sleep(Duration::from_millis(1500)).await;
    for mut caller in callers {
        ensure!(caller.call(json!(3)).await? == json!(3));
    }
    Ok(())
}

async fn memory(f: Fixture) -> Result<()> {
    package(&f, "greedy", "BYTES = bytearray(2 << 30)\nfor i in range(0, len(BYTES), 4096): BYTES[i] = 1\n")?;
    let (zygote, told) = branch(f.zygote(), &["greedy"], &["greedy"]).await;
    let Err(BranchError::Ended(exit)) = zygote else { bail!("it did not end") };
    let raised = told.last().is_some_and(|last| last["reason"] == json!("raises"));
    ensure!(exit.oom_killed || raised, "{exit} {told:?}");
    Ok(())
}

async fn take_up(f: &Fixture, zygote: &Zygote, source: &str, packages: &[&str]) -> Result<Value> {
    let spare = zygote.spare(&Limits::default()).await?;
    let code = f.code(source)?;
    ensure!(spare.is_waiting());
    let spec =
        SandboxSpec { code: Some(code.path().to_owned()), limits: Limits { scratch: 1 << 20, ..limits() } };
    let mut caller = Caller::new(spare.take_up(&spec)?, code);
    caller.send(LOAD, load(packages).to_string().as_bytes(), b"").await?;
    caller.call(json!("event")).await
}

const SPARE: &str = "import os\n\
    def handler(event):\n    \
        status = {line.partition(':')[0]: line.partition(':')[2].strip() for line in open('/proc/self/status')}\n    \
        host = os.statvfs('/host')\n    \
        return [event, status['CapEff'], status['Seccomp_filters'], os.getuid() >= 1000, host.f_blocks * host.f_frsize,\n        \
            sorted(int(fd) for fd in os.listdir('/proc/self/fd'))[:4], os.listdir('/handler')]\n";

async fn spare(f: Fixture) -> Result<()> {
    let got = take_up(&f, f.zygote(), SPARE, &[]).await?;
    let want = json!(["event", "0000000000000000", "2", true, 1 << 20, [0, 1, 2, 3], ["lambda_func.py"]]);
    ensure!(got == want, "{got}");
    // One that is let go of ends.
    let spare = f.zygote().spare(&Limits::default()).await?;
    drop(spare);
    Ok(())
}

async fn spare_of_branch(f: Fixture) -> Result<()> {
    package(&f, "one", "VALUE = 'one'\n")?;
    let (zygote, _) = branch(f.zygote(), &["one"], &["one"]).await;
    let got = take_up(&f, &zygote?, COUNT, &["one"]).await?;
    ensure!(got == json!(["one", true, false]), "{got}");
    Ok(())
}

async fn random(f: Fixture) -> Result<()> {
    package(&f, "dice", "import random\n")?;
    let (zygote, _) = branch(f.zygote(), &["dice"], &["dice"]).await;
    let zygote = zygote?;
    let source = "import random, uuid\ndef handler(event): return [random.random(), str(uuid.uuid4())]\n";
    let (one, two) =
        (answer(&f, &zygote, source, &["dice"]).await?, answer(&f, &zygote, source, &["dice"]).await?);
    ensure!(one[0] != two[0] && one[1] != two[1], "{one} {two}");
    Ok(())
}
