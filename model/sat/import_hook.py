"""Prepare SAT when a program imports it after `model`: `compat` is imported first, and `sat` is what it leaves."""

import importlib
import sys
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType

SAT = "sat"
COMPAT = f"{__package__}.compat"


class SatFinder(MetaPathFinder, Loader):
    """Answers the first `import sat` with the package that `compat` imports."""

    def __init__(self) -> None:
        self.prepared: ModuleType | None = None

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Import `compat`, whose own `import sat` other finders answer; return a spec for what that has imported."""
        if name != SAT or COMPAT in sys.modules:
            return None
        importlib.import_module(COMPAT)
        self.prepared = sys.modules.pop(SAT)  # with it there, the spec returned here would not count
        return ModuleSpec(SAT, self)

    def exec_module(self, module: ModuleType) -> None:
        """Put the prepared package in the place of an empty module."""
        assert self.prepared is not None
        sys.modules[SAT] = self.prepared


def install_sat_hook() -> None:
    """Prepare SAT at its first import in this process; a second call changes nothing."""
    if not any(isinstance(finder, SatFinder) for finder in sys.meta_path):
        sys.meta_path.insert(0, SatFinder())
