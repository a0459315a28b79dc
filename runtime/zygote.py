"""A Zygote: an interpreter that has loaded what every handler needs, and forks sandboxes.

It runs as root of a user namespace that holds only itself and its children, and stays single-threaded: `serve_forks` spends
the Zygote's life inside native code, and returns in each child once that is a sandbox.
"""

import gc
import sys

sys.path.insert(0, "/runtime")
# The agent opens up this file's folder to sandboxes for this one module alone.
import _openlambda
import server

del sys.path[0]

if __name__ == "__main__":
    gc.collect()
    # Keeps the collector of a child from writing to, and so copying, every page of the Zygote.
    gc.freeze()
    stream = _openlambda.serve_forks(int(sys.argv[1]))
    if stream is not None:
        server.serve(stream)
