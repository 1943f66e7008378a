"""Import modules under the paths that they had before they moved, with a warning that names the new path."""

import importlib
import sys
import warnings
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType

# Former path -> current path, of a module or of a package with all that it holds.
MOVED = {
    "model.address": "model.images.address",
    "model.checkpoint.quantized": "model.quantization.quantized",
    "model.cores": "model.images.cores",
    "model.data_url": "model.images.data_url",
    "model.decode_worker": "model.images.decode_worker",
    "model.encoder": "model.images.encoder",
    "model.fetch": "model.images.fetch",
    "model.finetuned": "model.sat.finetuned",
    "model.frozen": "model.sat.frozen",
    "model.generation": "model.engine",
    "model.image": "model.images.image",
    "model.image_bounds": "model.images.image_bounds",
    "model.image_decoder": "model.images.image_decoder",
    "model.image_file": "model.images.image_file",
    "model.image_metadata": "model.images.image_metadata",
    "model.kernels.device": "model.kernels.triton",
    "model.local_address": "visualglm.local_address",
    "model.lora": "model.sat.lora",
    "model.lora_targets": "model.sat.lora_targets",
    "model.low_rank": "model.sat.low_rank",
    "model.modules": "model.engine.modules",
    "model.pictures": "model.images.pictures",
    "model.ptuning": "model.sat.ptuning",
    "model.recording": "model.engine.recording",
    "model.sat_compat": "model.sat.sat_compat",
    "model.shared_calls": "model.images.shared_calls",
}


def find_current(name: str) -> str | None:
    """Return the current path of a module that was once imported as `name`, None if it never moved."""
    if name in MOVED:
        return MOVED[name]
    package, _, module = name.rpartition(".")
    current = find_current(package) if package else None
    return f"{current}.{module}" if current else None


class FormerPaths(MetaPathFinder, Loader):
    """Answers the import of a former path with the module of the current path."""

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Return a spec for a former path, None for any other."""
        return ModuleSpec(name, self) if find_current(name) else None

    def exec_module(self, module: ModuleType) -> None:
        """Put the module of the current path in the place of the former one."""
        name = module.__name__
        current = find_current(name)
        assert current is not None
        warnings.warn(f"{name} has moved; import {current} instead.", DeprecationWarning, stacklevel=2)
        sys.modules[name] = importlib.import_module(current)


def install_aliases() -> None:
    """Let former paths be imported in this process; a second call changes nothing."""
    if not any(isinstance(finder, FormerPaths) for finder in sys.meta_path):
        sys.meta_path.insert(0, FormerPaths())
