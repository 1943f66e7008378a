"""Answer tasks with one loaded model at full batch; images are read ahead by threads."""

import math
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeVar

from model import CHINESE, ENGLISH, Conversation, Turn, VisualGLMError
from model.prompt import question_language

from .tasks import Backend as Backend, Result as Result, Settings as Settings, Task as Task

if TYPE_CHECKING:  # these import torch
    import torch

    from model.answer_stream import BatchQuestion
    from model.chat_model import NetworkChatModel
    from model.streaming import CompleteAnswer

T = TypeVar("T")
R = TypeVar("R")
LANGUAGES = {language.code: language for language in (CHINESE, ENGLISH)}
MAX_IMAGE_THREADS = 16
CPU_BATCH_SIZE, GPU_BATCH_SIZE = 16, 64


class Answerer:
    """A loaded model that answers tasks. Several threads may call `answer` at the same time.

    Args:
        settings: the model and how it answers.
        device: replaces the device of the settings, such as "cuda:1".
        progress: called with (tensors read, total number of tensors) while the model is loaded.
        model: a loaded model, instead of the one that the settings name.

    Raises:
        VisualGLMError: the model cannot be loaded.
    """

    def __init__(
        self,
        settings: Settings,
        device: str | None = None,
        *,
        progress: Callable[[int, int], None] | None = None,
        model: "NetworkChatModel | None" = None,
    ) -> None:
        from model.chat_model import demo_config

        self.settings = settings
        self.model = load(settings, device, progress) if model is None else model
        self.config = demo_config(self.model).replace(**settings.sampling)
        self.language = None if settings.language is None else LANGUAGES[settings.language]
        default = GPU_BATCH_SIZE if self.model.engine_network.device.type == "cuda" else CPU_BATCH_SIZE
        self.max_batch_size = settings.max_batch_size or default
        self.read_ahead = self.max_batch_size  # rows whose images are read before they are needed
        self.threads = min(MAX_IMAGE_THREADS, max(2, os.cpu_count() or 1))

    @property
    def capacity(self) -> int:
        """Number of tasks that keep `answer` busy: those in the batch, and those whose images are read or encoded."""
        return self.max_batch_size + self.read_ahead + 3 * self.model.image_cache.preferred_batch_size

    def warm_up(self) -> None:
        """Do the one-time work, such as compilation, that would delay the first answer."""
        self.model.warm_up()

    def answer(self, tasks: Iterable[Task]) -> Iterator[Result]:
        """Answer tasks, read lazily, and yield results as they finish; closing the iterator cancels the rest."""
        unfinished: dict[int, tuple[OpenQuestion, int]] = {}
        questions = self._questions(tasks, unfinished)
        for number, answer in self.model.answer_stream(questions, self.config, self.max_batch_size):
            question, part = unfinished.pop(number)
            if result := question.add(part, answer):
                yield result

    def _questions(
        self, tasks: Iterable[Task], unfinished: "dict[int, tuple[OpenQuestion, int]]"
    ) -> "Iterator[BatchQuestion]":
        """Yield the questions of all tasks, each followed by its choices; note them in `unfinished`, by their index."""
        count = 0
        for task, pixels in map_ahead(self._read_image, tasks, self.threads, self.read_ahead):
            light = replace(task, image=None) if isinstance(task.image, bytes) else task
            numbers = [0] if isinstance(pixels, VisualGLMError) else list(task.questions)
            for number in numbers:
                asked = [pixels] if isinstance(pixels, VisualGLMError) else self._ask(task, pixels, number)
                open_question = OpenQuestion(light, number, len(asked))
                for part, question in enumerate(asked):
                    unfinished[count] = open_question, part
                    yield question
                    count += 1

    def _ask(self, task: Task, pixels: "torch.Tensor | None", number: int) -> "list[BatchQuestion]":
        """Return a question of a task, and the same question with each choice as the answer to score."""
        question, turns = task.questions[number], [Turn(*turn) for turn in task.history]
        try:
            language = self.language or question_language(question, ENGLISH, turns)
        except VisualGLMError as error:
            return [error]
        if task.language is not None:
            language = LANGUAGES[task.language]
        conversation = Conversation(pixels, turns, language)
        return [(conversation, question), *((conversation, question, choice) for choice in task.choices)]

    def _read_image(self, task: Task) -> "tuple[Task, torch.Tensor | VisualGLMError | None]":
        """Return the task with its image's pixels [1, 3, S, S], None without an image, or the image's error."""
        try:
            return task, None if task.image is None else self.model.image_cache.to_pixels(open_image(task.image))
        except VisualGLMError as error:
            return task, error


class OpenQuestion:
    """A question whose answer and choices are not all there yet.

    Args:
        task: the task.
        number: of the question in the task; 0 for an error that concerns the entire task.
        parts: number of parts: the answer, and one for each choice.
    """

    def __init__(self, task: Task, number: int, parts: int) -> None:
        self.task = task
        self.number = number
        self.parts: list[CompleteAnswer | VisualGLMError | None] = [None] * parts

    def add(self, part: int, answer: "CompleteAnswer | VisualGLMError") -> Result | None:
        """Take the answer (part 0) or the scored choice of this part; return the result if it was the last one."""
        self.parts[part] = answer
        if None in self.parts:
            return None
        return self._result([one for one in self.parts if one is not None])

    def _result(self, parts: "list[CompleteAnswer | VisualGLMError]") -> Result:
        for one in parts:
            if isinstance(one, VisualGLMError):
                return Result(self.task, self.number, error=str(one))
        answer, *choices = [one for one in parts if not isinstance(one, VisualGLMError)]
        return Result(
            self.task,
            self.number,
            answer.text,
            answer.finish_reason,
            answer.usage.prompt_tokens,
            answer.usage.answer_tokens,
            logprob=sum_logprobs(answer) if answer.logprobs else None,
            choice_logprobs=[sum_logprobs(choice) for choice in choices],
        )


def sum_logprobs(answer: "CompleteAnswer") -> float:
    """Return the log-probability of an answer: the sum over its tokens."""
    return math.fsum(token.logprob for token in answer.logprobs)


def open_image(image: str | bytes) -> Any:
    """Load an image from the content of a file, a path, an http(s) URL or a data URL.

    Raises:
        ImageError: it cannot be found, fetched or decoded, or exceeds a limit.
    """
    from model.images.preprocess import decode_base64, load_image

    if isinstance(image, str) and image[:5].lower() == "data:":
        return decode_base64(image)
    return load_image(image)


def load(
    settings: Settings, device: str | None = None, progress: Callable[[int, int], None] | None = None
) -> "NetworkChatModel":
    """Load the model of the settings on `device`, or on the device of the settings."""
    from visualglm.arguments import choose_loader

    loading = {**settings.loading, **({"device": device} if device else {})}
    model: NetworkChatModel = choose_loader(settings.hf, None)(  # type: ignore[assignment]
        settings.model, progress=progress, **loading
    )
    return model


def map_ahead(function: Callable[[T], R], items: Iterable[T], threads: int, ahead: int) -> Iterator[R]:
    """Yield `function(item)` for each item in order, computed by threads for up to `ahead` items in advance."""
    waiting: deque[Future[R]] = deque()
    pool = ThreadPoolExecutor(threads, "image")
    try:
        for item in items:
            waiting.append(pool.submit(function, item))
            while len(waiting) > ahead or (waiting and waiting[0].done()):
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
