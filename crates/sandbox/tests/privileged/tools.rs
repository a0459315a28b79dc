//! Tools: what a program that is not trusted can see and do, and how it ends. And the store of packages, as sandboxes see it.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use openlambda_sandbox::{Limits, TOOL_USER, ToolEnd, ToolSpec};
use serde_json::{Value, json};

use crate::fixture::{Fixture, Test};

pub const TESTS: &[(&str, Test)] = &[
    ("tools::packages_that_come_later_are_seen_and_not_writable", |f| Box::pin(later(f))),
    ("tools::a_tool_has_one_folder_and_no_right", |f| Box::pin(confined(f))),
    ("tools::a_tool_has_its_limits", |f| Box::pin(limits(f))),
    ("tools::a_tool_that_cannot_start_says_why", |f| Box::pin(cannot_start(f))),
];

const PYTHON: &str = "/usr/bin/python3";

async fn later(f: Fixture) -> Result<()> {
    let source = "import os\ndef handler(event):\n    \
                  try:\n        open('/packages/x-1/new', 'w')\n    except OSError as error:\n        \
                  return [os.strerror(error.errno), sorted(os.listdir('/packages'))]\n";
    let mut caller = f.start(source, Limits::default()).await?;
    let package = f.store().join("x-1");
    fs::create_dir(&package)?;
    fs::set_permissions(&package, fs::Permissions::from_mode(0o777))?;
    ensure!(caller.call(Value::Null).await? == json!(["Read-only file system", ["x-1"]]));
    fs::remove_dir(&package)?;
    Ok(())
}

async fn run(
    f: &Fixture,
    source: &str,
    limits: Limits,
    timeout: Duration,
) -> Result<(ToolEnd, tempfile::TempDir)> {
    let folder = f.folder()?;
    chown(folder.path(), Some(TOOL_USER), Some(TOOL_USER))?;
    let spec = ToolSpec {
        program: PathBuf::from(PYTHON),
        arguments: [PYTHON, "-I", "-S", "-c", source].map(str::to_owned).into(),
        environment: vec![("ONLY".into(), "this".into())],
        folder: folder.path().to_owned(),
        limits,
        timeout,
    };
    Ok((f.nursery().run_tool(&spec).await?, folder))
}

async fn confined(f: Fixture) -> Result<()> {
    let source = r"
import ctypes, json, os, sys
libc = ctypes.CDLL(None, use_errno=True)
def refused(function, *arguments):
    return getattr(libc, function)(*arguments) < 0
status = dict(line.split(':', 1) for line in open('/proc/self/status'))
def writable(folder):
    try:
        open(folder + '/probe', 'w').close()
        return True
    except OSError:
        return False
print(json.dumps({
    'caps': [status[name].strip() for name in ('CapEff', 'CapPrm', 'CapBnd', 'CapInh')],
    'privileges': status['NoNewPrivs'].strip(), 'seccomp': status['Seccomp'].strip(),
    'pid': os.getpid(), 'processes': [one for one in os.listdir('/proc') if one.isdigit()],
    'environment': dict(os.environ), 'packages': os.listdir('/packages'),
    'writable': [one for one in ('/', '/packages', '/tmp', '/host', '/handler', '/runtime', '/usr', '/etc', '/var') if writable(one)],
    'refused': [refused('mount', b'none', b'/host', b'tmpfs', 0, None), refused('unshare', 0x10000000),
                refused('setuid', 1), refused('chroot', b'/tmp')],
    'descriptors': sorted(os.listdir('/proc/self/fd'))[:-1],
}))
print('told', file=sys.stderr)
";
    let (end, folder) = run(&f, source, Limits::default(), Duration::from_secs(20)).await?;
    let errors = String::from_utf8_lossy(&end.stderr);
    ensure!(end.status.success() && errors.trim() == "told", "{:?}: {errors}", end.status);
    let found: Value = serde_json::from_slice(&end.stdout)?;
    ensure!(found["caps"] == json!(vec!["0000000000000000"; 4]), "{found}");
    ensure!(found["privileges"] == "1" && found["seccomp"] == "2", "{found}");
    ensure!(found["pid"] == 1 && found["processes"] == json!(["1"]), "{found}");
    ensure!(found["environment"]["ONLY"] == "this" && found["environment"].get("PATH").is_none(), "{found}");
    ensure!(found["packages"] == json!([]), "the store is not seen: {found}");
    ensure!(found["writable"] == json!(["/packages", "/tmp"]), "{found}");
    ensure!(found["refused"] == json!([true, true, true, true]), "{found}");
    ensure!(found["descriptors"] == json!(["0", "1", "2"]), "{found}");
    ensure!(fs::metadata(folder.path().join("probe"))?.uid() == TOOL_USER);
    Ok(())
}

async fn limits(f: Fixture) -> Result<()> {
    let long = Duration::from_secs(20);
    let (failed, _) = run(&f, "import sys; sys.exit(7)", Limits::default(), long).await?;
    ensure!(failed.status.code() == Some(7) && !failed.timed_out);
    let began = Instant::now();
    // It would sleep far beyond its time; its child goes with it.
    let hang = "import os, time\nos.fork()\nprint('up', flush=True)\ntime.sleep(600)";
    let (hung, _) = run(&f, hang, Limits::default(), Duration::from_secs(1)).await?;
    ensure!(hung.timed_out && !hung.status.success() && began.elapsed() < long, "{hung:?}");
    let small = Limits { memory: 32 << 20, ..Limits::default() };
    let (big, _) = run(&f, "x = bytearray(256 << 20)\nprint(len(x))", small, long).await?;
    ensure!(big.out_of_memory && !big.status.success(), "{big:?}");
    let (talks, _) = run(&f, "print('x' * 10_000_000)", Limits::default(), long).await?;
    ensure!(talks.status.success() && talks.stdout.len() == 256 * 1024, "{}", talks.stdout.len());
    Ok(())
}

async fn cannot_start(f: Fixture) -> Result<()> {
    let folder = f.folder()?;
    let spec = |program: PathBuf, folder: PathBuf| ToolSpec {
        program,
        arguments: vec!["x".into()],
        environment: vec![],
        folder,
        limits: Limits::default(),
        timeout: Duration::from_secs(20),
    };
    let script = folder.path().join("no-program");
    fs::write(&script, "text")?;
    for (program, place, part) in [
        (PathBuf::from("/nowhere/tool"), folder.path().to_owned(), "No such file"),
        (script, folder.path().to_owned(), "run the program"),
        (PYTHON.into(), folder.path().join("none"), "bind the folder"),
    ] {
        let error = f.nursery().run_tool(&spec(program, place)).await.err().map(|error| error.to_string());
        ensure!(error.as_ref().is_some_and(|error| error.contains(part)), "{part}: {error:?}");
    }
    Ok(())
}
