"""Build networks on the meta device, then allocate the parameters once, with the target device and dtype.

Ordinary construction initializes parameters randomly on the CPU, partly in float32, and then copies them to the target
device and dtype: this takes more time than loading the weights, and temporarily more memory than they need.
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
# Initializers. On meta tensors they would do nothing, but import torch's compiler, which takes seconds.
INIT_FUNCTIONS = {"normal_", "uniform_", "kaiming_normal_", "kaiming_uniform_"}


class MetaDeviceMode(TorchFunctionMode):
    """Creates the results of torch.empty on the meta device, and skips random initializers."""

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
    """Build a network on `device` in `dtype`, with uninitialized parameters that are loaded later.

    No random numbers are drawn. Tensors that the constructor computes keep their values.
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
    """Return an uninitialized parameter of the same shape on `device`, with SAT's model-parallel attributes.

    Its dtype is `dtype`; integer parameters, which are quantized weights, keep theirs.
    """
    kept = dtype if parameter.is_floating_point() else parameter.dtype
    filled = nn.Parameter(torch.empty_like(parameter, device=device, dtype=kept), parameter.requires_grad)
    vars(filled).update(vars(parameter))
    return filled


def validated_tensors(checkpoint: Checkpoint) -> Tensors:
    """Check that a checkpoint has exactly the model's tensors; return them, with rows in the split order.

    The shape of each is checked on access.

    Raises:
        CheckpointError: a tensor is missing or unknown, or as `Checkpoint.split_qkv` does.
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
    """Return the tensor called `name`; raise CheckpointError if it does not have the shape `shape`."""
    tensor = tensors[name]
    check_shape(name, tensor.shape, shape, location)
    return tensor


def expected_shapes(config: Mapping[str, Any]) -> dict[str, torch.Size]:
    """Return the shape of each tensor, by SAT name, for the entries of a SAT model_config.json."""
    from ..hf.configuration_chatglm import ChatGLMConfig
    from ..hf.modeling_chatglm import ChatGLMForConditionalGenerationWithImage

    with MetaDeviceMode():
        network = ChatGLMForConditionalGenerationWithImage(ChatGLMConfig(**to_hf_config(config, 0, torch.float16)))
    names = {name: to_sat_name(name) for name, _ in network.named_parameters()}
    return {names[name] or name: parameter.shape for name, parameter in network.named_parameters()}
