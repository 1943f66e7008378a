"""A model with its tokenizer that answers questions about pictures, for any thread."""

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, suppress
from itertools import islice
from typing import Any, Protocol

import torch

from .description import UNNAMED, Description
from .engine import DEMO, GenerationConfig, Request, Scheduler, Steps, scheduler_of
from .errors import VisualGLMError
from .images.pictures import PictureEmbeddings
from .pieces import Answer, AnswerWriter, Piece
from .prompt import Conversation, Prompt, encode_prompt
from .shortage import shortage_explained

# What a GPU is asked before anybody else asks, and how many tokens of the answer are waited for.
FIRST_QUESTION, FIRST_TOKENS = "描述这张图片。", 4


class ChatModel(Protocol):
    """A model with its tokenizer, as the front ends see it."""

    @property
    def image_size(self) -> int:
        """Pixels a side of the images that the model sees; larger ones are resized to it."""
        ...

    @property
    def description(self) -> Description:
        """The model's name and a sentence about its knowledge."""
        ...

    def stream_answer(
        self, conversation: Conversation, question: str, config: GenerationConfig, *, pause_s: float = 0.0
    ) -> Iterator[Piece]:
        """Answer `question`; closing the iterator cancels. The conversation is not changed.

        The iterator may have a `close` that any thread may call, also while another waits for a piece; a generator's
        raises ValueError then. After a piece none comes for `pause_s` seconds, but for the last: what comes
        meanwhile is one piece, which costs less.
        """
        ...

    def warm_up(self) -> None:
        """Do what the first answer would have to wait for."""
        ...


def demo_config(model: ChatModel | None) -> GenerationConfig:
    """Return the demo settings with the sampling of the model's generation_config.json.

    Args:
        model: a ChatModel; one that does not come from a directory need not have `sampling`. None while it is loaded.
    """
    return DEMO.replace(**getattr(model, "sampling", {}))


class SatChatModel:
    """The SAT network as a ChatModel, for any thread; questions that come together are answered side by side.

    Make a new one after training: it keeps the embeddings of recent pictures.

    Args:
        network: a VisualGLMModel, or another network with its properties.
        tokenizer: a ChatGLMTokenizer.
        rows: the most answers at a time; None leaves what the network's scheduler has.
        most_waiting: the most questions that wait for their turn; None likewise.
        penalize_prompt: whether the repetition penalty counts the prompt's tokens, too.
        description: name of the model, and what it knows.
        sampling: settings of `GenerationConfig` that the model's directory names, for programs that are given none.
    """

    def __init__(
        self,
        network: Any,
        tokenizer: Any,
        *,
        rows: int | None = None,
        most_waiting: int | None = None,
        penalize_prompt: bool = False,
        description: Description = UNNAMED,
        sampling: Mapping[str, Any] | None = None,
    ) -> None:
        self.network = network
        self.tokenizer = tokenizer
        self.rows = rows
        self.most_waiting = most_waiting
        self.penalize_prompt = penalize_prompt
        self.description = description
        self.sampling = dict(sampling or {})
        self.pictures = PictureEmbeddings(network)

    @property
    def image_size(self) -> int:
        """Pixels a side of the images that the network sees."""
        return self.network.image_size  # type: ignore[no-any-return]

    @property
    def scheduler(self) -> Scheduler:
        """What answers for the network."""
        scheduler = scheduler_of(self.network, self.tokenizer.eos_token_id)
        scheduler.limit(self.rows, self.most_waiting)
        return scheduler

    def encode_prompt(self, conversation: Conversation, question: str, config: GenerationConfig) -> Prompt:
        """Encode the prompt for `question` within the limits of `config` and of the model."""
        return encode_prompt(
            self.tokenizer,
            conversation,
            question,
            image_length=self.network.image_length,
            max_length=min(config.max_length, self.network.max_sequence_length),
        )

    def stream_answer(
        self, conversation: Conversation, question: str, config: GenerationConfig, *, pause_s: float = 0.0
    ) -> Answer:
        """Answer `question` about the conversation's picture, piece by piece; see `ChatModel`.

        Raises:
            PromptTooLongError: the question alone does not fit.
            ImageError: the picture cannot be used.
            BusyError: too many questions wait already.
            GenerationError: the model's numbers are not usable, or the memory does not suffice.
            ResourceError: the memory, file descriptors or threads do not suffice to begin.
        """
        started = time.perf_counter()

        @shortage_explained()
        def begin() -> tuple[AnswerWriter, Steps]:
            prompt, request = self.make_request(conversation, question, config)
            return AnswerWriter(self.tokenizer, prompt, started), self.scheduler.submit(request)

        return Answer(begin, pause_s)

    def warm_up(self) -> None:
        """On a GPU, compile kernels and record graphs by beginning an answer, so that nobody else waits for that."""
        if self.network.device.type != "cuda":
            return
        blank = torch.zeros(1, 3, self.network.image_size, self.network.image_size)
        with suppress(VisualGLMError), closing(self.stream_answer(Conversation(blank), FIRST_QUESTION, DEMO)) as answer:
            list(islice(answer, FIRST_TOKENS))  # what goes wrong will be said to whoever asks

    def make_request(
        self,
        conversation: Conversation,
        question: str,
        config: GenerationConfig,
        images: torch.Tensor | None = None,
    ) -> tuple[Prompt, Request]:
        """Return what the engine is to answer for a question.

        Args:
            images: the image embeddings [1, L, D] of the conversation's picture, where they are known already.
        """
        prompt = self.encode_prompt(conversation, question, config)
        if images is None:
            images = self.pictures.embed(conversation.image)
        return prompt, self._request(prompt, conversation, config, images)

    def answer_batch(
        self, asked: Sequence[tuple[Conversation, str]], config: GenerationConfig, rows: int = 16
    ) -> list[str | VisualGLMError]:
        """Answer many questions side by side, up to `rows` at a time.

        An answer is the one that its question would get alone.

        Returns:
            An answer for each question in turn, or the error that this question alone has met.
        """
        answers: list[str | VisualGLMError] = [""] * len(asked)
        writers: dict[Request, tuple[int, AnswerWriter]] = {}
        requests = self._make_requests(asked, config, answers, writers)
        for request, step in self.scheduler.answer_all(requests, rows):
            number, writer = writers[request]
            if isinstance(step, VisualGLMError):
                answers[number] = step
            elif piece := writer.write(step):
                answers[number] = f"{answers[number]}{piece.text}"
        return answers

    def _make_requests(
        self,
        asked: Sequence[tuple[Conversation, str]],
        config: GenerationConfig,
        answers: list[str | VisualGLMError],
        writers: dict[Request, tuple[int, AnswerWriter]],
    ) -> Iterator[Request]:
        """Yield what the engine is to answer, pictures encoded some at a time; errors become answers."""
        at_once = self.pictures.at_once
        for start in range(0, len(asked), at_once):
            ready: list[tuple[int, Prompt, torch.Tensor | None]] = []
            for number, (conversation, question) in enumerate(asked[start : start + at_once], start):
                try:
                    prompt, image = self.encode_prompt(conversation, question, config), conversation.image
                    ready.append((number, prompt, None if image is None else self.pictures.to_pixels(image)))
                except VisualGLMError as error:
                    answers[number] = error
            with shortage_explained():
                embeddings = iter(self.pictures.encode([pixels for _, _, pixels in ready if pixels is not None]))
            for number, prompt, pixels in ready:
                images = None if pixels is None else next(embeddings)
                request = self._request(prompt, asked[number][0], config, images)
                writers[request] = number, AnswerWriter(self.tokenizer, prompt, time.perf_counter())
                yield request

    def _request(
        self, prompt: Prompt, conversation: Conversation, config: GenerationConfig, images: torch.Tensor | None
    ) -> Request:
        forbidden = config.forbidden_ids
        if forbidden is None:
            forbidden = conversation.language.forbidden_ids(self.tokenizer)
        start = prompt.image_start or 0
        return Request(prompt.token_ids, config, forbidden, images, start, self.penalize_prompt)
