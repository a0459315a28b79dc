#!/usr/bin/env python3
"""Creates sandboxes with the steps of the original OpenLambda and prints what each took, as one line of JSON.

  original_steps.py compose WORK               copies a small root with Python into WORK/base
  original_steps.py run WORK COUNT GAP_MS      COUNT creates one after the other, GAP_MS apart
  original_steps.py flight WORK COUNT DRIVERS  DRIVERS processes at once, COUNT creates each

Needs root. Mounts are made in a mount namespace of its own; cgroups and folders are removed at the end.
"""
import ctypes
import fcntl
import glob
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time

CLONE_NEWNS = 0x00020000
BIND, READ_ONLY, REMOUNT, PRIVATE, RECURSIVE, DETACH = 4096, 1, 32, 1 << 18, 16384, 2
HERE = os.path.dirname(os.path.realpath(__file__))
PYTHON = os.path.realpath("/usr/bin/python3")
GROUPS = "/sys/fs/cgroup/memory" if os.path.isdir("/sys/fs/cgroup/memory") else "/sys/fs/cgroup"
GROUP_POOL = 16
LIMIT_S = 60
REQUEST = (b"POST /run/f HTTP/1.1\r\nHost: x\r\nUser-Agent: Go-http-client/1.1\r\nContent-Type: text/json\r\n"
           b"Content-Length: 22\r\nAccept-Encoding: gzip\r\n\r\n" + b'{"name": "x", "n": 3} ')
HANDLER = """import json

def f(event):
    n = int(event.get("n", 1))
    return {"hello": event.get("name"), "sq": [i * i for i in range(n)]}
"""
libc = ctypes.CDLL(None, use_errno=True)
now = time.perf_counter_ns


def mount(source, target, flags):
    if libc.mount(source.encode(), target.encode(), None, flags, None) != 0:
        raise OSError(ctypes.get_errno(), f"mount {source} on {target}")


def compose(work):
    """A root with Python, its library and the shared objects they need: one file system, so one bind mounts it."""
    base = work + "/base"
    name = os.path.basename(PYTHON)
    for folder in ("handler", "host", "tmp", "proc", "dev", "etc", "runtime", "usr/bin", "usr/lib"):
        os.makedirs(f"{base}/{folder}", exist_ok=True)
    for link in ("lib", "bin"):
        os.symlink("usr/" + link, f"{base}/{link}")
    shutil.copy2(PYTHON, f"{base}/usr/bin/{name}")
    if name != "python3":
        os.symlink(name, f"{base}/usr/bin/python3")
    # Of the Python that is copied, which need not be the one that runs this.
    ask = [PYTHON, "-c", "import sysconfig; print(sysconfig.get_path('stdlib'))"]
    library = subprocess.run(ask, capture_output=True, text=True, check=True).stdout.strip()
    unwanted = shutil.ignore_patterns("test", "idlelib", "config-*", "dist-packages", "site-packages", "ensurepip")
    shutil.copytree(library, base + library, symlinks=True, ignore=unwanted, ignore_dangling_symlinks=True)
    for path in shared_objects([PYTHON, *glob.glob(library + "/lib-dynload/*.so")]):
        place = base + path if path.startswith(("/usr/", "/lib64/")) else base + "/usr" + path
        os.makedirs(os.path.dirname(place), exist_ok=True)
        shutil.copy(path, place)
    shutil.copy(HERE + "/original_server.py", base + "/runtime/server.py")
    os.makedirs(work + "/code", exist_ok=True)
    with open(work + "/code/f.py", "w", encoding="utf-8") as file:
        file.write(HANDLER)
    subprocess.run([PYTHON, "-m", "compileall", "-q", work + "/code"], check=True)


def shared_objects(files):
    found = set()
    for line in subprocess.run(["ldd", *files], capture_output=True, text=True, check=False).stdout.splitlines():
        words = line.split()
        found.update(word for word in words if word.startswith("/") and not word.endswith(":"))
    return sorted(found)


class Machine:
    """The folders and cgroups that sandboxes are made in."""

    def __init__(self, work):
        self.work, self.mark = work, f"openlambda-anchor-{os.getpid()}"
        self.roots = f"/dev/shm/{self.mark}"
        os.makedirs(self.roots)
        self.groups = []

    def group(self, name):
        path = f"{GROUPS}/{self.mark}-{name}"
        os.mkdir(path)
        self.groups.append(path)
        return path

    def root(self, name):
        """Steps 1 to 5 of the original: base, code and scratch, bound together."""
        root, scratch = f"{self.roots}/r{name}", f"{self.roots}/s{name}"
        os.makedirs(root, exist_ok=True)
        os.makedirs(scratch + "/tmp", exist_ok=True)
        for old in ("ol.sock", "zygote.sock"):
            if os.path.exists(f"{scratch}/{old}"):
                os.unlink(f"{scratch}/{old}")
        with open(scratch + "/bootstrap.py", "w", encoding="utf-8") as file:
            file.write("serve(listener)\n")
        mount(self.work + "/base", root, BIND)
        mount("none", root, BIND | REMOUNT | READ_ONLY)
        mount("none", root, PRIVATE)
        mount(self.work + "/code", root + "/handler", BIND)
        mount("none", root + "/handler", BIND | REMOUNT | READ_ONLY)
        mount(scratch, root + "/host", BIND)
        mount(scratch + "/tmp", root + "/tmp", BIND)
        return root, scratch

    def remove(self):
        """Also after a failure: ends what is left in the cgroups and unmounts what is left below the roots."""
        for path in self.groups:
            for pid in members(path):
                os.kill(int(pid), signal.SIGKILL)
        for name in os.listdir(self.roots):
            libc.umount2(f"{self.roots}/{name}".encode(), DETACH)
        for path in self.groups:
            for _ in range(400):
                try:
                    os.rmdir(path)
                    break
                except OSError:
                    time.sleep(0.005)
        shutil.rmtree(self.roots, ignore_errors=True)


def unmount(root):
    libc.umount2(root.encode(), DETACH)
    os.rmdir(root)


def members(group):
    with open(group + "/cgroup.procs", encoding="ascii") as file:
        return file.read().split()


def move(pid, group):
    with open(group + "/cgroup.procs", "w", encoding="ascii") as file:
        file.write(pid)


class Zygote:
    def __init__(self, machine):
        self.group = machine.group("zygote")
        self.root, self.scratch = machine.root("zygote")
        command = ["/usr/sbin/chroot", self.root, "/usr/bin/python3", "-u", "/runtime/server.py"]
        self.process = subprocess.Popen(command, env={})
        for _ in range(500):
            if os.path.exists(self.scratch + "/zygote.sock"):
                break
            time.sleep(0.01)
        move(str(self.process.pid), self.group)
        time.sleep(0.1)
        # The original holds a lock from the fork to the end of the sweep.
        self.lock = open(machine.roots + "/lock", "w", encoding="ascii")

    def fork(self, root, procs, group):
        fcntl.flock(self.lock, fcntl.LOCK_EX)
        before = set(members(self.group))
        descriptor = os.open(root, os.O_RDONLY | os.O_DIRECTORY)
        connection = socket.socket(socket.AF_UNIX)
        connection.connect(self.scratch + "/zygote.sock")
        socket.send_fds(connection, [b"x"], [descriptor, procs])
        connection.recv(8)
        connection.close()
        os.close(descriptor)
        while stray := [pid for pid in members(self.group) if pid not in before]:
            for pid in stray:
                move(pid, group)
        fcntl.flock(self.lock, fcntl.LOCK_UN)

    def end(self):
        self.process.kill()
        self.process.wait()
        unmount(self.root)


def create(machine, zygote, name, group):
    """One sandbox from nothing to its first answer and back: microseconds to the first byte, and of the teardown."""
    start = now()
    root, scratch = machine.root(name)
    procs = os.open(group + "/cgroup.procs", os.O_WRONLY)
    zygote.fork(root, procs, group)
    connection = socket.socket(socket.AF_UNIX)
    connection.connect(scratch + "/ol.sock")
    connection.sendall(REQUEST)
    answer = connection.recv(4096)
    first_byte = now()
    if not answer.startswith(b"HTTP/1.1 200"):
        raise SystemExit(f"original_steps: the handler answered {answer!r}")
    connection.close()
    os.close(procs)
    for pid in members(group):
        os.kill(int(pid), signal.SIGKILL)
    while members(group):
        time.sleep(0.0002)
    unmount(root)
    return (first_byte - start) / 1000, (now() - first_byte) / 1000


def loop(machine, zygote, groups, driver, count, gap):
    end = time.monotonic() + LIMIT_S
    taken = []
    for number in range(count):
        if time.monotonic() > end:
            break
        if gap:
            time.sleep(gap)
        taken.append(create(machine, zygote, f"{driver}-{number}", groups[number % len(groups)]))
    return taken


def run(machine, count, gap):
    groups = [machine.group(str(number)) for number in range(GROUP_POOL)]
    zygote = Zygote(machine)
    loop(machine, zygote, groups, "warm", 3, 0)
    taken = loop(machine, zygote, groups, 0, count, gap)
    zygote.end()
    total = sum(create + teardown for create, teardown in taken)
    return {"create_us": [round(create, 1) for create, _ in taken], "per_second": len(taken) / total * 1e6}


def flight(machine, count, drivers):
    pools = [[machine.group(f"{driver}-{number}") for number in range(4)] for driver in range(drivers)]
    zygote = Zygote(machine)
    loop(machine, zygote, pools[0], "warm", 3, 0)
    start = now()
    children = []
    for driver in range(drivers):
        child = os.fork()
        if child == 0:
            # A lock belongs to the open file, which a fork shares: each driver opens its own.
            zygote.lock = open(machine.roots + "/lock", "w", encoding="ascii")
            status = 1
            try:
                status = 0 if len(loop(machine, zygote, pools[driver], driver, count, 0)) == count else 1
            finally:
                os._exit(status)
        children.append(child)
    failed = [child for child in children if os.waitpid(child, 0)[1] != 0]
    seconds = (now() - start) / 1e9
    zygote.end()
    if failed:
        raise SystemExit("original_steps: a driver failed")
    return {"per_second": drivers * count / seconds}


def main():
    mode, work = sys.argv[1], os.path.abspath(sys.argv[2])
    if mode == "compose":
        compose(work)
        return
    if libc.unshare(CLONE_NEWNS) != 0:
        raise OSError(ctypes.get_errno(), "unshare")
    mount("none", "/", RECURSIVE | PRIVATE)
    machine = Machine(work)
    try:
        if mode == "run":
            result = run(machine, int(sys.argv[3]), float(sys.argv[4]) / 1000)
        else:
            result = flight(machine, int(sys.argv[3]), int(sys.argv[4]))
    finally:
        machine.remove()
    print(json.dumps(result))


main()
