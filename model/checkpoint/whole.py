"""Whether tensors are those of a whole model, asked before they are written as one."""

from collections.abc import Mapping
from functools import partial
from typing import Any

import torch

from ..errors import CheckpointError
from .lazy import LazyTensors, Tensors
from .load import Checkpoint, check_shape, describe_mismatch
from .memory import WithoutData
from .names import is_loaded, to_sat_name
from .save import to_hf_config


def whole_tensors(checkpoint: Checkpoint) -> Tensors:
    """Return the tensors of a model, rows in the split order; the shape of each is checked when it is read.

    Raises:
        CheckpointError: one is missing or unknown, or as `Checkpoint.split` does.
    """
    checkpoint.check_room()
    shapes = expected_shapes(checkpoint.config)
    stored = {name for name in checkpoint.stored if is_loaded(name)}
    if stored != shapes.keys():
        missing, unknown = sorted(shapes.keys() - stored), sorted(stored - shapes.keys())
        raise CheckpointError(describe_mismatch(checkpoint, missing, unknown))
    tensors = checkpoint.split()
    return LazyTensors(
        {
            name: partial(read_checked, tensors, name, shapes[name], checkpoint.path)
            for name in tensors
            if name in stored
        }
    )


def read_checked(tensors: Tensors, name: str, shape: torch.Size, place: object) -> torch.Tensor:
    """Return one of `tensors` if it has the shape `shape`."""
    tensor = tensors[name]
    check_shape(name, tensor.shape, shape, place)
    return tensor


def expected_shapes(config: Mapping[str, Any]) -> dict[str, torch.Size]:
    """Return the shape of each tensor, by SAT name, of the model that a SAT model_config.json describes."""
    from ..hf.configuration_chatglm import ChatGLMConfig
    from ..hf.modeling_chatglm import ChatGLMForConditionalGenerationWithImage

    with WithoutData():
        network = ChatGLMForConditionalGenerationWithImage(ChatGLMConfig(**to_hf_config(config, 0, torch.float16)))
    names = {name: to_sat_name(name) for name, _ in network.named_parameters()}
    return {names[name] or name: parameter.shape for name, parameter in network.named_parameters()}
