//! What a handler can see and do: as little as possible.

use anyhow::{Result, ensure};
use openlambda_sandbox::Limits;
use serde_json::{Value, json};

use crate::fixture::{Fixture, Test};

pub const TESTS: &[(&str, Test)] = &[
    ("isolation::no_capability_and_no_way_to_one", |f| Box::pin(capabilities(f))),
    ("isolation::own_namespaces", |f| Box::pin(namespaces(f))),
    ("isolation::only_its_own_processes_in_proc", |f| Box::pin(proc_is_own(f))),
    ("isolation::dangerous_files_of_proc_are_masked", |f| Box::pin(masks(f))),
    ("isolation::only_host_and_tmp_are_writable", |f| Box::pin(writable(f))),
    ("isolation::no_mount_of_the_host_is_seen", |f| Box::pin(mounts(f))),
    ("isolation::only_the_stream_and_stdio_are_open", |f| Box::pin(descriptors(f))),
    ("isolation::forbidden_system_calls", |f| Box::pin(system_calls(f))),
    ("isolation::the_zygote_is_confined", |f| Box::pin(zygote(f))),
    ("isolation::each_sandbox_has_a_user_of_its_own", |f| Box::pin(users(f))),
    ("isolation::ordinary_programs_work", |f| Box::pin(ordinary(f))),
];

async fn capabilities(f: Fixture) -> Result<()> {
    let source = "def handler(event):\n    return [l.split() for l in open('/proc/self/status') \
                  if l.startswith(('Cap', 'NoNewPrivs', 'Seccomp:', 'Uid', 'Groups'))]\n";
    let status = f.answer(source, Value::Null).await?;
    for set in ["CapInh:", "CapPrm:", "CapEff:", "CapBnd:", "CapAmb:"] {
        ensure!(field(&status, set) == Some(&json!("0000000000000000")), "{set} in {status}");
    }
    ensure!(field(&status, "NoNewPrivs:") == Some(&json!("1")), "{status}");
    ensure!(field(&status, "Seccomp:") == Some(&json!("2")), "{status}");
    ensure!(field(&status, "Uid:") != Some(&json!("0")), "{status}");
    ensure!(field(&status, "Groups:").is_none(), "{status}");
    Ok(())
}

fn field<'a>(status: &'a Value, name: &str) -> Option<&'a Value> {
    status.as_array()?.iter().find(|line| line[0] == name)?.get(1)
}

async fn namespaces(f: Fixture) -> Result<()> {
    let source =
        "import os\ndef handler(event):\n    return {n: os.readlink('/proc/self/ns/' + n) for n in event}\n";
    let names = ["user", "pid", "mnt", "ipc", "uts"];
    // Both live at once: the number of a dead namespace may be given to the next.
    let mut callers = [f.start(source, Limits::default()).await?, f.start(source, Limits::default()).await?];
    let first = callers[0].call(json!(names)).await?;
    let second = callers[1].call(json!(names)).await?;
    for name in names {
        let ours = std::fs::read_link(format!("/proc/self/ns/{name}"))?;
        ensure!(first[name] != json!(ours.to_string_lossy()), "{name} is the agent's");
        // The user namespace is the Zygote's; all others are the sandbox's own.
        ensure!(name == "user" || first[name] != second[name], "{name} is shared between sandboxes");
    }
    Ok(())
}

async fn proc_is_own(f: Fixture) -> Result<()> {
    let source = "import os\ndef handler(event):\n    return [os.getpid(), [p for p in os.listdir('/proc') if p.isdigit()], \
                  open('/proc/1/cmdline').read() != '']\n";
    ensure!(f.answer(source, Value::Null).await? == json!([1, ["1"], true]));
    Ok(())
}

async fn masks(f: Fixture) -> Result<()> {
    let source = r"
import os
def attempt(path, mode):
    try:
        with open(path, mode) as file:
            return len(file.read(64)) if mode == 'rb' else 'written'
    except OSError:
        return 'refused'
def handler(event):
    hidden = ['kcore', 'keys', 'key-users', 'kallsyms', 'kmsg', 'timer_list', 'interrupts', 'slabinfo', 'kpageflags']
    reads = {n: attempt('/proc/' + n, 'rb') for n in hidden if os.path.exists('/proc/' + n)}
    writes = {n: attempt('/proc/' + n, 'ab') for n in
              ['sysrq-trigger', 'sys/kernel/core_pattern', 'sys/kernel/hostname', 'sys/vm/drop_caches']}
    return [reads, writes, [os.listdir('/proc/' + n) for n in ('acpi', 'scsi') if os.path.isdir('/proc/' + n)]]
";
    let answer = f.answer(source, Value::Null).await?;
    let reads = answer[0].as_object().map(|o| o.values().cloned().collect::<Vec<_>>()).unwrap_or_default();
    ensure!(!reads.is_empty() && reads.iter().all(|r| *r == json!(0) || *r == json!("refused")), "{answer}");
    // What is masked by the null device takes writes and drops them.
    let writes = answer[1].as_object().cloned().unwrap_or_default();
    for (name, result) in &writes {
        ensure!(result == &json!("refused") || name == "sysrq-trigger", "{name}: {answer}");
    }
    ensure!(answer[2].as_array().is_some_and(|dirs| dirs.iter().all(|d| *d == json!([]))), "{answer}");
    Ok(())
}

async fn writable(f: Fixture) -> Result<()> {
    let source = r"
import os
def attempt(directory):
    try:
        with open(directory + '/probe', 'w') as file:
            file.write('x')
        return True
    except OSError:
        return False
def handler(event):
    found = sorted({d for d, _, _ in os.walk('/') if d.count('/') < 3 and not d.startswith(('/proc', '/sys')) and attempt(d)})
    return [found, os.stat('/tmp').st_mode & 0o1777]
";
    ensure!(f.answer(source, Value::Null).await? == json!([["/host", "/host/tmp", "/tmp"], 0o1777]));
    Ok(())
}

async fn mounts(f: Fixture) -> Result<()> {
    let source =
        "def handler(event):\n    return sorted({l.split()[4] for l in open('/proc/self/mountinfo')})\n";
    let answer = f.answer(source, Value::Null).await?;
    let allowed = |point: &str| {
        let tops =
            ["/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32", "/etc", "/proc", "/runtime"];
        ["/", "/handler", "/host", "/packages", "/tmp"].contains(&point)
            || tops.iter().any(|top| point.starts_with(top))
    };
    let points: Vec<_> = answer.as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    ensure!(points.contains(&"/handler") && points.iter().all(|point| allowed(point)), "{answer}");
    Ok(())
}

async fn descriptors(f: Fixture) -> Result<()> {
    let source = "import os\ndef handler(event):\n    fds = os.listdir('/proc/self/fd')\n    return sorted(fds)[:-1]\n";
    ensure!(f.answer(source, Value::Null).await? == json!(["0", "1", "2", "3"]));
    Ok(())
}

async fn system_calls(f: Fixture) -> Result<()> {
    let source = r#"
import ctypes, os, errno, socket
libc = ctypes.CDLL(None, use_errno=True)
def call(function, *arguments):
    result = getattr(libc, function)(*arguments)
    return 'ok' if result >= 0 else errno.errorcode[ctypes.get_errno()]
def packet():
    try:
        socket.socket(17, socket.SOCK_RAW, 0)
        return 'ok'
    except OSError as error:
        return errno.errorcode[error.errno]
def handler(event):
    NEWUSER, NEWNS = 0x10000000, 0x20000
    return {
        'unshare user': call('unshare', NEWUSER), 'unshare mount': call('unshare', NEWNS),
        'mount': call('mount', b'none', b'/tmp', b'tmpfs', 0, None), 'umount': call('umount2', b'/tmp', 2),
        'chroot': call('chroot', b'/tmp'), 'ptrace': call('ptrace', 0, 0, 0, 0), 'setns': call('setns', 3, 0),
        'bpf': call('syscall', 321, 0, 0, 0), 'clone user': call('syscall', 56, NEWUSER | 17, 0, 0, 0, 0),
        'clone3': call('syscall', 435, 0, 0), 'keyctl': call('syscall', 250, 0, 0), 'io_uring': call('syscall', 425, 1, 0),
        'setuid': call('setuid', 0), 'reboot': call('reboot', 0), 'packet socket': packet(),
        'mknod': call('mknod', b'/tmp/node', 0o20666, 259), 'sethostname': call('sethostname', b'x', 1),
    }
"#;
    let answer = f.answer(source, Value::Null).await?;
    for (name, result) in answer.as_object().into_iter().flatten() {
        let wanted: &[&str] = if name == "clone3" { &["ENOSYS"] } else { &["EPERM"] };
        ensure!(wanted.iter().any(|w| result == *w), "{name}: {result}");
    }
    ensure!(answer.as_object().is_some_and(|o| o.len() == 17));
    Ok(())
}

async fn zygote(_: Fixture) -> Result<()> {
    // Looked at from outside: every python process of ours below the nursery whose root is confined.
    let mut seen = 0;
    for entry in std::fs::read_dir("/proc")?.flatten() {
        let path = entry.path();
        let Ok(command) = std::fs::read_to_string(path.join("cmdline")) else { continue };
        if !command.contains("/runtime/zygote.py") {
            continue;
        }
        let status = std::fs::read_to_string(path.join("status")).unwrap_or_default();
        let value = |name: &str| {
            status.lines().find_map(|l| l.strip_prefix(name)).map(str::trim).unwrap_or("").to_owned()
        };
        let host_uid: u32 = value("Uid:").split_whitespace().next().unwrap_or("0").parse()?;
        ensure!(host_uid >= 1_000_000, "a Zygote runs as user {host_uid} of the host");
        ensure!(value("NoNewPrivs:") == "1" && value("Seccomp:") == "2", "{status}");
        ensure!(value("CapBnd:") == "0000000000000000", "{status}");
        // SETGID, SETUID and SYS_ADMIN, over its own namespace.
        let permitted = u64::from_str_radix(&value("CapPrm:"), 16)?;
        ensure!(permitted & !((1 << 6) | (1 << 7) | (1 << 21)) == 0, "CapPrm {permitted:x}");
        ensure!(std::fs::read_link(path.join("ns/user"))? != std::fs::read_link("/proc/self/ns/user")?);
        seen += 1;
    }
    ensure!(seen > 0, "no Zygote was found");
    Ok(())
}

async fn users(f: Fixture) -> Result<()> {
    let source = "import os\ndef handler(event):\n    return os.getuid()\n";
    let (first, second) = (f.answer(source, Value::Null).await?, f.answer(source, Value::Null).await?);
    ensure!(first != second && first.as_u64() >= Some(1000), "{first} {second}");
    Ok(())
}

async fn ordinary(f: Fixture) -> Result<()> {
    let source = r"
import subprocess, threading, tempfile, multiprocessing, socket, ssl, hashlib, os
def handler(event):
    out = []
    t = threading.Thread(target=lambda: out.append(1)); t.start(); t.join()
    with tempfile.NamedTemporaryFile() as file:
        file.write(b'x')
    a, b = socket.socketpair()
    a.sendall(b'hi')
    lock = multiprocessing.Lock()
    with lock:
        out.append(b.recv(2).decode())
    out.append(subprocess.run(['/bin/sh', '-c', 'echo $((1+1)); cat /dev/null; id -u >/dev/null'], capture_output=True, text=True).stdout)
    out.append(len(os.urandom(4)))
    out.append(ssl.create_default_context() is not None)
    return out
";
    ensure!(f.answer(source, Value::Null).await? == json!([1, "hi", "2\n", 4, true]));
    Ok(())
}
