"""Explain an answer: which part of the image it relies on, and how much."""

from functools import partial
from typing import Any

import torch
from PIL import Image

from .chat import AnyHistory, start_conversation
from .chat_model import NetworkChatModel
from .engine import CHAT, GenerationConfig
from .engine.network import Network
from .errors import ImageError, QuestionError, VisualGLMError
from .explanation import MAX_NEW_TOKENS, Explanation as Explanation, attribute_answer, make_explanation
from .prompt import AS_CONFIGURED, Conversation, English, Tokenizer
from .streaming import CompleteAnswer


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
    prompt, network = model.encode_prompt(conversation, question, config), model.engine_network
    ids = torch.tensor([prompt.token_ids + [token.token_id for token in done.logprobs]], device=network.device)
    logits = partial(compute_logits, network, prompt.image_start)
    moved = pixels.to(network.device, network.dtype)
    attribution = attribute_answer(network, logits, ids, len(done.logprobs), moved)
    return make_explanation(done.text, done.logprobs, attribution, to_image(conversation.image, pixels))


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


def compute_logits(
    network: Network, image_start: int | None, ids: torch.Tensor, embeddings: torch.Tensor
) -> torch.Tensor:
    """Return the logits [B, T, V] of token ids [B, T] with image embeddings [B, L, D]."""
    logits: torch.Tensor = network(ids, None, None, image_embeddings=embeddings, pre_image=image_start)[0]
    return logits


def to_image(given: Any, pixels: torch.Tensor) -> Image.Image:
    """Return the given image as RGB, or the image of its pixels [1, 3, S, S] if these were given."""
    if isinstance(given, Image.Image):
        return given.convert("RGB")
    low, high = pixels.min(), pixels.max()
    scaled = (pixels[0] - low) / (high - low).clamp(min=1e-6) * 255
    return Image.fromarray(scaled.round().byte().permute(1, 2, 0).cpu().numpy())
