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

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Return a spec whose loading imports `compat`; None where that is imported or SAT is not installed."""
        if name != SAT or COMPAT in sys.modules:
            return None
        specs = (finder.find_spec(name, path, target) for finder in sys.meta_path if finder is not self)
        found = next(filter(None, specs), None)
        return found and ModuleSpec(SAT, self, origin=found.origin)

    def exec_module(self, module: ModuleType) -> None:
        """Import `compat`, whose own `import sat` other finders answer, and leave that package in `sys.modules`."""
        del sys.modules[SAT]  # with it there, `compat` would take the empty module for SAT
        importlib.import_module(COMPAT)


def install_sat_hook() -> None:
    """Prepare SAT at its first import in this process; a second call changes nothing."""
    if not any(isinstance(finder, SatFinder) for finder in sys.meta_path):
        sys.meta_path.insert(0, SatFinder())
