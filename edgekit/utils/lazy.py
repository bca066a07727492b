"""A part of somebody's package without the rest of it.

`import llama_cpp.llama_cpp` also executes `llama_cpp/__init__.py`, and with it chat templates, a disk cache and
grammars (jinja2, sqlite3, multiprocessing): several times as long as the C bindings, which are all that is used here.
`gguf` is like that. So a package is registered without being executed, its submodule is imported, and the package
executes itself when anybody asks it for something that is no submodule.
"""

import importlib
import importlib.util
import sys
from types import ModuleType
from typing import Any


def load(package: str, name: str) -> ModuleType:
    """The module `package.name`. Raises `ModuleNotFoundError` naming the package if it is not installed."""
    if package not in sys.modules:
        spec = importlib.util.find_spec(package)
        if spec is None or spec.loader is None:
            raise ModuleNotFoundError(f"No module named {package!r}", name=package)
        module, loader = importlib.util.module_from_spec(spec), spec.loader

        def execute(wanted: str) -> Any:
            if vars(module).pop("__getattr__", None):
                loader.exec_module(module)
                return getattr(module, wanted)
            raise AttributeError(f"module {package!r} has no attribute {wanted!r}")

        vars(module)["__getattr__"] = execute
        sys.modules[package] = module
    return importlib.import_module(f"{package}.{name}")
