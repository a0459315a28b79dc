"""A package index on loopback with packages of known import time and memory, and a workload over them, generated with a seed.

Usage: synthetic_index.py FOLDER SEED. Prints one line of JSON: the port, the packages of each handler, the order of calls. Serves until
it is killed.
"""

import base64
import functools
import hashlib
import http.server
import json
import math
import os
import random
import sys
import zipfile

PACKAGES, HANDLERS = 100, 200
# Milliseconds, drawn evenly on a logarithmic scale; most real packages are at the lower end.
IMPORT_MS = (10, 150)
MEBIBYTES = (1, 24)
# Phases of the popularity, and calls in each. It falls with the rank to this power (Zipf).
PHASES, CALLS, ZIPF = 3, 150, 1.1


def main(folder, seed):
    draw = random.Random(seed)
    for number in range(PACKAGES):
        needs = draw.sample(range(number), min(number, draw.choice([0, 0, 1, 1, 2])))
        make_wheel(folder, number, needs, log_uniform(draw, *IMPORT_MS), log_uniform(draw, *MEBIBYTES))
    popular = [1 / (rank + 1) for rank in range(PACKAGES)]
    handlers = []
    for _ in range(HANDLERS):
        chosen = set(draw.choices(range(PACKAGES), popular, k=draw.choice([1, 2, 2, 3, 4])))
        handlers.append([name(number) for number in sorted(chosen)])
    weights, calls = [1 / (rank + 1) ** ZIPF for rank in range(HANDLERS)], []
    for phase in range(PHASES):
        first = phase * HANDLERS // PHASES
        order = [(first + rank) % HANDLERS for rank in range(HANDLERS)]
        calls += draw.choices(order, weights, k=CALLS)
    handler = functools.partial(Quiet, directory=folder)
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    print(json.dumps({"port": server.server_port, "handlers": handlers, "calls": calls}), flush=True)
    server.serve_forever()


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *arguments):
        pass


def log_uniform(draw, low, high):
    return math.exp(draw.uniform(math.log(low), math.log(high)))


def name(number):
    return f"pkg{number:03}"


def make_wheel(folder, number, needs, millis, mebibytes):
    module = name(number)
    source = "".join(f"import {name(need)}\n" for need in needs)
    source += f"import time\nDATA = bytearray(b'x') * {int(mebibytes * 2**20)}\ntime.sleep({millis / 1000:.4f})\n"
    info = f"{module}-1.0.dist-info"
    metadata = f"Metadata-Version: 2.1\nName: {module}\nVersion: 1.0\n"
    metadata += "".join(f"Requires-Dist: {name(need)}==1.0\n" for need in needs)
    files = {
        f"{module}.py": source,
        f"{info}/METADATA": metadata,
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: synthetic\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    record = "".join(f"{path},sha256={digest(text)},{len(text)}\n" for path, text in files.items())
    files[f"{info}/RECORD"] = record + f"{info}/RECORD,,\n"
    page = os.path.join(folder, "simple", module)
    os.makedirs(page)
    wheel = f"{module}-1.0-py3-none-any.whl"
    with zipfile.ZipFile(os.path.join(page, wheel), "w") as archive:
        for path, text in files.items():
            archive.writestr(path, text)
    with open(os.path.join(page, "index.html"), "w") as file:
        file.write(f'<a href="{wheel}">{wheel}</a>\n')


def digest(text):
    return base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b"=").decode()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
