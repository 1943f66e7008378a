"""The Hugging Face network as a ChatModel, with transformers' own generation."""

import contextlib
import time
from collections.abc import Iterator
from typing import Any

import torch

from .generation import GenerationConfig, Step
from .pictures import PictureEmbeddings
from .pieces import AnswerWriter, Piece, compose_answer
from .prompt import Conversation, Prompt, encode_prompt


class HfChatModel:
    """The Hugging Face network as a ChatModel. Unlike on the SAT side, the penalty counts the prompt's tokens too.

    Args:
        network: a ChatGLMForConditionalGenerationWithImage.
        tokenizer: a ChatGLMTokenizer.
    """

    def __init__(self, network: Any, tokenizer: Any) -> None:
        self.network = network
        self.tokenizer = tokenizer
        self.pictures = PictureEmbeddings(network)

    def stream_answer(self, conversation: Conversation, question: str, config: GenerationConfig) -> Iterator[Piece]:
        """Answer `question` about the conversation's picture, piece by piece; closing the iterator cancels.

        Raises:
            PromptTooLongError: the question alone does not fit.
            ImageError: the picture cannot be used.
            GenerationError: the model's numbers are not usable.
        """
        started = time.perf_counter()
        limit = min(config.max_length, self.network.max_sequence_length)
        prompt = encode_prompt(
            self.tokenizer, conversation, question, image_length=self.network.image_length, max_length=limit
        )
        arguments = self._arguments(prompt, conversation, config, limit)
        writer = AnswerWriter(self.tokenizer, prompt, started)
        yield from compose_answer(self._generate(arguments, config.seed), writer)

    def _arguments(
        self, prompt: Prompt, conversation: Conversation, config: GenerationConfig, limit: int
    ) -> dict[str, Any]:
        """Return the arguments of the network's `generate`."""
        names = ("top_p", "top_k", "temperature", "repetition_penalty")
        if config.max_new_tokens is not None:
            limit = min(limit, len(prompt.token_ids) + config.max_new_tokens)
        chosen = {"max_length": limit, "min_length": min(config.min_length, limit)}
        arguments = self.network.chat_settings({**chosen, **{name: getattr(config, name) for name in names}})
        forbidden = config.forbidden_ids
        if forbidden is None:
            forbidden = conversation.language.forbidden_ids(self.tokenizer)
        highest = self.network.config.vocab_size
        ids = sorted({i for start, stop in forbidden for i in range(start, min(stop, highest))})
        return {
            **arguments,
            "suppress_tokens": ids or None,
            "input_ids": torch.tensor([prompt.token_ids], device=self.network.device),
            "image_embeds": self.pictures.embed(conversation.image),
            "pre_image_length": prompt.image_start,
        }

    def _generate(self, arguments: dict[str, Any], seed: int | None) -> Iterator[Step]:
        """Yield each token but the end token, and then why it was the last."""
        with seeded(seed), contextlib.closing(self.network.stream_generate(**arguments)) as sequences:
            for ids in sequences:
                token = int(ids[0, -1])
                if token == self.tokenizer.eos_token_id:
                    yield Step(None, "stop")
                    return
                yield Step(token, None)
        yield Step(None, "length")


@contextlib.contextmanager
def seeded(seed: int | None) -> Iterator[None]:
    """Draw from `seed` in the block, and leave torch's random state as it was; None changes nothing."""
    if seed is None:
        yield
        return
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        yield
