"""Import numpy when it is first used, or one submodule of a package without the rest of it.

`edgekit run` on the engine computes nothing with numpy, whose import would be half of its start-up. The modules on that
way write `from edgekit.utils.lazy import numpy as np`, and keep their annotations as texts.

`import llama_cpp.llama_cpp` also executes `llama_cpp/__init__.py`, and with it chat templates, a disk cache and
grammars (jinja2, sqlite3, multiprocessing), which takes several times as long as the C bindings, all that is used here.
The same goes for `gguf`. `load` therefore registers the package without executing it and imports the submodule; the
package is executed when it is first asked for any other name.
"""

import importlib
import importlib.util
import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any


def load(package: str, name: str) -> ModuleType:
    """The module `package.name`. Raises `ModuleNotFoundError` naming the package if it is not installed."""
    if package not in sys.modules:
        spec = importlib.util.find_spec(package)
        if spec is None or spec.loader is None:
            raise ModuleNotFoundError(f"No module named {package!r}", name=package)
        module, loader = importlib.util.module_from_spec(spec), spec.loader

        def execute(name: str) -> Any:
            if vars(module).pop("__getattr__", None):
                loader.exec_module(module)
                return getattr(module, name)
            raise AttributeError(f"module {package!r} has no attribute {name!r}")

        vars(module)["__getattr__"] = execute
        sys.modules[package] = module
    return importlib.import_module(f"{package}.{name}")


class _Module:
    """Stands for a module, and imports it when it is first asked for a name."""

    def __init__(self, name: str):
        self._name = name

    def __getattr__(self, name: str) -> Any:
        value = getattr(importlib.import_module(self._name), name)
        if not name.startswith("__"):
            setattr(self, name, value)  # the next time it is found without this function
        return value


if TYPE_CHECKING:
    import numpy as numpy
else:
    numpy = _Module("numpy")
