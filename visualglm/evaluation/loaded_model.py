"""Have a model that is already loaded answer the questions of an evaluation."""

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from visualglm.batch.tasks import Settings

from .answers import AnswerRow
from .errors import EvaluationError
from .question_tasks import CONDITION, QUESTION_KEY, QuestionTasks

if TYPE_CHECKING:  # imports torch
    from model.chat_model import NetworkChatModel


def answer_questions(
    model: "NetworkChatModel", tasks: QuestionTasks, sampling: Mapping[str, Any]
) -> Iterator[tuple[str, AnswerRow]]:
    """Yield the answers with their conditions as they finish.

    Args:
        model: the model.
        tasks: the questions in all conditions.
        sampling: values of `GenerationConfig` that differ from the model's own defaults.

    Raises:
        EvaluationError: a question cannot be answered.
    """
    from visualglm.batch.work import Answerer

    for result in Answerer(Settings("", sampling=sampling), model=model).answer(tasks):
        columns = result.task.columns
        if result.error:
            raise EvaluationError(f"The question {columns[QUESTION_KEY]} cannot be answered: {result.error}")
        row = AnswerRow(columns[QUESTION_KEY], result.answer, result.logprob, tuple(result.choice_logprobs))
        yield columns[CONDITION], row
