"""A Zygote: an interpreter that has loaded what its children need, and forks them.

It runs as root of a user namespace that holds only itself and its children, and stays single-threaded: `serve_forks` spends
the Zygote's life inside native code, and returns in each child once that is a sandbox, or a Zygote that imports some more.
"""

import gc
import sys

sys.path.insert(0, "/runtime")
# The agent opens up this file's folder to sandboxes for these modules alone.
import _openlambda
import importer
import server

del sys.path[0]
server.BASE_PATH = tuple(sys.path)
server.prepare()


# After so many the interpreter has settled how it runs this code, which it writes down in the code itself.
REHEARSALS = 10


def run(control):
    while True:
        for _ in range(REHEARSALS):
            server.rehearse()
        server.LOADED = len(sys.modules)
        gc.collect()
        # Keeps the collector of a child from writing to, and so copying, every page of the Zygote.
        gc.freeze()
        _openlambda.gather_heap()
        child = _openlambda.serve_forks(control)
        if child is None:
            return
        role, stream, more = child
        if role == "zygote":
            control = stream
            _openlambda.use_huge_pages()
            importer.run(control, more)
        elif role == "sandbox" or warm_up() and _openlambda.take_up(stream, more):
            server.serve(stream)
        else:
            return


def warm_up():
    """Touches, ahead of need, the pages that loading and calling a handler write to."""
    server.seed_ahead()
    server.rehearse()
    return True


if __name__ == "__main__":
    run(int(sys.argv[1]))
