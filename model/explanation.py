"""Explanations of answers: what both networks share. An export copies this file into the checkpoint."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image

from .attribution import Attribution, ModuleEncoder, Scorer, attribute
from .errors import QuestionError

MAX_NEW_TOKENS = 256  # of an answer that is generated to be explained
# Settings of a transformers network for the most likely answer.
MOST_LIKELY: dict[str, Any] = {
    "do_sample": False,
    "min_length": 0,
    "repetition_penalty": 1.0,
    "max_new_tokens": MAX_NEW_TOKENS,
}
DIMMED = 0.25  # brightness of the overlay where the map is 0
# Returns the logits [B, T, V] of token ids [B, T] with image embeddings [B, L, D].
ComputeLogits = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


class ExplainedToken(NamedTuple):
    """A token of an explained answer, with the natural logarithm of its probability."""

    token_id: int
    text: str
    logprob: float


@dataclass(frozen=True, eq=False)
class Explanation:
    """The part of an image that an answer of T tokens relies on.

    Attributes:
        answer: the text.
        tokens: its tokens with their texts and log-probabilities.
        map: float32 [R, C], one number for each patch of the vision encoder, between 0 and 1: how much the answer
            relies on it. All are 0 if no single part of the image matters, as for many answers with "no".
        token_maps: float32 [T, R, C], the same for each token, each between 0 and 1; 0 for a token that no single part
            of the image decides.
        token_reliance: float32 [T], how much less likely each token is if the image is plain, in nats.
        image: the image that was asked about, RGB.
    """

    answer: str
    tokens: tuple[Any, ...]
    map: np.ndarray
    token_maps: np.ndarray
    token_reliance: np.ndarray
    image: Image.Image

    @property
    def reliance(self) -> float:
        """How much less likely the whole answer is if the image is plain, in nats; near 0 if it ignores the image."""
        return float(self.token_reliance.sum())

    @property
    def peak(self) -> tuple[float, float] | None:
        """The x and y of the patch with the highest number, as fractions of width and height; None without a map."""
        if not self.map.any():
            return None
        row, column = np.unravel_index(int(self.map.argmax()), self.map.shape)
        return (float(column) + 0.5) / self.map.shape[1], (float(row) + 0.5) / self.map.shape[0]

    def overlay(self, token: int | None = None) -> Image.Image:
        """Return the image, dark where the map is 0.

        Args:
            token: index of a token whose map is shown; None for the whole answer.
        """
        grid = self.map if token is None else self.token_maps[token]
        light = Image.fromarray(np.round(np.sqrt(grid) * 255).astype(np.uint8))
        mask = light.resize(self.image.size, Image.Resampling.BICUBIC)
        dark = self.image.point(lambda value: value * DIMMED)
        return Image.composite(self.image, dark, mask)


def make_module_scorer(network: Any, compute_logits: ComputeLogits, ids: torch.Tensor, count: int) -> Scorer:
    """Return the scorer of an answer that calls the modules of either network.

    Args:
        network: see `ModuleEncoder`.
        compute_logits: runs the language model.
        ids: token ids of prompt and answer, [1, T].
        count: tokens of the answer.
    """
    return Scorer(ModuleEncoder(network), partial(score_tokens, compute_logits, ids, count))


def explain_inputs(
    network: Any, tokenizer: Any, inputs: Mapping[str, Any], image: Image.Image, pixels: torch.Tensor, answer: str
) -> Explanation:
    """Explain an answer of a transformers network.

    Args:
        inputs: of the network's `generate`: input_ids [1, T] and pre_image_length.
        image: that was asked about.
        pixels: [1, 3, S, S], of the image.

    Raises:
        QuestionError: the answer is empty.
    """
    answer_ids = tokenizer.encode_text(answer)
    if not answer_ids:
        raise QuestionError("The answer is empty, so that there is nothing to explain.")
    ids = torch.cat((inputs["input_ids"], inputs["input_ids"].new_tensor([answer_ids])), dim=1)

    def compute_logits(ids: torch.Tensor, embeddings: torch.Tensor) -> torch.Tensor:
        start = inputs["pre_image_length"]
        logits: torch.Tensor = network(ids, image_embeds=embeddings, pre_image_length=start, use_cache=False).logits
        return logits

    scorer = make_module_scorer(network, compute_logits, ids, len(answer_ids))
    attribution = attribute(scorer, pixels.to(network.device, network.dtype))
    texts = [tokenizer.decode_text([token_id]) for token_id in answer_ids]
    tokens = map(ExplainedToken, answer_ids, texts, attribution.logprobs.tolist())
    return make_explanation(answer, tuple(tokens), attribution, image)


def score_tokens(
    compute_logits: ComputeLogits, ids: torch.Tensor, count: int, embeddings: torch.Tensor
) -> torch.Tensor:
    """Return the log-probabilities [B, count] of the last tokens of `ids` [1, T] for image embeddings [B, L, D]."""
    ids = ids.expand(len(embeddings), -1)
    logprobs = F.log_softmax(compute_logits(ids, embeddings)[:, -count - 1 : -1].float(), dim=-1)
    return logprobs.gather(2, ids[:, -count:, None])[..., 0]


def make_explanation(answer: str, tokens: tuple[Any, ...], attribution: Attribution, image: Image.Image) -> Explanation:
    """Return the explanation of an answer."""
    maps = to_unit(attribution.map), to_unit(attribution.token_maps)
    return Explanation(answer, tokens, *maps, attribution.reliance.numpy(), image)


def to_unit(maps: torch.Tensor) -> np.ndarray:
    """Scale each of the maps [.., R, C] to a maximum of 1, unless it is 0."""
    return (maps / maps.amax((-2, -1), keepdim=True).clamp(min=torch.finfo(maps.dtype).tiny)).numpy()
