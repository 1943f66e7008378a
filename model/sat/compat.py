"""Make SwissArmyTransformer (SAT) 0.4.12 work with current packages. Import this before `sat` if possible.

On import, SAT imports packages that only its training, its GPT-2, its Triton kernels or its downloader need, some of
them undeclared. Here those imports are deferred to their first use, so that inference needs none of deepspeed,
wandb, requests, triton, bitsandbytes or transformers, and `import sat` takes little longer than `import torch`.
Packages that the program has already imported stay visible to SAT, so training with deepspeed uses deepspeed. If the
program has already imported SAT, with the packages that it needs, SAT's replaced functions are redirected to ours.

Source of the replaced behavior: https://github.com/THUDM/SwissArmyTransformer, release 0.4.12.
"""

import contextlib
import functools
import importlib
import importlib.util
import logging
import os
import sys
import types
import warnings
from argparse import Namespace
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch

from ..checkpoint.files import read_json
from ..checkpoint.resolve import resolve
from ..checkpoint.sat import CONFIG_NAME, find_directory, is_sat_checkpoint
from ..checkpoint.sizes import LARGE_PARAMETERS as LARGE_PARAMETERS, choose_cpu_dtype, count_parameters
from ..command_line import make_printable
from ..environment import read_integer, read_variable
from ..quantization.quantize import quantize

T = TypeVar("T")

# Optional packages that SAT tries to import and works without; importing one takes up to seconds.
OPTIONAL_PACKAGES = ("deepspeed", "wandb", "bitsandbytes", "xformers", "apex")
LEVEL_VARIABLES = ("LOGLEVEL", "SAT_LOGLEVEL")  # the first wins
DEFAULT_CLASS = "VisualGLMModel"


class Deferred:
    """A proxy for a function, a class or a mapping of functions, whose module is imported at the first use."""

    def __init__(self, load: Callable[[], Any]) -> None:
        self.load = load

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.load()(*args, **kwargs)

    def __getitem__(self, key: Any) -> "Deferred":
        return Deferred(lambda: self.load()[key])


def auto_create(name: str, *, path: str | None = None, url: str | None = None) -> str:
    """Return the directory of the model called `name`, found by `resolve` instead of SAT's downloader."""
    return str(resolve(name, home=path))


def _module(name: str, **attributes: Any) -> types.ModuleType:
    module = types.ModuleType(name)
    vars(module).update(attributes)
    return module


def _deferred(module: str, name: str) -> types.ModuleType:
    return _module(module, **{name: Deferred(lambda: getattr(importlib.import_module(module), name))})


def _stand_ins() -> dict[str, types.ModuleType | None]:
    """Return the modules that replace the real ones while SAT is imported; None makes an import fail."""
    stand_ins: dict[str, types.ModuleType | None] = {
        "sat.resources": _module("sat.resources", auto_create=auto_create),
        "sat.training.deepspeed_training": _deferred("sat.training.deepspeed_training", "training_main"),
        "sat.model.position_embedding.triton_rotary_embeddings": _deferred(
            "sat.model.position_embedding.triton_rotary_embeddings", "FastRotaryEmbedding"
        ),
        "transformers": _module("transformers"),
        "transformers.activations": _deferred("transformers.activations", "ACT2FN"),
    }
    stand_ins.update(dict.fromkeys(OPTIONAL_PACKAGES))
    return {name: module for name, module in stand_ins.items() if name not in sys.modules}


@contextlib.contextmanager
def _imports_replaced() -> Iterator[None]:
    stand_ins = _stand_ins()
    sys.modules.update(stand_ins)  # type: ignore[arg-type]  # None makes an import fail, by Python's rules
    try:
        yield
    finally:
        for name in stand_ins:
            sys.modules.pop(name, None)


@contextlib.contextmanager
def _attribute_replaced(owner: Any, name: str, value: Any) -> Iterator[None]:
    original = getattr(owner, name)
    setattr(owner, name, value)
    try:
        yield
    finally:
        setattr(owner, name, original)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Raise SAT's log level from INFO to WARNING in the block, unless SAT_LOGLEVEL or LOGLEVEL is set."""
    before = {name: os.environ.pop(name) for name in LEVEL_VARIABLES if name in os.environ}
    levels = [level for name in LEVEL_VARIABLES if (level := _read_level(name, before))]
    os.environ["SAT_LOGLEVEL"] = (levels or ["WARNING"])[0]
    try:
        yield
    finally:
        del os.environ["SAT_LOGLEVEL"]
        os.environ.update(before)


def _read_level(name: str, environment: Mapping[str, str]) -> str | None:
    """Return the log level in an environment variable, in upper case; warn and return None if it is unknown."""
    given = read_variable(name, environment)
    if given is None or given.strip().upper() in logging.getLevelNamesMapping():
        return given and given.strip().upper()
    warnings.warn(
        f"The environment variable {name} is {given!r}, which is not a log level; it is ignored.", stacklevel=2
    )
    return None


def _unscripted(function: T) -> T:
    """Replace torch.jit.script, which is deprecated and slow at first: return the function unchanged."""
    return function


@contextlib.contextmanager
def plain_tracebacks() -> Iterator[None]:
    """Restore sys.excepthook after the block: torch's replacement prefixes tracebacks with the rank."""
    hook = sys.excepthook
    try:
        yield
    finally:
        sys.excepthook = hook


def initialize_model_parallel(original: Callable[..., bool], model_parallel_size: int, seed: int) -> bool:
    """Initialize the process group that SAT's layers need; return whether this call initialized it.

    For a single process, it needs no network port and no deepspeed, and leaves the random state unchanged. Several
    processes (started by torchrun) use SAT's own function, `original`.
    """
    from sat import mpu

    if read_integer("WORLD_SIZE", 1) > 1 or model_parallel_size > 1:
        return original(model_parallel_size=model_parallel_size, seed=seed)
    if mpu.model_parallel_is_initialized():
        return False
    if not torch.distributed.is_initialized():
        store = torch.distributed.HashStore()  # type: ignore[attr-defined]  # public, not exported
        with plain_tracebacks():
            torch.distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    mpu.initialize_model_parallel(1)
    return True


def _replace_initialization() -> None:
    import sat.arguments

    original = sat.arguments._simple_init

    def simple_init(model_parallel_size: int = 1, seed: int = 0) -> bool:
        return initialize_model_parallel(original, model_parallel_size, seed)

    sat.arguments._simple_init = simple_init


def requested_dtype(args: Namespace) -> torch.dtype:
    """Return the dtype that the `fp16` and `bf16` entries of a SAT namespace select."""
    if getattr(args, "fp16", False):
        return torch.float16
    return torch.bfloat16 if getattr(args, "bf16", False) else torch.float32


def choose_dtype_without_gpu(args: Namespace) -> torch.dtype:
    """Return the requested dtype; but for float16, which is slow on a CPU, float32, or bfloat16 for a large model."""
    wanted = requested_dtype(args)
    if wanted != torch.float16:
        return wanted
    return choose_cpu_dtype(count_parameters(vars(args)))


@functools.cache
def warn_once(text: str) -> None:
    """Issue a warning once per process."""
    warnings.warn(text, stacklevel=6)  # the line that calls `from_pretrained`


def resolve_placement(args: Namespace) -> tuple[torch.device, torch.dtype]:
    """Return the device and dtype that a SAT namespace requests, by default a GPU, and write them into `args`.

    Without a GPU, a requested GPU or float16 falls back to what the CPU supports, with a warning.
    """
    given = getattr(args, "device", None)
    has_gpu = torch.cuda.is_available()
    if given in (None, -1):
        given = torch.cuda.current_device() if has_gpu else "cpu"
    device = torch.device("cuda", given) if isinstance(given, int) else torch.device(given)
    dtype = requested_dtype(args)
    if not has_gpu:
        possible = torch.device("cpu") if device.type == "cuda" else device
        settled = choose_dtype_without_gpu(args) if possible.type == "cpu" else dtype
        if (possible, settled) != (device, dtype):
            name = str(settled).removeprefix("torch.")
            warn_once(f"There is no GPU here: the model is built on the CPU, in {name}.")
        device, dtype = possible, settled
        args.use_gpu_initialization = False
    args.device = given if device.type == "cuda" else str(device)
    args.fp16, args.bf16 = dtype == torch.float16, dtype == torch.bfloat16
    return device, dtype


def read_class_name(path: Path) -> str:
    """Return the `model_class` of the model at `path`; VisualGLMModel for the Hugging Face format, which has none."""
    if not is_sat_checkpoint(path):
        return DEFAULT_CLASS
    name = str(read_json(find_directory(path) / CONFIG_NAME).get("model_class", DEFAULT_CLASS))
    return make_printable(name)  # a warning shows it


def class_to_load(path: Path) -> type:
    """Return the network class that the configuration of the model at `path` names.

    If it is the class of a fine-tune and not imported, return VisualGLMModel, which merges LoRA when it loads.
    """
    from sat.model.registry import model_registry

    name = read_class_name(path)
    if name not in model_registry.member and DEFAULT_CLASS in model_registry.member:
        warnings.warn(
            f"{path} was saved by the class {name}, which is not imported here: it is loaded as {DEFAULT_CLASS}, "
            f"with LoRA merged. To continue its training, import {name} first.",
            stacklevel=3,
        )
        name = DEFAULT_CLASS
    return model_registry.get(name)  # type: ignore[no-any-return]


def _replace_auto_model() -> None:
    from sat.model.base_model import AutoModel, BaseModel

    original = AutoModel.from_pretrained

    def from_pretrained(
        name: str, args: Namespace | None = None, *, home_path: str | None = None, **kwargs: Any
    ) -> tuple[Any, Namespace]:
        """Load the model called `name` with the class that its configuration names, by that class's own method."""
        network: Any = class_to_load(resolve(name, home=home_path))
        loads_as_sat = network.from_pretrained_base.__func__ is BaseModel.from_pretrained_base.__func__
        load = original if loads_as_sat else network.from_pretrained
        return load(name, args, home_path=home_path, **kwargs)  # type: ignore[no-any-return]

    AutoModel.from_pretrained = staticmethod(from_pretrained)


def _redirect(module: str, name: str, replacement: Callable[..., Any]) -> None:
    """Make a function of SAT call `replacement` if its module is imported: the program may hold a reference to it."""
    original = getattr(sys.modules.get(module), name, None)
    if isinstance(original, types.FunctionType) and original is not replacement:
        original.__code__ = _call_target.__code__
        original.__defaults__, original.__kwdefaults__ = None, {"_target": replacement}


def _call_target(*args: Any, _target: Callable[..., Any], **kwargs: Any) -> Any:
    return _target(*args, **kwargs)


def _replace_downloader() -> None:
    _redirect("sat.resources.download", "auto_create", auto_create)


def _replace_quantization() -> None:
    name = "sat.quantization.kernels"  # SAT's own module needs cpm_kernels, and a GPU that this supports
    _redirect(name, "quantize", quantize)
    module = sys.modules.setdefault(name, _module(name))
    vars(module)["quantize"] = quantize
    vars(importlib.import_module("sat.quantization")).update(kernels=module, quantize=quantize)


def _import_sat() -> None:
    if "sat" in sys.modules:  # the program imported it first, and it worked
        return
    if importlib.util.find_spec("sat") is None:
        raise ModuleNotFoundError(
            "SwissArmyTransformer is not installed. Run: pip install --no-deps SwissArmyTransformer==0.4.12\n"
            "(The package called sat on PyPI is a different one.)",
            name="sat",
        )
    for name in [name for name in sys.modules if name.startswith("sat.")]:
        del sys.modules[name]  # left over from a failed import, and not reachable from a new `sat`
    with _imports_replaced(), _quiet(), _attribute_replaced(torch.jit, "script", _unscripted):
        import sat
        import sat.model.mixins
        import sat.model.official  # noqa: F401


_import_sat()
_replace_initialization()
_replace_auto_model()
_replace_downloader()
_replace_quantization()
