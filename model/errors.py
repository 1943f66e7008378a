"""Define the errors whose messages are written for users: subclasses of `VisualGLMError`.

    VisualGLMError
    ├── ImageError            the image cannot be found, fetched or decoded, or exceeds a limit
    ├── PromptTooLongError    the question alone exceeds the length limit
    ├── QuestionError         the question is not text, or the history has an unknown format
    ├── SettingError          a setting is invalid
    ├── CheckpointError       the model cannot be found, downloaded or read
    ├── TokenizerError        the tokenizer cannot be found or read
    ├── ResourceError         too little memory, or too few file descriptors or threads
    ├── GenerationError       the logits are NaN, memory ran out, or the scheduler is closed
    └── BusyError             the queue of questions is full

Every message states the problem and its remedy. Any other exception is a bug.
"""


class VisualGLMError(Exception):
    """Base class of errors whose messages are written for users."""


class ImageError(VisualGLMError):
    """The image cannot be found, fetched or decoded, or exceeds a limit."""


class PromptTooLongError(VisualGLMError):
    """The question alone, without any history, exceeds the length limit.

    Attributes:
        length: tokens of the prompt; for a question that is far too long, tokens of its beginning.
        limit: maximum number of tokens of prompt and answer together.
    """

    def __init__(self, length: int, limit: int, *, at_least: bool = False) -> None:
        needed = f"at least {length}" if at_least else f"{length}"
        super().__init__(
            f"The question needs {needed} tokens, which leaves no tokens for an answer within "
            f"max_length={limit}. Shorten the question or raise max_length."
        )
        self.length = length
        self.limit = limit


class QuestionError(VisualGLMError, ValueError):
    """The question is not text, or the history has an unknown format."""


class SettingError(VisualGLMError, ValueError):
    """A setting is invalid."""


class CheckpointError(VisualGLMError):
    """The model cannot be found, downloaded or read."""


class TokenizerError(VisualGLMError):
    """The tokenizer cannot be found or read."""


class ResourceError(VisualGLMError):
    """There is too little memory, or there are too few file descriptors or threads."""


class GenerationError(VisualGLMError):
    """The logits are NaN, memory ran out, a prompt exceeds the capacity, or the scheduler is closed."""


class BusyError(VisualGLMError):
    """The queue of waiting questions is full."""
