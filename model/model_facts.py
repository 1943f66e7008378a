"""Facts about a loaded model that programs show: number of parameters, device, dtype, quantization."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import nn

from .kernels.torch_ops import QuantizedLinear
from .quantization.nf4 import Nf4Linear

NF4_BITS = 4


@dataclass(frozen=True)
class ModelFacts:
    """Size and placement of a model. Unknown values are None.

    Attributes:
        parameters: number of parameters.
        device: "cpu", or the name of the GPU.
        dtype: of the weights that are not quantized, such as "float16".
        quantized_bits: bits of the quantized weights; None also if no weight is quantized.
    """

    parameters: int | None = None
    device: str | None = None
    dtype: str | None = None
    quantized_bits: int | None = None


def collect_facts(network: object, device: torch.device, dtype: torch.dtype) -> ModelFacts:
    """Return the facts about a network; the number of parameters and the bits of modules only."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    dtype_name = str(dtype).removeprefix("torch.")
    if not isinstance(network, nn.Module):
        return ModelFacts(None, name, dtype_name)
    bits = {module.bits if isinstance(module, QuantizedLinear) else NF4_BITS for module, _ in low_bit_layers(network)}
    return ModelFacts(count_parameters(network), name, dtype_name, min(bits, default=None))


def count_parameters(network: nn.Module) -> int:
    """Return the number of parameters; shared ones count once, and low-bit weights as if they were not packed."""
    packed = dict(low_bit_layers(network))
    counts = {id(module): weights for module, weights in packed.items()}
    for module in network.modules():
        own = [module.bias] if module in packed else module.parameters(recurse=False)
        counts.update((id(weight), weight.numel()) for weight in own if isinstance(weight, torch.Tensor))
    return sum(counts.values())


def low_bit_layers(network: nn.Module) -> Iterator[tuple[QuantizedLinear | Nf4Linear, int]]:
    """Yield the quantized layers, each with the number of its weights."""
    for module in network.modules():
        if isinstance(module, QuantizedLinear):
            yield module, module.in_features * module.out_features
        elif isinstance(module, Nf4Linear):
            yield module, module.shape.numel()
