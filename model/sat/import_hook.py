"""Import hook for programs that import `sat` after `model`: `compat` is imported first, and prepares the package."""

import importlib
import sys
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType

SAT = "sat"
COMPAT = f"{__package__}.compat"


class SatFinder(MetaPathFinder, Loader):
    """A meta path finder that resolves the first `import sat` to the package that `compat` imports."""

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Return a spec for `sat` that imports `compat`; None if `compat` is imported or SAT is not installed."""
        if name != SAT or COMPAT in sys.modules:
            return None
        specs = (finder.find_spec(name, path, target) for finder in sys.meta_path if finder is not self)
        found = next(filter(None, specs), None)
        return found and ModuleSpec(SAT, self, origin=found.origin)

    def exec_module(self, module: ModuleType) -> None:
        """Import `compat`; it imports the real `sat` with the remaining finders and leaves it in `sys.modules`."""
        del sys.modules[SAT]  # otherwise `compat` would take the empty module for SAT
        importlib.import_module(COMPAT)


def install_sat_hook() -> None:
    """Install the finder in this process; a second call changes nothing."""
    if not any(isinstance(finder, SatFinder) for finder in sys.meta_path):
        sys.meta_path.insert(0, SatFinder())
