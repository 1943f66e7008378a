"""NF4: weights rounded to 16 levels of a normal distribution, with one scale for every 64 of a row.

QLoRA trains beside weights rounded so, and a fine-tune of it is put over the same rounded weights again.
Paper: https://arxiv.org/abs/2305.14314, whose appendix E gives the levels.
"""

from collections.abc import Mapping
from functools import partial

import torch

from ..quantization.kernels import dequantize
from ..quantization.quantize import EMBEDDING_BITS
from ..quantization.quantized import EMBEDDINGS
from ..quantization.rounding import round_weight as round_to_bits
from .lazy import LazyTensors, Tensors, makers_of

LEVELS = (
    -1.0,
    -0.6961928009986877,
    -0.5250730514526367,
    -0.39491748809814453,
    -0.28444138169288635,
    -0.18477343022823334,
    -0.09105003625154495,
    0.0,
    0.07958029955625534,
    0.16093020141124725,
    0.24611230194568634,
    0.33791524171829224,
    0.44070982933044434,
    0.5626170039176941,
    0.7229568362236023,
    1.0,
)
BLOCK = 64
# The matrices of a language model's layer that QLoRA rounds, as SAT's LoraMixin does.
MATRICES = ("attention.query_key_value", "attention.dense", "mlp.dense_h_to_4h", "mlp.dense_4h_to_h")


def is_rounded(name: str) -> bool:
    """Whether QLoRA rounds the tensor of this name, be it wrapped by LoRA or not."""
    plain = name.replace(".original.", ".")
    return plain.startswith("transformer.layers.") and plain.endswith(tuple(f"{matrix}.weight" for matrix in MATRICES))


def pack(weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Round a weight [O, I].

    Returns:
        The numbers of the levels, uint8 [O * I / 2, 1], two a byte and the first in the high half; and the scales,
        float32 [blocks], of blocks of 64 in the order of the rows, of which the last may be shorter.
    """
    flat = weight.detach().float().flatten()
    blocks = torch.nn.functional.pad(flat, (0, -len(flat) % BLOCK)).view(-1, BLOCK)
    scales = blocks.abs().amax(1)
    levels = torch.tensor(LEVELS, device=flat.device)
    scaled = blocks / scales.clamp(min=torch.finfo(torch.float32).tiny)[:, None]
    numbers = torch.bucketize(scaled, (levels[1:] + levels[:-1]) / 2).to(torch.uint8)
    numbers = torch.nn.functional.pad(numbers.flatten()[: len(flat)], (0, len(flat) % 2)).view(-1, 2)
    return numbers[:, :1] << 4 | numbers[:, 1:], scales


def unpack(packed: torch.Tensor, scales: torch.Tensor, shape: torch.Size) -> torch.Tensor:
    """Return the float32 weight [O, I] of what `pack` made."""
    numbers = torch.cat((packed >> 4, packed & 15), dim=1).flatten()[: shape.numel()]
    levels = torch.tensor(LEVELS, device=packed.device)[numbers.int()]
    return (levels * scales.repeat_interleave(BLOCK)[: shape.numel()]).view(shape)


def round_weight(weight: torch.Tensor) -> torch.Tensor:
    """Return a weight [O, I] as it is after rounding, in its own dtype."""
    return unpack(*pack(weight), weight.shape).to(weight.dtype)


def round_tensors(tensors: Tensors, *, embeddings: bool) -> Tensors:
    """Return a model's tensors with those that QLoRA rounds as they are after rounding, each when it is read.

    Their rows are in the split order: rounding sees blocks that may reach over the ends of rows.

    Args:
        embeddings: whether those of the tokens were rounded, too, to 8 bits.
    """
    makers = makers_of(tensors)
    makers.update((name, partial(round_one, tensors, name)) for name in filter(is_rounded, tensors))
    if embeddings:
        makers[EMBEDDINGS] = partial(round_embeddings, tensors)
    return LazyTensors(makers)


def round_one(tensors: Mapping[str, torch.Tensor], name: str) -> torch.Tensor:
    """Return one of `tensors` as it is after rounding."""
    return round_weight(tensors[name])


def round_embeddings(tensors: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """Return the tokens' embeddings as they are after rounding to 8 bits."""
    weight = tensors[EMBEDDINGS]
    return dequantize(*round_to_bits(weight, EMBEDDING_BITS), EMBEDDING_BITS, weight.dtype)
