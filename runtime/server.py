"""What answers calls inside a sandbox.

The agent speaks over one stream, in frames: a 16-byte little-endian header `seq, kind, meta length, body length`, then the meta (JSON)
and the body. A reply has a status in place of the kind. Only what the interpreter has loaded anyway is imported here: what a
handler does not ask for, it does not pay for.
"""

import importlib.machinery
import itertools
import json
import marshal
import os
import struct
import sys
import time
import traceback
import types

LOAD, CALL, COMPILE, CHECK, PROVE = 1, 2, 3, 4, 5
OK, EXCEPTION, BAD_EVENT, BAD_RESULT, LOAD_FAILED = 0, 1, 2, 3, 4

HEADER = struct.Struct("<IIII")
# NaN and infinities are not JSON, whatever Python's writer says by default.
encode = json.JSONEncoder(allow_nan=False).encode
decode = json.JSONDecoder().decode
DEFAULT_ENTRYPOINT = "lambda_func.handler"
FOLDER = "/handler/"
PACKAGES = "/packages/"
# Names of modules, in bytes, that an answer may have: half of what the agent takes.
MAX_TOLD = 128 * 1024
# The Zygote sets these: where modules are looked for besides, how many it has loaded, and the folders of the packages that it holds.
BASE_PATH = ()
LOADED = 0
HELD = ()
# The top-level modules of these packages.
TOPS = ()
# Frames of a load and a call.
REHEARSED = (
    (
        LOAD,
        b'{"entrypoint": "_openlambda_rehearsal.handler", "env": {}, "packages": [], "threads": 1}',
        marshal.dumps(compile("def handler(event):\n    return event\n", "/handler/_openlambda_rehearsal.py", "exec")),
    ),
    (CALL, b"", b'{"rehearsal": [1, 2.5, null, "text"]}'),
)
# The state of the Mersenne Twister MT19937, in words of 32 bits.
MT_WORDS = 624
# Whether the random state is this process's own already.
seeded = False


def prepare():
    """Once, in the Zygote: what holds for all of its children, and would be copied if each did it."""
    for output in (sys.stdout, sys.stderr):
        # A line reaches the log when it is printed, not when the sandbox ends.
        output.reconfigure(line_buffering=True, errors="backslashreplace")


def serve(stream):
    """Answers frames until the agent closes the stream. Never returns to the Zygote's code."""
    status = 1
    try:
        Server(stream).run()
        status = 0
    finally:
        os._exit(status)


class Server:
    def __init__(self, stream):
        self.stream = stream
        self.ahead = b""
        self.handler = None
        self.load_error = None
        # What is to be said of the load with the next answer.
        self.report = None
        self.threads = None

    def run(self):
        while (frame := self.receive()) is not None:
            seq, kind, meta, body = frame
            if kind == CALL:
                if self.threads is None:
                    self.send(seq, *self.call(body))
                else:
                    self.threads.submit(seq, body)
            elif kind == LOAD:
                self.load(json.loads(meta), body)
            elif kind == COMPILE:
                self.send(seq, *compile_module(json.loads(meta)))
            elif kind == CHECK:
                self.send(seq, *self.check(json.loads(meta), body))
            elif kind == PROVE:
                self.load(json.loads(meta), body)
                flush()
                self.send(seq, *(self.load_error or (OK, self.loading(), b"")))
            else:
                raise ValueError(f"a frame of unknown kind {kind}")

    def receive(self):
        """The next frame; None when the agent has closed the stream between frames."""
        # Almost always one read brings a whole frame, now and then the next one along with it.
        data, self.ahead = self.ahead or os.read(self.stream, 65536), b""
        if not data:
            return None
        while len(data) < HEADER.size:
            data += self.more(HEADER.size - len(data))
        seq, kind, meta_length, body_length = HEADER.unpack_from(data)
        body_start = HEADER.size + meta_length
        end = body_start + body_length
        if len(data) < end:
            parts, missing = [data], end - len(data)
            while missing:
                parts.append(self.more(missing))
                missing -= len(parts[-1])
            data = b"".join(parts)
        elif len(data) > end:
            data, self.ahead = data[:end], data[end:]
        return seq, kind, data[HEADER.size:body_start], data[body_start:]

    def more(self, size):
        part = os.read(self.stream, min(size, 1 << 20))
        if not part:
            raise EOFError("the agent closed the stream within a frame")
        return part

    def send(self, seq, status, meta, body):
        data = HEADER.pack(seq, status, len(meta), len(body)) + meta + body
        sent = os.write(self.stream, data)
        while sent < len(data):
            data = memoryview(data)[sent:]
            sent = os.write(self.stream, data)

    def load(self, meta, code):
        """Runs the handler's module. A failure is the answer to every call from then on."""
        began = time.perf_counter_ns()
        os.environ.update(meta.get("env", {}))
        try:
            if folders := meta.get("packages"):
                see_packages(folders)
                if not seeded:
                    reseed()
            handler = load_handler(meta.get("entrypoint", DEFAULT_ENTRYPOINT), code)
            if (threads := meta.get("threads", 1)) > 1:
                self.threads = Threads(self, threads)
            self.handler = handler
        except BaseException as error:
            self.load_error = LOAD_FAILED, describe(error), b""
        self.report = {"load_us": since(began)}
        if meta.get("observe") and self.load_error is None:
            imported = {**dict.fromkeys(HELD, ()), **loaded_modules(len(sys.modules) - LOADED)}
            # What is too much to tell is not told: the handler starts without a Zygote of its own then.
            if sum(len(name) + 4 for names in imported.values() for name in names) < MAX_TOLD:
                self.report["imported"] = imported

    def loading(self, **more):
        """The report of the load as the meta of an answer, once."""
        report, self.report = self.report, None
        return encode({**report, **more}).encode() if report else b""

    def check(self, meta, code):
        """The answer to CHECK: whether the handler's module loads."""
        self.load({**meta, "threads": 1}, code)
        flush()
        return self.load_error or (OK, self.loading(), b"")

    def call(self, body):
        if self.handler is None:
            return self.load_error or (LOAD_FAILED, describe(RuntimeError("a call came before the code")), b"")
        try:
            event = decode(body.decode()) if body else None
        except (ValueError, RecursionError) as error:
            return BAD_EVENT, encode({"message": str(error)}).encode(), b""
        began = time.perf_counter_ns()
        try:
            result = self.handler(event)
        except BaseException as error:
            return EXCEPTION, describe(error), b""
        try:
            answer = encode(result).encode()
        except BaseException as error:
            return BAD_RESULT, describe(error), b""
        finally:
            flush()
        if self.report is None:
            return OK, b"", answer
        # The first answer says what of the start was the handler's own doing.
        return OK, self.loading(run_us=since(began)), answer


class Threads:
    """Answers several calls of one sandbox at once, each in a thread of its own."""

    def __init__(self, server, count):
        import queue
        import threading

        self.server = server
        self.lock = threading.Lock()
        self.calls = queue.SimpleQueue()
        for _ in range(count):
            threading.Thread(target=self.work, daemon=True).start()

    def submit(self, seq, body):
        self.calls.put((seq, body))

    def work(self):
        while True:
            seq, body = self.calls.get()
            reply = self.server.call(body)
            with self.lock:
                self.server.send(seq, *reply)


def since(began):
    """Microseconds since a reading of the clock."""
    return (time.perf_counter_ns() - began) // 1000


def flush():
    for output in (sys.stdout, sys.stderr):
        try:
            output.flush()
        except (OSError, ValueError):
            # The handler closed it; what it wrote before is gone with it.
            pass


def module_file(entrypoint):
    module, _, function = entrypoint.rpartition(".")
    if not module:
        raise ValueError(f"the entrypoint {entrypoint!r} is not of the form module.function")
    return module, function, "/handler/" + module.replace(".", "/") + ".py"


def see_packages(folders):
    """Makes these packages importable, and no others of the node's, whatever the Zygote has seen."""
    sys.path[:] = [*BASE_PATH, *(PACKAGES + folder for folder in folders)]


def reseed():
    """Modules that hold random state and do not know of forks: all children of a Zygote would draw the same numbers."""
    random = sys.modules.get("numpy.random.mtrand")
    if random is None:
        return
    try:
        # As much as its own `seed` would do, in a tenth of the time: that one writes to, and so copies, a hundred pages more.
        key = memoryview(os.urandom(4 * MT_WORDS)).cast("I")
        state = {"bit_generator": "MT19937", "state": {"key": key, "pos": MT_WORDS}}
        random.get_bit_generator().state = state
    except Exception:
        # Before numpy 1.24, or another generator.
        random.seed()


def loaded_modules(count):
    """Those of the last so many modules that come from packages, by folder, in the order in which their import began. The others are not
    even looked at: that would write to, and so copy, what is shared with the Zygote."""
    found = {}
    for name in reversed(list(itertools.islice(reversed(sys.modules), max(0, count)))):
        module = sys.modules[name]
        # Not by getattr: some modules answer that with an import.
        file = vars(module).get("__file__") if isinstance(module, types.ModuleType) else None
        if isinstance(file, str) and file.startswith(PACKAGES):
            found.setdefault(file[len(PACKAGES):].partition("/")[0], []).append(name)
    return found


def seed_ahead():
    """For a sandbox that does not know yet what it will serve."""
    global seeded
    reseed()
    seeded = True


def use_numpy(numpy):
    """What next to everybody does with it: its first array settles how it runs, too."""
    try:
        float(numpy.arange(3).sum())
    except Exception:
        # A module of that name that is another.
        pass


def rehearse():
    """Does once, for nobody, what each sandbox does. What that writes to is then no longer shared with the Zygote; done in the Zygote, it
    is not written to again by its children."""
    for name in TOPS:
        __import__(name)
    if "numpy" in sys.modules:
        use_numpy(sys.modules["numpy"])
    path = list(sys.path)
    source, sink = os.pipe()
    server = Server(source)
    for kind, meta, body in REHEARSED:
        os.write(sink, HEADER.pack(1, kind, len(meta), len(body)) + meta + body)
    _, _, meta, body = server.receive()
    server.load(json.loads(meta), body)
    seq, _, _, body = server.receive()
    server.stream = sink
    server.send(seq, *server.call(body))
    os.close(source)
    os.close(sink)
    del sys.modules["_openlambda_rehearsal"]
    sys.path[:] = path


def load_handler(entrypoint, code):
    name, function, path = module_file(entrypoint)
    # No byte code is written beside the handler's files, and none is looked for in folders that are not there.
    sys.path.insert(0, "/handler")
    module = types.ModuleType(name)
    module.__file__ = path
    module.__spec__ = importlib.machinery.ModuleSpec(name, None, origin=path)
    sys.modules[name] = module
    exec(marshal.loads(code) if code else compile_file(path), module.__dict__)
    handler = getattr(module, function, None)
    if not callable(handler):
        raise AttributeError(f"{path} defines no function {function!r}")
    return handler


def compile_file(path):
    with open(path, "rb") as file:
        return compile(file.read(), path, "exec", dont_inherit=True)


def compile_module(meta):
    """The answer to COMPILE: the code object of the handler's module, as bytes."""
    try:
        _, _, path = module_file(meta.get("entrypoint", DEFAULT_ENTRYPOINT))
        return OK, b"", marshal.dumps(compile_file(path))
    except BaseException as error:
        return LOAD_FAILED, describe(error), b""


def describe(error):
    """An exception as the meta of a reply: its type, its text, where it arose."""
    trace = error.__traceback__
    # The frames of this file are none of the handler's business.
    while trace is not None and trace.tb_frame.f_code.co_filename == __file__:
        trace = trace.tb_next
    try:
        text = "".join(traceback.format_exception(type(error), error, trace))
    except BaseException:
        text = f"{type(error).__name__} (its text could not be made)\n"
    try:
        # Where a syntax error is, is said beside it.
        message = error.msg if isinstance(error, SyntaxError) and error.filename else str(error)
    except BaseException:
        message = ""
    file, line = place(error, trace)
    report = {"errorType": type(error).__name__, "message": message, "traceback": text}
    if isinstance(line, int):
        report["line"] = line
    if file is not None:
        report["file"] = file
    return encode(report).encode()


def place(error, trace):
    """The file of the handler, below its folder, and the line that an error comes from; each None if unknown."""
    if isinstance(error, SyntaxError) and str(error.filename).startswith(FOLDER):
        # The last frame is that of the import; what cannot be compiled is what it imports.
        return error.filename[len(FOLDER):], error.lineno
    file, line = None, getattr(error, "lineno", None)
    while trace is not None:
        name = trace.tb_frame.f_code.co_filename
        if name.startswith(FOLDER):
            file, line = name[len(FOLDER):], trace.tb_lineno
        trace = trace.tb_next
    return file, line
