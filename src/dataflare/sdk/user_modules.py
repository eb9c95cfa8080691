"""Python modules in the folder of a workflow, imported for one run.

Two workflows may each have a `steps.py`. So a module of such a folder does not take its plain name in
`sys.modules`, which the whole process shares, but `_dataflare_code_N.steps`, where N is the number of the
run's folder. `import` statements in the module look into the folder first, because the module has an
`__import__` of its own. Libraries and modules elsewhere are imported as always.

Always true:
- a module of the folder is executed at most once for a run, and once more for the next run;
- a file that the process had imported already under its plain name is not imported twice: scripts and
  tests that import a workflow's modules have the same functions as the workflow;
- nothing is put on `sys.path`.
"""

from __future__ import annotations

import builtins
import importlib
import importlib.machinery
import importlib.util
import itertools
import os
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

_PREFIX = "_dataflare_code_"
_PRIVATE = re.compile(rf"\b{_PREFIX}\d+\.?")
_numbers = itertools.count(1)
_folders: dict[str, UserModules] = {}


def plain_names(text: str) -> str:
    """The text with modules called as their users call them."""
    return _PRIVATE.sub("", text) if _PREFIX in text else text


class UserModules:
    """The modules of one folder. Called by any thread."""

    def __init__(self, folder: Path) -> None:
        self.folder = str(folder.absolute())
        self.prefix = f"{_PREFIX}{next(_numbers)}"
        self.loaded: dict[str, Any] = {}
        """Functions and classes by the name in the workflow."""
        self._here: dict[str, bool] = {}
        self.builtins = {**vars(builtins), "__import__": self._import}
        self._importlib = _Importlib(self)
        package = ModuleType(self.prefix)
        package.__path__ = [self.folder]
        sys.modules[self.prefix] = package
        _folders[self.prefix] = self
        if _FINDER not in sys.meta_path:
            sys.meta_path.insert(0, _FINDER)

    def module(self, name: str, package: str | None = None) -> ModuleType:
        """The module of this name, first sought in the folder, as `importlib.import_module` does."""
        top = name.partition(".")[0]
        if top and self._is_here(top, sys_too=True):
            return importlib.import_module(f"{self.prefix}.{name}")
        return importlib.import_module(name, package)

    def changed(self) -> bool:
        """Whether a file is not the one any more that was imported."""
        modules = [m for n, m in list(sys.modules.items()) if n.startswith(f"{self.prefix}.")]
        return any(_state_of(m.__file__) != m.__dict__.get(_STATE) for m in modules if m.__file__)

    def close(self) -> None:
        """Take the modules out of the process. Functions that are still held go on to work."""
        _folders.pop(self.prefix, None)
        for name in [n for n in list(sys.modules) if n.partition(".")[0] == self.prefix]:
            sys.modules.pop(name, None)

    def _is_here(self, top: str, *, sys_too: bool = False) -> bool:
        """Whether a name means a module of the folder. sys_too: also one that Python's own library has."""
        here = self._here.get(top)
        if here is None or (sys_too and not here):
            here = (sys_too or top not in sys.stdlib_module_names) and self._finds(top)
            self._here[top] = here
        return here

    def _finds(self, top: str) -> bool:
        listing: Any = sys.path_importer_cache.get(self.folder)
        if listing is not None:
            listing.invalidate_caches()
        spec = importlib.machinery.PathFinder.find_spec(top, [self.folder])
        if spec is None:
            return False
        if spec.origin is None:
            # A folder without `__init__.py` is a package only if no other package has its name.
            return top not in sys.modules and importlib.util.find_spec(top) is None
        other = getattr(sys.modules.get(top), "__file__", None)
        return other is None or os.path.realpath(other) != os.path.realpath(spec.origin)

    def _import(
        self,
        name: str,
        globals: Mapping[str, Any] | None = None,
        locals: Mapping[str, Any] | None = None,
        fromlist: Sequence[str] | None = (),
        level: int = 0,
    ) -> ModuleType:
        """The `__import__` of the folder's modules."""
        top = name.partition(".")[0]
        if level == 0 and top == "importlib":
            module = builtins.__import__(name, globals, locals, fromlist, level)
            return self._importlib if module is importlib else module
        if level or not self._is_here(top):
            return builtins.__import__(name, globals, locals, fromlist or (), level)
        module = importlib.import_module(f"{self.prefix}.{name}")
        if fromlist:
            return builtins.__import__(module.__name__, globals, locals, fromlist, 0)
        return sys.modules[f"{self.prefix}.{top}"]


_STATE = "__dataflare_file_state__"


def _state_of(file: str) -> tuple[int, int] | None:
    try:
        state = os.stat(file)
    except OSError:
        return None
    return state.st_mtime_ns, state.st_size


class _Loader(importlib.machinery.SourceFileLoader):
    """Gives the modules of a folder their own `import`."""

    def exec_module(self, module: ModuleType) -> None:
        folder = _folders.get(module.__name__.partition(".")[0])
        if folder is not None:
            module.__dict__["__builtins__"] = folder.builtins
            module.__dict__[_STATE] = _state_of(self.path)
        super().exec_module(module)


class _Finder:
    """Finds the modules of users' folders by their private names, for Python's import system."""

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if not name.startswith(_PREFIX):
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, path, target)
        if spec is not None and type(spec.loader) is importlib.machinery.SourceFileLoader:
            spec.loader = _Loader(spec.loader.name, spec.loader.path)
        return spec


_FINDER: Any = _Finder()


class _Importlib(ModuleType):
    """`importlib` as a user's module sees it: its `import_module` looks into the folder too."""

    def __init__(self, modules: UserModules) -> None:
        super().__init__("importlib")
        self.import_module = modules.module

    def __getattr__(self, name: str) -> Any:
        return getattr(importlib, name)
