"""Compiles every file of a bundle and names what it imports, without running any of it. Prints JSON."""
import ast
import json
import os
import resource
import sys
import warnings

# A file that keeps the compiler busy, or makes it large, is no reason to wait, or to fail, for ever.
resource.setrlimit(resource.RLIMIT_CPU, (60, 60))
resource.setrlimit(resource.RLIMIT_AS, (2 << 30, 2 << 30))
warnings.simplefilter("ignore")
root = sys.argv[1]
own, errors, imports = set(), [], {}
for folder, _, names in os.walk(root):
    for name in names:
        path = os.path.join(folder, name)
        below = os.path.relpath(path, root)
        own.add(below.split(os.sep)[0].removesuffix(".py").split(".")[0])
        if not name.endswith(".py") or os.path.islink(path):
            continue
        try:
            with open(path, "rb") as file:
                tree = compile(file.read(), below, "exec", ast.PyCF_ONLY_AST, dont_inherit=True)
            compile(tree, below, "exec", dont_inherit=True)
        except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
            line = getattr(error, "lineno", None)
            errors.append(f"{below}, line {line}: {error.args[0] if error.args else type(error).__name__}")
            continue
        for node in ast.walk(tree):
            if isinstance(node, ast.Import):
                found = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.level == 0:
                found = [node.module]
            else:
                continue
            for module in found:
                imports.setdefault(module.split(".")[0], f"{below}, line {node.lineno}")
known = own | set(getattr(sys, "stdlib_module_names", sys.builtin_module_names)) | {"__future__"}
foreign = {name: place for name, place in imports.items() if name not in known}
json.dump({"errors": errors, "foreign": foreign}, sys.stdout)
