"""Attribute an answer to its image: which patches each token relies on, and how much. An export copies this file.

Gradients propose patches, and covering them decides:

1. The relevance of each patch: the QFormer's cross-attention times its gradient, clamped at 0 and summed over layers,
   heads and queries, times the absolute gradient of the patch's pixels; both are smoothed. The gradients are those of
   the answer's log-probability, in which each token is weighted by its reliance: how much less likely it is without the
   image's content.
2. The peaks of the relevance are covered, one at a time, with the image's mean color. How much less likely the answer
   becomes is the weight of the surroundings of the peak. If no square matters, larger ones are tried: a part of a large
   thing may be enough for the answer.

Attention times gradient follows Chefer et al., https://arxiv.org/abs/2103.15679.
"""

import math
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

SMOOTHING = 3  # side of the mean filter, in patches
RADIUS_FRACTIONS = (1 / 8, 3 / 16)  # radii of covered squares, as fractions of the grid's side
FALLOFF = 0.8  # standard deviation of a peak's weight, as a fraction of the radius
ENOUGH_DROP = 0.7  # of the answer's log-probability, in nats, for a square that matters: half the probability
# Covered peaks: one for so many tokens of the answer, because a description names several things; and their limits.
TOKENS_PER_PEAK, MIN_PEAKS, MAX_PEAKS = 4, 3, 8
BATCH = 4  # covered images at a time
# Gradients in float16 are computed from a larger value, because small ones would underflow.
GRADIENT_SCALE = 1024.0

Encode = Callable[[torch.Tensor], torch.Tensor]
Score = Callable[[torch.Tensor], torch.Tensor]


@dataclass(frozen=True)
class Attribution:
    """The parts of an image that an answer of T tokens relies on.

    Attributes:
        map: float32 [R, C]: for each patch, how much less likely the answer is without its surroundings, in nats,
            times its relevance between 0 and 1.
        token_maps: float32 [T, R, C], the same for each token; 0 if no covered square halves the token's probability.
        logprobs: float32 [T], the log-probability of each token.
        reliance: float32 [T]: how much less likely each token is without the content of the image, in nats.
        has_place: whether covering a part of the image makes the answer at most half as likely.
    """

    map: torch.Tensor
    token_maps: torch.Tensor
    logprobs: torch.Tensor
    reliance: torch.Tensor
    has_place: bool


class CrossAttentionRecord:
    """The tensors of one cross-attention layer in a forward pass of one image.

    Args:
        layer: has the modules `query`, `key_value` and `dense`.

    Attributes:
        tensors: by module: the queries [1, L, D], the keys and values [1, 1 + N, 2 D], and the context [1, L, D], the
            input of `dense`.
    """

    def __init__(self, layer: Any) -> None:
        self.heads = count_heads(layer)
        self.tensors: dict[str, torch.Tensor] = {}
        self.thread = threading.get_ident()  # other threads may encode images meanwhile
        self.handles = [
            layer.query.register_forward_hook(lambda _, inputs, output: self._keep("query", output)),
            layer.key_value.register_forward_hook(lambda _, inputs, output: self._keep("key_value", output)),
            layer.dense.register_forward_pre_hook(lambda _, inputs: self._keep("context", inputs[0])),
        ]

    def _keep(self, name: str, tensor: torch.Tensor) -> None:
        if threading.get_ident() == self.thread:
            self.tensors[name] = tensor

    def close(self) -> None:
        """Remove the hooks; the tensors stay."""
        for handle in self.handles:
            handle.remove()

    def relevance(self, gradient: torch.Tensor) -> torch.Tensor:
        """Return the attention times its gradient, clamped at 0 and summed over heads and queries: float32 [N].

        Args:
            gradient: of the context.
        """
        [query] = split_heads(self.tensors["query"].detach().float(), 1, self.heads)
        key, value = split_heads(self.tensors["key_value"].detach().float(), 2, self.heads)
        [by_head] = split_heads(gradient.float(), 1, self.heads)
        attention = torch.softmax(query @ key.transpose(-1, -2) / math.sqrt(query.shape[-1]), dim=-1)
        products: torch.Tensor = attention * (by_head @ value.transpose(-1, -2))
        by_patch: torch.Tensor = products.clamp(min=0).sum((0, 1, 2))
        return by_patch[1:]  # without the class token


def count_heads(layer: Any) -> int:
    """Return the number of heads of an attention layer of either network."""
    heads: int = layer.heads if hasattr(layer, "heads") else layer.num_attention_heads_per_partition
    return heads


def split_heads(x: torch.Tensor, parts: int, heads: int) -> torch.Tensor:
    """Split x [B, T, parts * D] into parts and heads: [parts, B, H, T, D / H]."""
    return x.view(*x.shape[:2], parts, heads, -1).permute(2, 0, 3, 1, 4)


@contextmanager
def record_cross_attention(layers: Sequence[nn.Module]) -> Iterator[list[CrossAttentionRecord]]:
    """Context manager: record the tensors of cross-attention layers in the forward passes of this thread."""
    records = [CrossAttentionRecord(layer) for layer in layers]
    try:
        yield records
    finally:
        for record in records:
            record.close()


def attribute(encode: Encode, score: Score, layers: Sequence[nn.Module], pixels: torch.Tensor) -> Attribution:
    """Attribute an answer to the patches of its image.

    Args:
        encode: returns the image embeddings [B, L, D] of pixels [B, 3, S, S].
        score: returns the log-probabilities [B, T] of the answer's tokens for image embeddings.
        layers: the QFormer's cross-attention layers, which `encode` runs.
        pixels: [1, 3, S, S].
    """
    pixels = pixels.detach().clone()
    blank = pixels.mean((2, 3), keepdim=True).expand_as(pixels)
    with torch.no_grad():
        without = score(encode(blank))[0].float()
    with torch.enable_grad(), record_cross_attention(layers) as records:
        logprobs = score(encode(pixels.requires_grad_()))[0].float()
        reliance = logprobs.detach() - without
        relevance = find_relevance(logprobs, reliance.clamp(min=0), pixels, records)
    radii = [max(1, round(len(relevance) * fraction)) for fraction in RADIUS_FRACTIONS]
    peaks = find_peaks(relevance, radii[0], min(max(len(logprobs) // TOKENS_PER_PEAK, MIN_PEAKS), MAX_PEAKS))
    for radius in radii:
        with torch.no_grad():
            covered = torch.cat([cover(pixels.detach(), len(relevance), peak, radius) for peak in peaks])
            scores = torch.cat([score(encode(batch)).float() for batch in covered.split(BATCH)])
            drops = logprobs.detach() - scores
        has_place = bool(drops.sum(1).max() >= ENOUGH_DROP)
        if has_place:
            break
    weigh = partial(weight_peaks, relevance, peaks, radius)
    token_maps = torch.stack([weigh(drop * (drop.max() >= ENOUGH_DROP)) for drop in drops.T])
    return Attribution(weigh(drops.sum(1)), token_maps, logprobs.detach(), reliance, has_place)


def find_relevance(
    logprobs: torch.Tensor, weights: torch.Tensor, pixels: torch.Tensor, records: Sequence[CrossAttentionRecord]
) -> torch.Tensor:
    """Return the relevance of each patch, float32 [R, C] with a maximum of 1.

    Args:
        logprobs: of the answer's tokens, [T], with a graph back to `pixels` [1, 3, S, S] and the records' tensors.
        weights: of the tokens, [T].
    """
    weights = weights if weights.any() else torch.ones_like(weights)
    scale = GRADIENT_SCALE if pixels.dtype == torch.float16 else 1.0
    contexts = [record.tensors["context"] for record in records]
    gradients = torch.autograd.grad(scale * (weights * logprobs).sum(), [pixels, *contexts])
    by_layer = [record.relevance(gradient) for record, gradient in zip(records, gradients[1:], strict=True)]
    attended = torch.stack(by_layer).sum(0)
    side = math.isqrt(len(attended))
    changed = F.adaptive_avg_pool2d(gradients[0].float().abs().sum(1), side)[0]
    relevance = smooth(attended.view(side, side)) * smooth(changed)
    return relevance / relevance.max().clamp(min=torch.finfo(torch.float32).tiny)


def smooth(grid: torch.Tensor) -> torch.Tensor:
    """Average each cell of a grid [R, C] with its neighbors."""
    padded = F.pad(grid[None, None], (SMOOTHING // 2,) * 4, mode="replicate")
    return F.avg_pool2d(padded, SMOOTHING, stride=1)[0, 0]


def find_peaks(grid: torch.Tensor, distance: int, count: int) -> list[tuple[int, int]]:
    """Return the (row, column) of up to `count` maxima of a grid, more than `distance` apart, largest first."""
    rest, peaks = grid.clone(), list[tuple[int, int]]()
    while len(peaks) < count and (rest >= 0).any():
        row, column = divmod(int(rest.argmax()), grid.shape[1])
        peaks.append((row, column))
        rest[around(row, distance), around(column, distance)] = -1
    return peaks


def around(index: int, radius: int) -> slice:
    """Return the slice of the indices at most `radius` away."""
    return slice(max(0, index - radius), index + radius + 1)


def cover(pixels: torch.Tensor, side: int, peak: tuple[int, int], radius: int) -> torch.Tensor:
    """Return pixels [1, 3, S, S] whose square around a patch has the image's mean color.

    Args:
        side: number of patches in each row and column.
        peak: row and column of the patch.
        radius: of the square, in patches.
    """
    size = pixels.shape[-1] / side
    rows, columns = (around(index, radius) for index in peak)
    covered = pixels.clone()
    square = [slice(round(part.start * size), round(part.stop * size)) for part in (rows, columns)]
    covered[:, :, square[0], square[1]] = pixels.mean((2, 3), keepdim=True)
    return covered


def weight_peaks(
    relevance: torch.Tensor, peaks: Sequence[tuple[int, int]], radius: int, drops: torch.Tensor
) -> torch.Tensor:
    """Return a map [R, C]: at each peak its drop, and near it the drop times the square root of relative relevance."""
    rows, columns = (torch.arange(size, device=relevance.device) for size in relevance.shape)
    height = relevance.sqrt()
    weights = torch.zeros_like(relevance)
    for (row, column), drop in zip(peaks, drops.clamp(min=0).tolist(), strict=True):
        squared = (rows[:, None] - row) ** 2 + (columns - column) ** 2
        share = drop / height[row, column].clamp(min=torch.finfo(height.dtype).tiny)
        weights = torch.maximum(weights, share * torch.exp(-squared / (2 * (FALLOFF * radius) ** 2)))
    return height * weights
