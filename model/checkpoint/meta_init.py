"""Build a network whose weights take no memory yet, then allocate it once, on the wanted device and in its dtype.

A network built the ordinary way is drawn at random on the CPU, part of it in float32, and then copied to its device
and dtype: that takes the time, and for a while the memory, of more than the weights that are loaded over it.
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, TypeVar

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from ..errors import CheckpointError
from ..tensors import LazyTensors, Tensors
from .layout import is_loaded, to_sat_name
from .load import Checkpoint, check_shape, describe_mismatch
from .save import to_hf_config

M = TypeVar("M", bound=nn.Module)
# What draws weights. Where there is no data it would do nothing, after seconds of importing torch's compiler.
INIT_FUNCTIONS = {"normal_", "uniform_", "kaiming_normal_", "kaiming_uniform_"}


class MetaDeviceMode(TorchFunctionMode):
    """Makes tensors that are to be filled later without data, and draws nothing."""

    def __torch_function__(
        self, function: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        given = kwargs or {}
        if function is torch.empty:
            return function(*args, **{**given, "device": "meta"})
        if getattr(function, "__name__", None) in INIT_FUNCTIONS:
            return given["tensor"] if "tensor" in given else args[0]
        return function(*args, **given)


def build_uninitialized(build: Callable[[], M], device: torch.device, dtype: torch.dtype) -> M:
    """Return the network that `build` builds, on `device` and in `dtype`, its parameters still to be loaded.

    No random number is drawn. What the network computes while it is built, it has.
    """
    with MetaDeviceMode():
        network = build()
    for module in network.modules():
        for name, parameter in module.named_parameters(recurse=False):
            if parameter.is_meta:
                module.register_parameter(name, materialize(parameter, device, dtype))
    network.to(device, dtype)
    return network


def materialize(parameter: nn.Parameter, device: torch.device, dtype: torch.dtype) -> nn.Parameter:
    """Return a parameter like this one with memory, not yet filled, and with SAT's marks for model parallelism.

    Integers, the weights of few bits, stay what they are.
    """
    kept = dtype if parameter.is_floating_point() else parameter.dtype
    filled = nn.Parameter(torch.empty_like(parameter, device=device, dtype=kept), parameter.requires_grad)
    vars(filled).update(vars(parameter))
    return filled


def validated_tensors(checkpoint: Checkpoint) -> Tensors:
    """Return the tensors of a model, rows in the split order; the shape of each is checked when it is read.

    Raises:
        CheckpointError: one is missing or unknown, or as `Checkpoint.split_qkv` does.
    """
    checkpoint.check_file_sizes()
    shapes = expected_shapes(checkpoint.config)
    stored = {name for name in checkpoint.stored_tensors if is_loaded(name)}
    if stored != shapes.keys():
        missing, unknown = sorted(shapes.keys() - stored), sorted(stored - shapes.keys())
        raise CheckpointError(describe_mismatch(checkpoint, missing, unknown))
    tensors = checkpoint.split_qkv()
    return LazyTensors(
        {
            name: partial(read_validated, tensors, name, shapes[name], checkpoint.path)
            for name in tensors
            if name in stored
        }
    )


def read_validated(tensors: Tensors, name: str, shape: torch.Size, location: object) -> torch.Tensor:
    """Return one of `tensors` if it has the shape `shape`."""
    tensor = tensors[name]
    check_shape(name, tensor.shape, shape, location)
    return tensor


def expected_shapes(config: Mapping[str, Any]) -> dict[str, torch.Size]:
    """Return the shape of each tensor, by SAT name, of the model that a SAT model_config.json describes."""
    from ..hf.configuration_chatglm import ChatGLMConfig
    from ..hf.modeling_chatglm import ChatGLMForConditionalGenerationWithImage

    with MetaDeviceMode():
        network = ChatGLMForConditionalGenerationWithImage(ChatGLMConfig(**to_hf_config(config, 0, torch.float16)))
    names = {name: to_sat_name(name) for name, _ in network.named_parameters()}
    return {names[name] or name: parameter.shape for name, parameter in network.named_parameters()}
