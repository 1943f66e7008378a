"""Explain an answer: which part of the image it relies on, and how much."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from PIL import Image

from .answer_stream import encode_given
from .attribution import Scorer, attribute
from .attribution_graphs import get_scorers
from .chat import AnyHistory, start_conversation
from .chat_model import NetworkChatModel
from .engine import CHAT
from .engine.network import Network, has_foreign_hooks
from .errors import ImageError, QuestionError, VisualGLMError
from .explanation import (
    MAX_NEW_TOKENS,
    Explanation as Explanation,
    make_explanation,
    make_module_scorer,
)
from .images.encoder_layers import can_run
from .prompt import AS_CONFIGURED, Conversation, English, Prompt, Tokenizer
from .streaming import ScoredToken

MOST_LIKELY = CHAT.replace(temperature=0, max_new_tokens=MAX_NEW_TOKENS, top_logprobs=0)


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
    prompt, network = model.encode_prompt(conversation, question, MOST_LIKELY), model.engine_network
    if answer is None:
        about = Conversation(pixels, conversation.turns, conversation.language)
        answer, answer_ids = generate(model, about, question)
    else:
        answer_ids = encode_given(model, prompt, answer)
    with make_scorer(network, prompt, answer_ids) as scorer:
        attribution = attribute(scorer, pixels.to(network.device, network.dtype))
    to_bytes = model.tokenizer.stream().token_bytes
    logprobs = zip(answer_ids, attribution.logprobs.tolist(), strict=True)
    tokens = tuple(ScoredToken(token_id, to_bytes(token_id), logprob) for token_id, logprob in logprobs)
    return make_explanation(answer, tokens, attribution, to_image(conversation.image, pixels))


def generate(model: NetworkChatModel, conversation: Conversation, question: str) -> tuple[str, Sequence[int]]:
    """Generate the most likely answer; return its text and its tokens.

    Raises:
        QuestionError: it is empty.
        VisualGLMError: the question cannot be answered.
    """
    [(_, done)] = model.answer_stream([(conversation, question)], MOST_LIKELY, 1)
    if isinstance(done, VisualGLMError):
        raise done
    if not done.logprobs:
        raise QuestionError("The answer is empty, so that there is nothing to explain.")
    return done.text, [token.token_id for token in done.logprobs]


@contextmanager
def make_scorer(network: Network, prompt: Prompt, answer_ids: Sequence[int]) -> Iterator[Scorer]:
    """Context manager: the scorer of an answer, by the engine's layers; with hooks of the user, by the modules."""
    start = prompt.image_start or 0
    if can_run(network) and not has_foreign_hooks(network):
        with get_scorers(network).scorer(prompt.token_ids, start, answer_ids) as scorer:
            yield scorer
        return
    ids = torch.tensor([[*prompt.token_ids, *answer_ids]], device=network.device)
    yield make_module_scorer(network, partial(run_modules, network, start), ids, len(answer_ids))


def run_modules(network: Network, image_start: int, ids: torch.Tensor, embeddings: torch.Tensor) -> torch.Tensor:
    """Return the logits [B, T, V] of token ids [B, T] with image embeddings [B, L, D], computed by the modules."""
    logits: torch.Tensor = network(ids, None, None, image_embeddings=embeddings, pre_image=image_start)[0]
    return logits


def to_image(given: Any, pixels: torch.Tensor) -> Image.Image:
    """Return the given image as RGB, or the image of its pixels [1, 3, S, S] if these were given."""
    if isinstance(given, Image.Image):
        return given.convert("RGB")
    low, high = pixels.min(), pixels.max()
    scaled = (pixels[0] - low) / (high - low).clamp(min=1e-6) * 255
    return Image.fromarray(scaled.round().byte().permute(1, 2, 0).cpu().numpy())
