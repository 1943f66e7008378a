"""Former import paths of modules and former names in them, each with a warning that names the current one."""

import importlib
import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

# Former path -> current path, of a module or of a package with all that it holds.
MOVED = {
    "finetune.adapter": "finetune.forward",
    "finetune.base": "finetune.methods",
    "finetune.deepspeed_optimiser": "finetune.deepspeed_optimizer",
    "finetune.divergence": "finetune.loss",
    "finetune.file_faults": "finetune.rows",
    "finetune.head": "finetune.loss",
    "finetune.manifest": "finetune.training_state",
    "finetune.messages": "finetune.shapes",
    "finetune.optimise": "finetune.optimizer",
    "finetune.picture_marks": "finetune.row_pictures",
    "finetune.questions": "finetune.memory",
    "finetune.rate": "finetune.optimizer",
    "finetune.splitting": "finetune.data",
    "finetune.states": "finetune.forward",
    "finetune.variation": "finetune.pictures",
    "finetune.workers": "finetune.batches",
    "model.address": "model.images.url_fetch",
    "model.checkpoint.base": "model.checkpoint.adapters",
    "model.checkpoint.directory": "model.checkpoint.save",
    "model.checkpoint.heads": "model.checkpoint.layout",
    "model.checkpoint.lazy": "model.tensors",
    "model.checkpoint.names": "model.checkpoint.layout",
    "model.checkpoint.nf4": "model.quantization.nf4",
    "model.checkpoint.parallel": "model.checkpoint.sat",
    "model.checkpoint.prefix": "model.checkpoint.adapters",
    "model.checkpoint.qkv": "model.checkpoint.layout",
    "model.checkpoint.quantized": "model.quantization.published",
    "model.checkpoint.sampling": "model.loading",
    "model.checkpoint.tensor_file": "model.checkpoint.files",
    "model.checkpoint.vocabulary": "model.checkpoint.resolve",
    "model.checkpoint.whole": "model.checkpoint.memory",
    "model.cores": "model.images.embedding_cache",
    "model.data_url": "model.images.preprocess",
    "model.decode_worker": "model.images.decode_worker",
    "model.encoder": "model.images.embedding_cache",
    "model.fetch": "model.images.url_fetch",
    "model.file_mode": "model.file_writing",
    "model.frozen": "model.sat.low_rank",
    "model.generation": "model.engine",
    "model.generation.attention": "model.engine.layers",
    "model.generation.cache": "model.engine.kv_cache",
    "model.generation.engine": "model.engine.generate",
    "model.generation.graphs": "model.engine.cuda_graph",
    "model.generation.model_decoder": "model.engine.decoder",
    "model.generation.request": "model.engine.sequence",
    "model.generation.rows": "model.engine.batch",
    "model.generation.sampler": "model.engine.sampling",
    "model.generation.sharing": "model.engine.scheduler",
    "model.generation.sizes": "model.engine.cuda_graph",
    "model.generation.tickets": "model.engine.sequence",
    "model.generation.weights": "model.engine.layers",
    "model.hf.cache_chatglm": "model.hf.generation_chatglm",
    "model.hf.graph_chatglm": "model.hf.generation_chatglm",
    "model.hf.prefix_chatglm": "model.hf.layers_chatglm",
    "model.hf.quantization": "model.kernels.torch_ops",
    "model.hf.room_chatglm": "model.hf.generation_chatglm",
    "model.hf.saving_chatglm": "model.hf.configuration_chatglm",
    "model.hf.text_chatglm": "model.hf.tokenization_chatglm",
    "model.hf.vision_chatglm": "model.hf.layers_chatglm",
    "model.history": "model.prompt",
    "model.image": "model.images.preprocess",
    "model.image_bounds": "model.images.decode",
    "model.image_decoder": "model.images.decode_process",
    "model.image_file": "model.images.decode",
    "model.image_metadata": "model.images.decode",
    "model.kernels.choice": "model.kernels.dispatch",
    "model.kernels.dense": "model.kernels.linear",
    "model.kernels.device": "model.kernels.triton",
    "model.kernels.int4": "model.kernels.linear",
    "model.kernels.int8": "model.kernels.linear",
    "model.kernels.tile": "model.kernels.autotune",
    "model.kernels.tuned": "model.kernels.autotune",
    "model.local_address": "visualglm.local_address",
    "model.lora": "model.sat.lora",
    "model.lora_targets": "model.sat.lora",
    "model.low_rank": "model.sat.low_rank",
    "model.modules": "model.engine.network",
    "model.pictures": "model.images.embedding_cache",
    "model.pieces": "model.chat_model",
    "model.printing": "model.command_line",
    "model.ptuning": "model.sat.ptuning",
    "model.quantization.embedding": "model.quantization.linear",
    "model.quantization.kernels": "model.kernels.torch_ops",
    "model.quantization.loading": "model.checkpoint.low_bit",
    "model.quantization.saving": "model.checkpoint.low_bit",
    "model.recording": "model.kernels.torch_ops",
    "model.rotary": "model.visualglm",
    "model.sat_compat": "model.sat.compat",
    "model.shared_calls": "model.images.embedding_cache",
}


def find_current(name: str) -> str | None:
    """Return the current path of a module that was once imported as `name`, None if it never moved."""
    if name in MOVED:
        return MOVED[name]
    package, _, module = name.rpartition(".")
    current = find_current(package) if package else None
    return f"{current}.{module}" if current else None


def renamed(module: str, names: Mapping[str, str]) -> Callable[[str], Any]:
    """Return a `__getattr__` for a module that finds objects by their former names, with a warning.

    Args:
        module: name of the module.
        names: former name -> current name.
    """

    def find(name: str) -> Any:
        if name not in names:
            raise AttributeError(f"module {module!r} has no attribute {name!r}")
        message = f"{module}.{name} has been renamed; use {names[name]} instead."
        warnings.warn(message, DeprecationWarning, stacklevel=2)
        return getattr(sys.modules[module], names[name])

    return find


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
