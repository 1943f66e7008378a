"""The workbench: answers of a network whose inside is recorded or changed."""

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from ..chat_model import NetworkChatModel
from ..engine import CHAT, Request
from ..engine.decoder import FallbackDecoder
from ..errors import SettingError
from ..prompt import Conversation, clean_answer
from .knock_out import Positions, hide_image_in
from .points import Change, Trace, change_points, find_points, select_points

MAX_NEW_TOKENS = 64
TOKEN_POINTS = ("embeddings", "layers", "logits")  # beginnings of the names of points with a row for each token


@dataclass(frozen=True)
class InspectedAnswer:
    """The most likely answer of a network.

    Attributes:
        text: the answer.
        token_ids: its tokens, without the end token.
        prompt_length: number of tokens before the answer.
        image: first and last position of the image embeddings in the prompt, half-open; None without an image.
    """

    text: str
    token_ids: tuple[int, ...]
    prompt_length: int
    image: tuple[int, int] | None


class Workbench:
    """A recorder and editor of the values in a network's forward passes.

    Each change is a context manager. It applies to the answers of this workbench, in the thread that made it, and ends
    with its block. Changes can be nested; a record sees the changes of the blocks around it. Answers to others stay the
    same, but the engine computes them without CUDA graphs during a block.

    Args:
        model: a SatChatModel or an HfChatModel.
    """

    def __init__(self, model: NetworkChatModel) -> None:
        self.model = model
        self.network = model.engine_network
        self._points = find_points(self.network)
        self._positions = Positions()
        self._answered = 0  # index of the answer's token that the current forward pass computes

    @property
    def points(self) -> tuple[str, ...]:
        """Names of all points, in the order of the computation."""
        return tuple(self._points)

    @torch.no_grad()
    def answer(
        self,
        conversation: Conversation,
        question: str,
        max_new_tokens: int = MAX_NEW_TOKENS,
        *,
        any_language: bool = False,
    ) -> InspectedAnswer:
        """Return the most likely answer, token by token, computed by the complete network. It never reads a cache.

        Args:
            conversation, question: see `stream_chat`.
            max_new_tokens: maximum number of tokens.
            any_language: also allow the tokens that the language of the conversation forbids.

        Raises:
            VisualGLMError: the image or the question cannot be used.
        """
        config = CHAT.replace(temperature=0, repetition_penalty=1.0, max_new_tokens=max_new_tokens)
        if any_language:
            config = config.replace(forbidden_ids=())
        prompt, request = self.model.make_request(conversation, question, config, self._encode(conversation.image))
        start = prompt.image_start
        image = None if start is None else (start, start + self.network.image_length)
        self._positions.image = image
        token_ids = list(self._generate(request))
        tokenizer = self.model.tokenizer
        text = clean_answer(tokenizer.clean_up_spaces(tokenizer.decode_text(token_ids)))
        return InspectedAnswer(text, tuple(token_ids), len(prompt.token_ids), image)

    def _encode(self, image: Any) -> torch.Tensor | None:
        if image is None:
            return None
        pixels = self.model.image_cache.to_pixels(image)
        return self.network.encode_image(pixels.to(self.network.device, self.network.dtype))

    def _generate(self, request: Request) -> Iterator[int]:
        decoder = FallbackDecoder(self.network)
        decoder.grow(1, 0)
        self._positions.start = self._answered = 0
        prefill = decoder.prefill(0, [request])
        try:
            while True:
                next(prefill)
        except StopIteration as done:
            logits: torch.Tensor = done.value
        self._positions.start = len(request.token_ids)
        for _ in range(request.max_new_tokens(self.network.max_sequence_length)):
            for first, last in request.forbidden:
                logits[:, first:last] = -torch.inf
            token = logits.argmax(-1)
            if int(token) == self.model.tokenizer.eos_token_id:
                break
            yield int(token)
            self._answered += 1
            logits = decoder.decode(token, 0)
            self._positions.start += 1

    @contextmanager
    def trace(self, *patterns: str) -> Iterator[Trace]:
        """Context manager: record the outputs of points.

        Args:
            patterns: names or patterns such as `layers.*.residual`; none for all points.

        Raises:
            SettingError: no point has this name.
        """
        names = select_points(self._points, patterns)
        trace = Trace(names)

        def recording(name: str) -> Change:
            return lambda output: trace.add(name, output)

        with change_points({self._points[name]: recording(name) for name in names}):
            yield trace

    def patch(
        self, name: str, values: torch.Tensor, positions: slice | Sequence[int] | None = None
    ) -> AbstractContextManager[None]:
        """Context manager: replace the output of a point in the pass over the image or the prompt.

        Args:
            name: of the point.
            values: [N, D], for example those that `trace` recorded for another image.
            positions: which N positions get them; None for the first N.

        Raises:
            SettingError: no point has this name; while answering: the shapes differ.
        """
        where: slice | Sequence[int] = slice(len(values)) if positions is None else positions

        def replace(output: torch.Tensor) -> torch.Tensor | None:
            if len(output) == 1:  # a later token of the answer
                return None
            changed = output.clone()
            if changed[where].shape != values.shape:
                expected, given = list(changed[where].shape), list(values.shape)
                raise SettingError(f"The values for {name} have the shape {given}. These positions need {expected}.")
            changed[where] = values.to(output)
            return changed

        return self._change((name,), replace)

    def ablate(
        self,
        *patterns: str,
        value: torch.Tensor | float = 0.0,
        positions: slice | Sequence[int] | None = None,
    ) -> AbstractContextManager[None]:
        """Context manager: set the output of points to zero, or to another value such as its mean.

        Args:
            patterns: names or patterns of the points.
            value: a number, or a vector [D].
            positions: in the pass over the image or the prompt; None for all, later tokens included.

        Raises:
            SettingError: no point has this name.
        """

        def replace(output: torch.Tensor) -> torch.Tensor | None:
            if positions is not None and len(output) == 1:
                return None
            changed = output.clone()
            changed[slice(None) if positions is None else positions] = torch.as_tensor(value).to(output)
            return changed

        return self._change(patterns, replace)

    def steer(self, name: str, vector: torch.Tensor, strength: float = 1.0) -> AbstractContextManager[None]:
        """Context manager: add a vector times `strength` to the output of a point.

        Args:
            name: of the point.
            vector: [D], for all tokens of prompt and answer; or [N, D], for the answer alone: a row for the position
                from which each of its tokens is computed, the first of which is the prompt's last. The last row is
                that of all later tokens.
            strength: factor.

        Raises:
            SettingError: no point has this name, or the point has no tokens, which several rows need.
        """
        if vector.ndim == 1:
            return self._change((name,), lambda output: output + strength * vector.to(output))
        if not name.startswith(TOKEN_POINTS):
            raise SettingError(f"{name} has no tokens. Give one vector [D], or a point of {', '.join(TOKEN_POINTS)}.")

        def add(output: torch.Tensor) -> torch.Tensor:
            changed = output.clone()
            changed[-1] += strength * vector[min(self._answered, len(vector) - 1)].to(output)
            return changed

        return self._change((name,), add)

    def _change(self, patterns: Sequence[str], change: Change) -> AbstractContextManager[None]:
        names = select_points(self._points, patterns)
        return change_points({self._points[name]: change for name in names})

    def knock_out(self, layers: Sequence[int] | None = None) -> AbstractContextManager[None]:
        """Context manager: let no text token attend to the image in some layers of the language model.

        Args:
            layers: indices of the layers; None for all.

        Raises:
            SettingError: the network has a P-tuning prefix.
        """
        if len(self.network.prefix):
            raise SettingError("Attention cannot be knocked out in a model with a P-tuning prefix.")
        stack = self.network.transformer.layers
        chosen = range(len(stack)) if layers is None else layers
        return hide_image_in([stack[number].attention for number in chosen], self._positions)

    @torch.no_grad()
    def lens(self, states: torch.Tensor) -> torch.Tensor:
        """Return the logits [T, V] of states [T, D] of any layer, by the final layer norm and the language model head.

        Source: the logit lens, for image embeddings https://arxiv.org/abs/2410.07149.
        """
        states = states[None].to(self.network.device, self.network.dtype)
        logits: torch.Tensor = self.network.lm_head(self.network.transformer.final_layernorm(states))
        return logits[0].float()

    def top_tokens(self, logits: torch.Tensor, count: int = 5) -> list[list[str]]:
        """Return the texts of the most likely tokens for each row of logits [T, V], the most likely first."""
        decode = self.model.tokenizer.decode_text
        return [[decode([token]) for token in row] for row in logits.topk(count).indices.tolist()]
