"""SwissArmyTransformer (SAT) 0.4.12 on today's stack. Import this before `sat` where you can.

SAT imports at start what only its training, its GPT-2, its Triton kernels or its downloader need, some of it
undeclared. Here those imports are put off until they are used, so that inference needs none of deepspeed,
wandb, requests, triton, bitsandbytes or transformers, and `import sat` costs little more than `import torch`.
What the program itself has already imported is left as it is, so training with deepspeed sees deepspeed. Where it has
imported SAT itself, with the packages that this needs, the functions that are replaced here call ours from then on.

Source of the behaviour replaced: https://github.com/THUDM/SwissArmyTransformer, release 0.4.12.
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

# Optional packages that SAT tries to import and can do without; each costs up to seconds.
HIDDEN = ("deepspeed", "wandb", "bitsandbytes", "xformers", "apex")
LEVEL_VARIABLES = ("LOGLEVEL", "SAT_LOGLEVEL")  # the first wins
OWN_CLASS = "VisualGLMModel"


class Deferred:
    """A function, a class, or a mapping of functions, of a module that is imported at its first use."""

    def __init__(self, load: Callable[[], Any]) -> None:
        self.load = load

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.load()(*args, **kwargs)

    def __getitem__(self, key: Any) -> "Deferred":
        return Deferred(lambda: self.load()[key])


def auto_create(name: str, *, path: str | None = None, url: str | None = None) -> str:
    """Find the model called `name`, as SAT's downloader would, by our own rules; return its directory."""
    return str(resolve(name, home=path))


def _module(name: str, **attributes: Any) -> types.ModuleType:
    module = types.ModuleType(name)
    vars(module).update(attributes)
    return module


def _deferred(module: str, name: str) -> types.ModuleType:
    return _module(module, **{name: Deferred(lambda: getattr(importlib.import_module(module), name))})


def _stand_ins() -> dict[str, types.ModuleType | None]:
    """The modules to be seen in place of the real ones while SAT is imported; None means 'not installed'."""
    stand_ins: dict[str, types.ModuleType | None] = {
        "sat.resources": _module("sat.resources", auto_create=auto_create),
        "sat.training.deepspeed_training": _deferred("sat.training.deepspeed_training", "training_main"),
        "sat.model.position_embedding.triton_rotary_embeddings": _deferred(
            "sat.model.position_embedding.triton_rotary_embeddings", "FastRotaryEmbedding"
        ),
        "transformers": _module("transformers"),
        "transformers.activations": _deferred("transformers.activations", "ACT2FN"),
    }
    stand_ins.update(dict.fromkeys(HIDDEN))
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
    """SAT logs its progress at INFO from its first import on; a caller's SAT_LOGLEVEL and LOGLEVEL are respected."""
    before = {name: os.environ.pop(name) for name in LEVEL_VARIABLES if name in os.environ}
    levels = [level for name in LEVEL_VARIABLES if (level := _read_level(name, before))]
    os.environ["SAT_LOGLEVEL"] = (levels or ["WARNING"])[0]
    try:
        yield
    finally:
        del os.environ["SAT_LOGLEVEL"]
        os.environ.update(before)


def _read_level(name: str, environment: Mapping[str, str]) -> str | None:
    """Return the logging level that a variable names, as SAT needs it; None, with a warning, for an unknown one."""
    given = read_variable(name, environment)
    if given is None or given.strip().upper() in logging.getLevelNamesMapping():
        return given and given.strip().upper()
    warnings.warn(f"The environment variable {name} is {given!r}, no level of logging; it is ignored.", stacklevel=2)
    return None


def _unscripted(function: T) -> T:
    """Stand in for torch.jit.script, which torch deprecates and whose first calls are slow."""
    return function


@contextlib.contextmanager
def plain_tracebacks() -> Iterator[None]:
    """Keep torch from prefixing the tracebacks of a single process with its rank: it replaces sys.excepthook."""
    hook = sys.excepthook
    try:
        yield
    finally:
        sys.excepthook = hook


def initialize_model_parallel(original: Callable[..., bool], model_parallel_size: int, seed: int) -> bool:
    """Give SAT the process group that its layers ask for; return whether one was made.

    A single process needs no network port, no deepspeed, and its random state left alone. Several processes
    (started by torchrun) go SAT's own way, `original`.
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


def wanted_dtype(args: Namespace) -> torch.dtype:
    """Return the dtype that a SAT namespace asks for."""
    if getattr(args, "fp16", False):
        return torch.float16
    return torch.bfloat16 if getattr(args, "bf16", False) else torch.float32


def dtype_without_gpu(args: Namespace) -> torch.dtype:
    """Return float32 in place of float16, which a CPU is slow in; bfloat16 where that would take too much memory."""
    wanted = wanted_dtype(args)
    if wanted != torch.float16:
        return wanted
    return choose_cpu_dtype(count_parameters(vars(args)))


@functools.cache
def warn_once(text: str) -> None:
    """Warn of something that is true of the whole program."""
    warnings.warn(text, stacklevel=6)  # the line that calls `from_pretrained`


def settle_placement(args: Namespace) -> tuple[torch.device, torch.dtype]:
    """Return the device and dtype that a SAT namespace asks for, a GPU by default, and write them into `args`.

    Without a GPU they are what a CPU can do, and a warning says what was asked for in vain.
    """
    given = getattr(args, "device", None)
    has_gpu = torch.cuda.is_available()
    if given in (None, -1):
        given = torch.cuda.current_device() if has_gpu else "cpu"
    device = torch.device("cuda", given) if isinstance(given, int) else torch.device(given)
    dtype = wanted_dtype(args)
    if not has_gpu:
        possible = torch.device("cpu") if device.type == "cuda" else device
        settled = dtype_without_gpu(args) if possible.type == "cpu" else dtype
        if (possible, settled) != (device, dtype):
            name = str(settled).removeprefix("torch.")
            warn_once(f"There is no GPU here: the model is built on the CPU, in {name}.")
        device, dtype = possible, settled
        args.use_gpu_initialization = False
    args.device = given if device.type == "cuda" else str(device)
    args.fp16, args.bf16 = dtype == torch.float16, dtype == torch.bfloat16
    return device, dtype


def named_class(path: Path) -> str:
    """Return the name of the class that the model at `path` asks for; the Hugging Face format names none of SAT's."""
    if not is_sat_checkpoint(path):
        return OWN_CLASS
    name = str(read_json(find_directory(path) / CONFIG_NAME).get("model_class", OWN_CLASS))
    return make_printable(name)  # a warning shows it


def class_to_load(path: Path) -> type:
    """Return the network for the model at `path`, by the class its configuration names.

    A fine-tune's class that the program has not imported gives way to VisualGLMModel, which merges LoRA as it loads.
    """
    from sat.model.registry import model_registry

    name = named_class(path)
    if name not in model_registry.member and OWN_CLASS in model_registry.member:
        warnings.warn(
            f"{path} was saved by the class {name}, which is not imported here: it is loaded as {OWN_CLASS}, "
            f"with LoRA merged. To train it on, import {name} first.",
            stacklevel=3,
        )
        name = OWN_CLASS
    return model_registry.get(name)  # type: ignore[no-any-return]


def _replace_auto_model() -> None:
    from sat.model.base_model import AutoModel, BaseModel

    original = AutoModel.from_pretrained

    def from_pretrained(
        name: str, args: Namespace | None = None, *, home_path: str | None = None, **kwargs: Any
    ) -> tuple[Any, Namespace]:
        """Load the model called `name` as the class that its configuration names, each class in its own way."""
        network: Any = class_to_load(resolve(name, home=home_path))
        loads_as_sat = network.from_pretrained_base.__func__ is BaseModel.from_pretrained_base.__func__
        load = original if loads_as_sat else network.from_pretrained
        return load(name, args, home_path=home_path, **kwargs)  # type: ignore[no-any-return]

    AutoModel.from_pretrained = staticmethod(from_pretrained)


def _redirect(module: str, name: str, replacement: Callable[..., Any]) -> None:
    """Make a function of SAT call `replacement`, if its module is imported: the program may hold it by its name."""
    original = getattr(sys.modules.get(module), name, None)
    if isinstance(original, types.FunctionType) and original is not replacement:
        original.__code__ = _call_target.__code__
        original.__defaults__, original.__kwdefaults__ = None, {"_target": replacement}


def _call_target(*args: Any, _target: Callable[..., Any], **kwargs: Any) -> Any:
    return _target(*args, **kwargs)


def _replace_downloader() -> None:
    _redirect("sat.resources.download", "auto_create", auto_create)


def _replace_quantization() -> None:
    name = "sat.quantization.kernels"  # SAT's own needs cpm_kernels, and a GPU that it knows
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
            "(The package called sat is another one.)",
            name="sat",
        )
    for name in [name for name in sys.modules if name.startswith("sat.")]:
        del sys.modules[name]  # left by an import that failed, and no longer reachable from a new `sat`
    with _imports_replaced(), _quiet(), _attribute_replaced(torch.jit, "script", _unscripted):
        import sat
        import sat.model.mixins
        import sat.model.official  # noqa: F401


_import_sat()
_replace_initialization()
_replace_auto_model()
_replace_downloader()
_replace_quantization()
