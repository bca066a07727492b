"""llama-cpp-python's C bindings without the rest of the package.

`import llama_cpp` also imports its chat templates, disk cache and grammars, jinja2 and sqlite3 among them, several
times as long as the bindings. None of it is used here. So the package is registered without being executed, and
executes itself when somebody asks for anything but a submodule of it.
"""

import importlib
import importlib.util
import sys
from types import ModuleType
from typing import Any


def load() -> ModuleType:
    """`llama_cpp.llama_cpp`. Raises `ModuleNotFoundError` naming `llama_cpp` if it is not installed."""
    if "llama_cpp" not in sys.modules:
        spec = importlib.util.find_spec("llama_cpp")
        if spec is None or spec.loader is None:
            raise ModuleNotFoundError("No module named 'llama_cpp'", name="llama_cpp")
        package, loader = importlib.util.module_from_spec(spec), spec.loader

        def execute(name: str) -> Any:
            vars(package).pop("__getattr__", None)
            loader.exec_module(package)
            return getattr(package, name)

        vars(package)["__getattr__"] = execute
        sys.modules["llama_cpp"] = package
    return importlib.import_module("llama_cpp.llama_cpp")
