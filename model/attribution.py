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
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F

SMOOTHING = 3  # side of the mean filter, in patches
RADIUS_FRACTIONS = (1 / 8, 3 / 16)  # radii of covered squares, as fractions of the grid's side
FALLOFF = 0.8  # standard deviation of a peak's weight, as a fraction of the radius
ENOUGH_DROP = 0.7  # of the answer's log-probability, in nats, for a square that matters: half the probability
# Covered peaks: one for so many tokens of the answer, because a description names several things; and their limits.
TOKENS_PER_PEAK, MIN_PEAKS, MAX_PEAKS = 4, 3, 8
# Gradients in float16 are computed from a larger value, because small ones would underflow.
GRADIENT_SCALE = 1024.0


@dataclass(frozen=True)
class Attribution:
    """The parts of an image that an answer of T tokens relies on.

    Attributes:
        map: float32 [R, C]: for each patch, how much less likely the answer is without its surroundings, in nats,
            times its relevance between 0 and 1; 0 if no covered square halves the answer's probability.
        token_maps: float32 [T, R, C], the same for each token; 0 if no covered square halves the token's probability.
        logprobs: float32 [T], the log-probability of each token.
        reliance: float32 [T]: how much less likely each token is without the content of the image, in nats.
    """

    map: torch.Tensor
    token_maps: torch.Tensor
    logprobs: torch.Tensor
    reliance: torch.Tensor


class CrossAttentionRecord(NamedTuple):
    """The tensors of one cross-attention layer in a forward pass of one image; L and 1 + N may be dimensions 0 or 1.

    Attributes:
        heads: H, number of heads.
        query: [L, D], before the split into heads.
        key_value: [1 + N, 2 D], first the keys, then the values; the first row is that of the class token.
        context: [L, D], the input of the output projection.
    """

    heads: int
    query: torch.Tensor
    key_value: torch.Tensor
    context: torch.Tensor

    def relevance(self, gradient: torch.Tensor) -> torch.Tensor:
        """Return the attention times its gradient, clamped at 0 and summed over heads and queries: float32 [N].

        Args:
            gradient: of the context.
        """
        [query], [by_head] = self._split(self.query, 1), self._split(gradient, 1)
        key, value = self._split(self.key_value, 2)
        attention = torch.softmax(query @ key.transpose(-1, -2) / math.sqrt(query.shape[-1]), dim=-1)
        products: torch.Tensor = attention * (by_head @ value.transpose(-1, -2))
        by_patch: torch.Tensor = products.clamp(min=0).sum((0, 1, 2))
        return by_patch[1:]  # without the class token

    def _split(self, x: torch.Tensor, parts: int) -> torch.Tensor:
        return split_heads(x.detach().float().view(1, -1, x.shape[-1]), parts, self.heads)


Records = list[CrossAttentionRecord]


# Returns the image embeddings [B, L, D] of pixels [B, 3, S, S]. Given a list, it appends a record of each of the
# QFormer's cross-attention layers; then B must be 1.
Encode = Callable[..., torch.Tensor]
# Returns the log-probabilities [B, T] of an answer's tokens for image embeddings [B, L, D].
ScoreEmbeddings = Callable[[torch.Tensor], torch.Tensor]


def count_heads(layer: Any) -> int:
    """Return the number of heads of an attention layer of either network."""
    heads: int = layer.heads if hasattr(layer, "heads") else layer.num_attention_heads_per_partition
    return heads


def split_heads(x: torch.Tensor, parts: int, heads: int) -> torch.Tensor:
    """Split x [B, T, parts * D] into parts and heads: [parts, B, H, T, D / H]."""
    return x.view(*x.shape[:2], parts, heads, -1).permute(2, 0, 3, 1, 4)


class Relevance(NamedTuple):
    """The relevance of each patch, float32 [R, C] with a maximum of 1, and two attributes of an `Attribution`."""

    relevance: torch.Tensor
    logprobs: torch.Tensor
    reliance: torch.Tensor


class Scorer:
    """One answer as a function of its image."""

    def __init__(self, encode: Encode, score_embeddings: ScoreEmbeddings) -> None:
        self.encode = encode
        self.score_embeddings = score_embeddings

    def score(self, pixels: torch.Tensor) -> torch.Tensor:
        """Return the log-probabilities of the answer's tokens, float32 [B, T], for pixels [B, 3, S, S]."""
        with torch.no_grad():
            return self.score_embeddings(self.encode(pixels)).float()

    def find_relevance(self, pixels: torch.Tensor) -> Relevance:
        """Return the relevance of the patches of pixels [1, 3, S, S]."""
        pixels = pixels.detach().clone()
        without = self.score(pixels.mean((2, 3), keepdim=True).expand_as(pixels))[0]
        records: Records = []
        with torch.enable_grad():
            embeddings = self.encode(pixels.requires_grad_(), records)
            logprobs = self.score_embeddings(embeddings)[0].float()
            reliance = logprobs.detach() - without
            weights = reliance.clamp(min=0)
            weights = weights.where(weights.any(), 1.0)
            scale = GRADIENT_SCALE if pixels.dtype == torch.float16 else 1.0
            contexts = [record.context for record in records]
            changed, *gradients = torch.autograd.grad(scale * (weights * logprobs).sum(), [pixels, *contexts])
        by_layer = [record.relevance(gradient) for record, gradient in zip(records, gradients, strict=True)]
        attended = torch.stack(by_layer).sum(0)
        side = math.isqrt(len(attended))
        by_patch = F.adaptive_avg_pool2d(changed.float().abs().sum(1), side)[0]
        relevance = smooth(attended.view(side, side)) * smooth(by_patch)
        scaled = relevance / relevance.max().clamp(min=torch.finfo(torch.float32).tiny)
        return Relevance(scaled, logprobs.detach(), reliance)


def attribute(scorer: Scorer, pixels: torch.Tensor) -> Attribution:
    """Attribute an answer to the patches of its image.

    Args:
        scorer: of the answer.
        pixels: [1, 3, S, S], on the device of the network and in its dtype.

    Returns:
        The attribution, on the CPU.
    """
    relevance, logprobs, reliance = (tensor.cpu() for tensor in scorer.find_relevance(pixels))
    radii = [max(1, round(len(relevance) * fraction)) for fraction in RADIUS_FRACTIONS]
    peaks = find_peaks(relevance, radii[0], min(max(len(logprobs) // TOKENS_PER_PEAK, MIN_PEAKS), MAX_PEAKS))
    for radius in radii:
        covered = torch.cat([cover(pixels, len(relevance), peak, radius) for peak in peaks])
        drops = logprobs - scorer.score(covered).cpu()
        total = drops.sum(1)
        if has_place := total.max() >= ENOUGH_DROP:
            break
    drops *= (drops.amax(0) >= ENOUGH_DROP) & has_place
    weigh = partial(weight_peaks, relevance, peaks, radius)
    return Attribution(weigh(total * has_place), weigh(drops), logprobs, reliance)


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
    """Return the map [R, C]: at each peak its drop, and near it the drop times the square root of relative relevance.

    Args:
        relevance: of each patch, [R, C].
        peaks: P rows and columns.
        radius: of the covered squares, in patches.
        drops: of the log-probability without each peak, [P]; [P, T] for T maps [T, R, C].
    """
    rows, columns = (torch.arange(size) for size in relevance.shape)
    height = relevance.sqrt()
    weights = torch.zeros(*drops.shape[1:], *relevance.shape)
    for (row, column), drop in zip(peaks, drops.clamp(min=0), strict=True):
        squared = (rows[:, None] - row) ** 2 + (columns - column) ** 2
        share = drop / height[row, column].clamp(min=torch.finfo(height.dtype).tiny)
        weights = torch.maximum(weights, share[..., None, None] * torch.exp(-squared / (2 * (FALLOFF * radius) ** 2)))
    return height * weights


class ModuleEncoder:
    """The image encoder of either network as an `Encode`, by its modules.

    Args:
        network: has `encode_image`, which returns the embeddings of pixels, and the image encoder.
    """

    def __init__(self, network: Any) -> None:
        encoder = network.image_encoder if hasattr(network, "image_encoder") else network.vision_encoder
        self.encode_image = network.encode_image
        layers = encoder.qformer.transformer.layers
        self.layers = [layer.cross_attention for layer in layers if hasattr(layer, "cross_attention")]

    def __call__(self, pixels: torch.Tensor, records: Records | None = None) -> torch.Tensor:
        """Return the image embeddings of pixels; with `records`, of one image."""
        with nullcontext() if records is None else self._recorded(records):
            return self.encode_image(pixels)  # type: ignore[no-any-return]

    @contextmanager
    def _recorded(self, records: Records) -> Iterator[None]:
        """Append a record of each layer to `records`, of the forward pass in the block."""
        kept: list[dict[str, torch.Tensor]] = [{} for _ in self.layers]
        hooks = [
            hook for layer, tensors in zip(self.layers, kept, strict=True) for hook in keep_tensors(layer, tensors)
        ]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()
        pairs = zip(self.layers, kept, strict=True)
        records += [CrossAttentionRecord(count_heads(layer), **tensors) for layer, tensors in pairs]


def keep_tensors(layer: Any, tensors: dict[str, torch.Tensor]) -> list[Any]:
    """Keep the tensors of a cross-attention layer's forward passes in this thread; return the hooks that do.

    Args:
        layer: has the modules `query`, `key_value` and `dense`.
        tensors: where they are kept, by their names in a record.
    """
    thread = threading.get_ident()  # other threads may encode images meanwhile

    def keep(name: str, tensor: torch.Tensor) -> None:
        if threading.get_ident() == thread:
            tensors[name] = tensor

    return [
        layer.query.register_forward_hook(lambda _, inputs, output: keep("query", output)),
        layer.key_value.register_forward_hook(lambda _, inputs, output: keep("key_value", output)),
        layer.dense.register_forward_pre_hook(lambda _, inputs: keep("context", inputs[0])),
    ]
