"""Score given answers: the log-probabilities of their tokens, computed by the engine without generating any."""

import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass

from .answer_stream import BatchModel, stream_answers
from .engine import GenerationConfig
from .errors import VisualGLMError
from .prompt import Conversation
from .streaming import CompleteAnswer, ScoredToken

# Prompt and answer may be as long as the network allows.
SCORING = GenerationConfig(max_length=sys.maxsize, temperature=0, repetition_penalty=1.0, top_logprobs=0)


@dataclass(frozen=True)
class AnswerScore:
    """The log-probabilities of a given answer.

    Attributes:
        tokens: its tokens, each after the prompt and the tokens before it; the end token is not among them.
    """

    tokens: tuple[ScoredToken, ...]

    @property
    def total(self) -> float:
        """Log-probability of the whole answer, natural logarithm."""
        return math.fsum(token.logprob for token in self.tokens)

    @property
    def mean(self) -> float:
        """Log-probability per token, by which answers of different lengths can be compared."""
        return self.total / len(self.tokens)


def score_answers(
    model: BatchModel, questions: Sequence[tuple[Conversation, str, str]], max_batch_size: int
) -> list[AnswerScore | VisualGLMError]:
    """Score given answers; see `NetworkChatModel.score_answers`."""
    results = dict(stream_answers(model, questions, SCORING, max_batch_size))
    return [to_score(results[number]) for number in range(len(questions))]


def to_score(result: CompleteAnswer | VisualGLMError) -> AnswerScore | VisualGLMError:
    """Return the score of a given answer, or its error."""
    return AnswerScore(result.logprobs) if isinstance(result, CompleteAnswer) else result
