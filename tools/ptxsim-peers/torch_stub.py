"""Stands in for packages that kernel files import and kernels do not use (torch above all): whatever is asked of it is there
and does nothing. What depends on it for a result gets a wrong one, and its row says so."""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import sys
import types


class Anything:
    def __init__(self, *_, **__) -> None:
        pass

    def __getattr__(self, name: str):
        if name.startswith("__") and name != "__name__":
            raise AttributeError(name)
        return name if name == "__name__" else Anything()

    def __call__(self, *arguments, **named):
        # A decorator hands on what it decorates.
        if len(arguments) == 1 and not named and isinstance(arguments[0], (types.FunctionType, type)):
            return arguments[0]
        return Anything()

    def __mro_entries__(self, _):
        return (object,)

    def __instancecheck__(self, _) -> bool:
        return False

    def __getitem__(self, _):
        return Anything()

    def __or__(self, _):
        return Anything()

    __ror__ = __or__

    def __bool__(self) -> bool:
        return False

    def __index__(self) -> int:
        return 1

    __int__ = __index__

    def __iter__(self):
        return iter(())

    def __len__(self) -> int:
        return 0

    def __enter__(self):
        return self

    def __exit__(self, *_) -> None:
        pass

    def __lt__(self, _) -> bool:
        return False

    __le__ = __gt__ = __ge__ = __lt__


class Module(types.ModuleType):
    __version__ = "2.9.1"
    __path__: list[str] = []

    def __getattr__(self, name: str):
        if name.startswith("__"):
            raise AttributeError(name)
        return Anything()


class Finder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    def __init__(self, names: list[str]) -> None:
        self.names = set(names)

    def find_spec(self, name: str, path=None, target=None):
        if name.split(".")[0] in self.names:
            return importlib.machinery.ModuleSpec(name, self, is_package=True)
        return None

    def create_module(self, spec):
        return Module(spec.name)

    def exec_module(self, module) -> None:
        pass


def install(*names: str) -> None:
    sys.meta_path.insert(0, Finder(list(names)))


def bare(package: str, path: str) -> None:
    """`package` without what its __init__ imports."""
    module = types.ModuleType(package)
    module.__path__, module.__version__ = [path], "0"
    sys.modules[package] = module
    parent, _, child = package.rpartition(".")
    if parent in sys.modules:
        setattr(sys.modules[parent], child, module)
