"""Answer many questions with a model, for evaluations.

questions = [(Conversation(image), "How many objects are there?"), ...]
for answer in answer_all(model, questions, greedy_config(model, max_new_tokens=200)): ...
"""

from collections.abc import Iterable, Iterator
from itertools import islice

from .chat_model import ChatModel, demo_config
from .engine.config import GenerationConfig
from .errors import VisualGLMError
from .prompt import Conversation

MAX_OPEN_IMAGES = 64  # questions whose images are in memory at a time


def greedy_config(model: ChatModel, max_new_tokens: int) -> GenerationConfig:
    """Return the generation settings of the chat programs, but with greedy decoding."""
    return demo_config(model).replace(temperature=0, max_new_tokens=max_new_tokens)


def answer_all(
    model: ChatModel, questions: Iterable[tuple[Conversation, str]], config: GenerationConfig, max_batch_size: int = 16
) -> Iterator[str | VisualGLMError]:
    """Yield the answer to each question in order, or the error of this question.

    Args:
        model: the model.
        questions: conversations with their next questions; consumed lazily, so that an iterator may load the images.
        config: generation settings.
        max_batch_size: maximum batch size, if the model supports batches.
    """
    remaining, answer_batch = iter(questions), getattr(model, "answer_batch", None)
    while chunk := list(islice(remaining, MAX_OPEN_IMAGES)):
        if answer_batch is not None:
            yield from answer_batch(chunk, config, max_batch_size)
        else:
            yield from (answer_alone(model, *pair, config) for pair in chunk)


def answer_alone(
    model: ChatModel, conversation: Conversation, question: str, config: GenerationConfig
) -> str | VisualGLMError:
    """Return a model's answer to one question, or its error."""
    try:
        return "".join(chunk.text for chunk in model.stream_answer(conversation, question, config))
    except VisualGLMError as error:
        return error
