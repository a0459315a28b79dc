"""How a Zygote imports packages: one after another, telling the agent before and after each, as the next may be its end.

The job is JSON: `path`, the folders of packages that may be seen, and `packages`, a list of `[folder, modules]`. Each record to
the agent is JSON as well: `{"begin": folder}`, `{"end": folder, "us", "bytes"}`, `{"misses": [name…]}`, `{"modules": [name…]}`, and, as the
last one of a Zygote that will not do, `{"bad": folder or null, "reason", "message"}`.
"""

import importlib
import json
import os
import sys
import time
import traceback

import server

# A record is at most so long, in characters of JSON; the agent takes no longer one.
RECORD = 12_000


class Unusable(Exception):
    """What must not be forked."""

    def __init__(self, reason, message):
        super().__init__(message)
        self.reason = reason


class Misses:
    """The last of the finders: it finds nothing, and remembers what top-level modules were looked for in vain."""

    def __init__(self):
        self.names = set()

    def find_spec(self, name, path=None, target=None):
        if path is None:
            self.names.add(name.partition(".")[0])
        return None


def run(control, job):
    """Imports what the file `job` names. Ends the process if the result must not be forked."""
    folder, misses = None, Misses()
    try:
        with open(job, "rb") as file:
            task = json.load(file)
        server.see_packages(task["path"])
        sys.meta_path.append(misses)
        for folder, modules in task["packages"]:
            tell(control, {"begin": folder})
            tell(control, {"end": folder, **import_package(modules)})
        folder = None
        sys.meta_path.remove(misses)
        tell_names(control, "misses", misses.names)
        server.TOPS = tuple(sorted(name for name in loaded() if name in sys.modules))
        tell_names(control, "modules", server.TOPS)
        server.HELD = tuple(task["path"])
    except Unusable as error:
        give_up(control, folder, error.reason, str(error))
    except BaseException as error:
        # It may be for lack of one of these.
        tell_names(control, "misses", misses.names)
        text = "".join(traceback.format_exception_only(type(error), error)).strip()
        give_up(control, folder, "raises", text[:1000])


def import_package(modules):
    """Imports the modules of one package; what that took."""
    before, began = anonymous_bytes(), time.perf_counter_ns()
    for name in modules:
        if name in sys.modules:
            continue
        try:
            importlib.import_module(name)
        except ImportError:
            # A part that is only there in other circumstances; the package itself must be.
            if "." not in name:
                raise
    took = (time.perf_counter_ns() - began) // 1000
    check()
    return {"us": took, "bytes": max(0, anonymous_bytes() - before)}


def check():
    """What a child would not have, or share with its siblings: threads and open files."""
    threads = len(os.listdir("/proc/self/task"))
    if threads > 1:
        raise Unusable("threads", f"it has started {threads - 1} threads, which no fork has")
    # 0 to 3 are ours, and the listing itself takes one.
    opened = [int(fd) for fd in os.listdir("/proc/self/fd") if int(fd) > 3]
    opened = [os.readlink(f"/proc/self/fd/{fd}") for fd in opened if exists(fd)]
    if opened:
        raise Unusable("files", f"it keeps files open, which no sandbox has: {', '.join(opened)[:500]}")


def exists(fd):
    try:
        os.fstat(fd)
    except OSError:
        return False
    return True


def anonymous_bytes():
    with open("/proc/self/status") as file:
        for line in file:
            if line.startswith("RssAnon:"):
                return int(line.split()[1]) * 1024
    return 0


def loaded():
    """The top-level modules that come from packages."""
    folders = server.loaded_modules(len(sys.modules))
    return {name.partition(".")[0] for names in folders.values() for name in names}


def tell_names(control, key, names):
    batch, size = [], 0
    for name in sorted(names):
        # Names that are no identifiers come from nowhere a handler could have them.
        if not name.isidentifier() or len(name) > 100:
            continue
        batch.append(name)
        size += len(name.encode()) + 4
        if size > RECORD // 2:
            tell(control, {key: batch})
            batch, size = [], 0
    tell(control, {key: batch})


def tell(control, record):
    os.write(control, json.dumps(record).encode()[:RECORD])


def give_up(control, folder, reason, message):
    tell(control, {"bad": folder, "reason": reason, "message": message})
    os._exit(1)
