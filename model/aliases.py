"""Keep former module paths, names, keywords and attributes working, each with a DeprecationWarning."""

import functools
import importlib
import sys
import tomllib
import warnings
from collections.abc import Callable, Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from pathlib import Path
from types import ModuleType
from typing import Any, ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R")

_TABLES = tomllib.loads(Path(__file__).with_name("former_names.toml").read_text(encoding="utf-8"))
# Former module path -> current path, of a module or of a package with all its modules.
MOVED: dict[str, str] = _TABLES["moved"]
# Current module path -> former name -> current name.
RENAMED: dict[str, dict[str, str]] = _TABLES["renamed"]


def find_current(name: str) -> str | None:
    """Return the current path of a module that was once imported as `name`, None if it never moved."""
    if name in MOVED:
        return MOVED[name]
    package, _, module = name.rpartition(".")
    current = find_current(package) if package else None
    return f"{current}.{module}" if current else None


def find_renamed(module: ModuleType, name: str, stacklevel: int = 2) -> Any:
    """Return an object of a module by its former name, with a DeprecationWarning at the frame `stacklevel`.

    Raises:
        AttributeError: the module never had such a name.
    """
    path = module.__name__
    current = RENAMED.get(path, {}).get(name)
    if current is None:
        raise AttributeError(f"module {path!r} has no attribute {name!r}", name=name, obj=module)
    warnings.warn(f"{path}.{name} has been renamed; use {current} instead.", DeprecationWarning, stacklevel=stacklevel)
    return getattr(module, current)


class RenamedLoader(SourceFileLoader):
    """Loader that also makes a module's objects accessible by their former names."""

    def exec_module(self, module: ModuleType) -> None:
        """Execute the module, then add a `__getattr__` for its former names."""
        super().exec_module(module)
        vars(module).setdefault("__getattr__", functools.partial(find_renamed, module))


class FormerPaths(MetaPathFinder, Loader):
    """Import hook that finds modules by their former paths and adds former names to modules."""

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Return a spec for a former path or a module with former names; None for other modules."""
        if find_current(name):
            return ModuleSpec(name, self)
        spec = PathFinder.find_spec(name, path) if name in RENAMED else None
        if spec and isinstance(spec.loader, SourceFileLoader):
            spec.loader = RenamedLoader(spec.loader.name, spec.loader.path)
        return spec

    def exec_module(self, module: ModuleType) -> None:
        """Replace the module of a former path by the module of the current path."""
        name = module.__name__
        current = find_current(name)
        assert current is not None
        warnings.warn(f"{name} has moved; import {current} instead.", DeprecationWarning, stacklevel=2)
        sys.modules[name] = importlib.import_module(current)


def install_aliases() -> None:
    """Enable former paths and names in this process; a second call changes nothing."""
    if not any(isinstance(finder, FormerPaths) for finder in sys.meta_path):
        sys.meta_path.insert(0, FormerPaths())


def former_keywords(**names: str) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Return a decorator that accepts former names of keyword arguments, with a DeprecationWarning.

    Args:
        names: former keyword = its current name.
    """

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        @functools.wraps(function)
        def call(*args: P.args, **kwargs: P.kwargs) -> R:
            for former in names.keys() & kwargs.keys():
                current = names[former]
                if current in kwargs:
                    raise TypeError(f"{function.__qualname__}() got both {current!r} and its former name {former!r}")
                message = f"{function.__qualname__}(): {former}= has been renamed; use {current}= instead."
                warnings.warn(message, DeprecationWarning, stacklevel=2)
                kwargs[current] = kwargs.pop(former)
            return function(*args, **kwargs)

        vars(call)["former_keywords"] = names
        return call

    return decorate


class FormerAttribute:
    """Descriptor that serves an attribute or a method by its former name, with a DeprecationWarning.

    class Batch:
        size = 4
        rows = FormerAttribute("size")
    """

    def __init__(self, current: str) -> None:
        self.current = current

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    def __get__(self, instance: Any, owner: type) -> Any:
        """Return the attribute by its current name."""
        self._warn(owner)
        return getattr(owner if instance is None else instance, self.current)

    def __set__(self, instance: Any, value: Any) -> None:
        """Set the attribute by its current name."""
        self._warn(type(instance))
        setattr(instance, self.current, value)

    def _warn(self, owner: type) -> None:
        message = f"{owner.__name__}.{self.name} has been renamed; use {self.current} instead."
        warnings.warn(message, DeprecationWarning, stacklevel=3)
