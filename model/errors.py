"""The errors that a front end may show to a person.

    VisualGLMError
    ├── ImageError            a picture that cannot be found, fetched, read or accepted
    ├── PromptTooLongError    the question alone does not fit into the length limit
    ├── QuestionError         a question that is not text, or a history of an unknown form
    ├── SettingError          a generation setting that makes no sense
    ├── CheckpointError       a model that cannot be found, downloaded or read
    ├── TokenizerError        a tokenizer that cannot be found or read
    ├── ResourceError         too little memory, or too few file descriptors or threads
    ├── GenerationError       a model that gave no usable numbers, or found too little memory
    └── BusyError             too many questions at once

Every message says what was wrong and what to do about it. Anything else that is raised is a bug.
"""


class VisualGLMError(Exception):
    """Root of the errors whose message is written for a person."""


class ImageError(VisualGLMError):
    """A picture that cannot be found, fetched, read or accepted."""


class PromptTooLongError(VisualGLMError):
    """The question alone, without any history, does not fit into the length limit.

    Attributes:
        length: tokens of the prompt; of a question that is far too long, of its beginning.
        limit: tokens allowed, prompt and answer together.
    """

    def __init__(self, length: int, limit: int, *, at_least: bool = False) -> None:
        needed = f"at least {length}" if at_least else f"{length}"
        super().__init__(
            f"The question needs {needed} tokens, which leaves no room for an answer within "
            f"max_length={limit}. Shorten the question or raise max_length."
        )
        self.length = length
        self.limit = limit


class QuestionError(VisualGLMError, ValueError):
    """A question that is not text, or a history of an unknown form."""


class SettingError(VisualGLMError, ValueError):
    """A generation setting that makes no sense."""


class CheckpointError(VisualGLMError):
    """A model that cannot be found, downloaded or read."""


class TokenizerError(VisualGLMError):
    """A tokenizer that cannot be found or read."""


class ResourceError(VisualGLMError):
    """Too little memory, or too few file descriptors or threads."""


class GenerationError(VisualGLMError):
    """A model that gave no usable numbers (NaN logits), or found too little memory."""


class BusyError(VisualGLMError):
    """Too many questions wait for an answer already."""
