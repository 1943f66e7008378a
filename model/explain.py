"""Explain an answer: which part of the image it relies on, and how much."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image

from .attribution import Attribution, attribute
from .chat import AnyHistory, start_conversation
from .chat_model import NetworkChatModel
from .engine import CHAT, GenerationConfig
from .engine.network import Network
from .errors import ImageError, QuestionError, VisualGLMError
from .prompt import AS_CONFIGURED, Conversation, English, Prompt, Tokenizer
from .streaming import CompleteAnswer, ScoredToken

MAX_NEW_TOKENS = 256  # of an answer that is generated to be explained
DIMMED = 0.25  # brightness of the overlay where the map is 0


@dataclass(frozen=True, eq=False)
class Explanation:
    """The part of an image that an answer of T tokens relies on.

    Attributes:
        answer: the text.
        tokens: its tokens with their log-probabilities.
        map: float32 [R, C], one number for each patch of the vision encoder, between 0 and 1: how much the answer
            relies on it. All are 0 if no single part of the image matters, as for many answers with "no".
        token_maps: float32 [T, R, C], the same for each token, each between 0 and 1; 0 for a token that no single part
            of the image decides.
        token_reliance: float32 [T], how much less likely each token is if the image is plain, in nats.
        image: the image that was asked about, RGB.
    """

    answer: str
    tokens: tuple[ScoredToken, ...]
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


def explain(
    image_path: str | None,
    model: Network,
    tokenizer: Tokenizer,
    query: str,
    history: AnyHistory = None,
    image: Any = None,
    *,
    english: English = AS_CONFIGURED,
    answer: str | None = None,
) -> Explanation:
    """Explain the answer to a question about an image.

    Args:
        image_path, model, tokenizer, query, history, image, english: see `stream_chat`; there must be an image.
        answer: the answer to explain; None for the most likely one.

    Raises:
        ImageError: there is no image, or it cannot be used.
        VisualGLMError: the question, the history or the answer cannot be used.
    """
    chat_model, conversation = start_conversation(image_path, model, tokenizer, query, history, image, english)
    return explain_answer(chat_model, conversation, query, answer)


def explain_answer(
    model: NetworkChatModel, conversation: Conversation, question: str, answer: str | None = None
) -> Explanation:
    """Explain the answer to the next question of a conversation; see `explain`."""
    if conversation.image is None:
        raise ImageError("There is no image. Give the image whose parts explain the answer.")
    pixels = model.image_cache.to_pixels(conversation.image)
    config = CHAT.replace(temperature=0, max_new_tokens=MAX_NEW_TOKENS, top_logprobs=0)
    done = complete(model, Conversation(pixels, conversation.turns, conversation.language), question, answer, config)
    prompt = model.encode_prompt(conversation, question, config)
    attribution = attribute_answer(model.engine_network, prompt, done.logprobs, pixels)
    return make_explanation(done, attribution, to_image(conversation.image, pixels))


def complete(
    model: NetworkChatModel, conversation: Conversation, question: str, answer: str | None, config: GenerationConfig
) -> CompleteAnswer:
    """Generate an answer, or score a given one; return it with its tokens.

    Raises:
        QuestionError: the given answer is empty.
        VisualGLMError: the question cannot be answered.
    """
    asked = (conversation, question) if answer is None else (conversation, question, answer)
    [(_, done)] = model.answer_stream([asked], config, 1)
    if isinstance(done, VisualGLMError):
        raise done
    if not done.logprobs:
        raise QuestionError("The answer is empty, so that there is nothing to explain.")
    return done


def attribute_answer(
    network: Network, prompt: Prompt, tokens: tuple[ScoredToken, ...], pixels: torch.Tensor
) -> Attribution:
    """Attribute the tokens of an answer to the image [1, 3, S, S] of its prompt."""
    answer_ids = [token.token_id for token in tokens]
    ids = torch.tensor([prompt.token_ids + answer_ids], device=network.device)
    score = partial(score_tokens, network, ids, len(answer_ids), prompt.image_start)
    transformer: Any = network.vision_encoder.qformer.transformer  # type: ignore[union-attr]
    layers = [layer.cross_attention for layer in transformer.layers if hasattr(layer, "cross_attention")]
    return attribute(network.encode_image, score, layers, pixels.to(network.device, network.dtype))


def score_tokens(
    network: Network, ids: torch.Tensor, count: int, image_start: int | None, embeddings: torch.Tensor
) -> torch.Tensor:
    """Return the log-probabilities [B, count] of the last tokens of `ids` [1, T] for image embeddings [B, L, D]."""
    ids = ids.expand(len(embeddings), -1)
    logits = network(ids, None, None, image_embeddings=embeddings, pre_image=image_start)[0]
    logprobs = F.log_softmax(logits[:, -count - 1 : -1].float(), dim=-1)
    return logprobs.gather(2, ids[:, -count:, None])[..., 0]


def make_explanation(done: CompleteAnswer, attribution: Attribution, image: Image.Image) -> Explanation:
    """Return the explanation of an answer, whose maps are 0 if the answer has no place in the image."""
    scale: Callable[[torch.Tensor], torch.Tensor] = to_unit if attribution.has_place else torch.zeros_like
    return Explanation(
        done.text,
        done.logprobs,
        scale(attribution.map).cpu().numpy(),
        torch.stack([scale(each) for each in attribution.token_maps]).cpu().numpy(),
        attribution.reliance.cpu().numpy(),
        image,
    )


def to_unit(grid: torch.Tensor) -> torch.Tensor:
    """Scale a grid to a maximum of 1."""
    return grid / grid.max().clamp(min=torch.finfo(grid.dtype).tiny)


def to_image(given: Any, pixels: torch.Tensor) -> Image.Image:
    """Return the given image as RGB, or the image of its pixels [1, 3, S, S] if these were given."""
    if isinstance(given, Image.Image):
        return given.convert("RGB")
    low, high = pixels.min(), pixels.max()
    scaled = (pixels[0] - low) / (high - low).clamp(min=1e-6) * 255
    return Image.fromarray(scaled.round().byte().permute(1, 2, 0).cpu().numpy())
