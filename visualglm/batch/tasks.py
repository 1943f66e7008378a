"""Plain values that travel between the program and the processes or machines that answer."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias


@dataclass(frozen=True)
class Task:
    """A row of the input whose questions are still to be answered.

    Attributes:
        key: identifies the row in the input, such as its `id`, its number, or the image's path in the folder.
        number: 1 for the first row of the input; for messages.
        image: an absolute path, an http(s) URL, a data URL or the content of an image file; None without an image.
        questions: questions by their number in the row, from 1.
        columns: the columns of the row, which are copied to the output.
        history: earlier questions and answers, oldest first.
        language: "en" or "zh"; None for that of the settings.
        choices: answers whose log-probabilities are computed for each question.
    """

    key: str
    number: int
    image: str | bytes | None
    questions: Mapping[int, str]
    columns: Mapping[str, Any] = field(default_factory=dict)
    history: Sequence[tuple[str, str]] = ()
    language: str | None = None
    choices: Sequence[str] = ()


@dataclass(frozen=True)
class Result:
    """The answer to one question of a task, or an error.

    Attributes:
        task: the task without its image's content.
        question: the number of the question in the row; 0 for an error that concerns the entire row.
        answer: the text; "" for an error.
        finish_reason: "stop" or "length"; "" for an error.
        prompt_tokens, answer_tokens: token counts.
        error: the message of the error; "" for an answer.
        logprob: log-probability of the answer, the sum over its tokens, if `top_logprobs` of the settings asks for it.
        choice_logprobs: log-probabilities of the task's choices.
    """

    task: Task
    question: int
    answer: str = ""
    finish_reason: str = ""
    prompt_tokens: int = 0
    answer_tokens: int = 0
    error: str = ""
    logprob: float | None = None
    choice_logprobs: Sequence[float] = ()


@dataclass(frozen=True)
class Settings:
    """The model and how it answers, in values that can be sent to another process.

    Attributes:
        model: name, directory or hub id.
        loading: keyword arguments of `load_sat` and `load_hf`, such as quant and dtype.
        hf: whether the Hugging Face implementation is used.
        language: "en" or "zh" for all prompts; None for the language of each question.
        sampling: values of `GenerationConfig` that differ from the model's own defaults.
        max_batch_size: maximum number of answers that one process generates at the same time; None for a number that
            suits the device.
    """

    model: str
    loading: Mapping[str, Any] = field(default_factory=dict)
    hf: bool = False
    language: str | None = None
    sampling: Mapping[str, Any] = field(default_factory=dict)
    max_batch_size: int | None = None


# Answers tasks in any order: in this process, in several, or on a cluster. Closing the iterator stops the work.
Backend: TypeAlias = Callable[[Settings, Iterable[Task]], Iterator[Result]]
