"""A question of an evaluation, and a reference to its image that is loaded on demand."""

import string
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from model.images.preprocess import load_image

LETTERS = string.ascii_uppercase
CHOICE_REQUEST = "Please select the correct answer from the options above."


@dataclass(frozen=True)
class ImageReference:
    """An image that is loaded on demand.

    Attributes:
        name: identifies the image: references of equal names are references to one image.
    """

    name: str

    def source(self) -> Path | bytes | Image.Image:
        """Return what `model.images.preprocess.load_image` loads: a path, the bytes of a file, or an image."""
        raise NotImplementedError

    def load(self) -> Image.Image:
        """Load the image.

        Raises:
            ImageError: it cannot be read or decoded.
        """
        return load_image(self.source())


@dataclass(frozen=True)
class ImageFile(ImageReference):
    """An image in a file."""

    path: Path

    def source(self) -> Path:
        return self.path


@dataclass(frozen=True)
class Choice:
    """An option of a multiple-choice question."""

    letter: str
    text: str


@dataclass(frozen=True)
class Question:
    """A question of an evaluation.

    Attributes:
        key: identifies the question in its file.
        image: reference to the image; None for none.
        text: the question, without the options.
        answers: accepted answers; for multiple choice the letter of the correct option. Empty if unknown.
        choices: the options of a multiple-choice question, in order.
        kind: category, by which scores are grouped; "" for none.
        group: the image's name; questions of one group are not independent, so that intervals resample groups.
        hint: a text to put before the question, "" for none.
        history: earlier questions and answers.
        language: "zh" or "en"; None detects it from the question.
    """

    key: str
    image: ImageReference | None
    text: str
    answers: tuple[str, ...] = ()
    choices: tuple[Choice, ...] = ()
    kind: str = ""
    group: str = ""
    hint: str = ""
    history: tuple[tuple[str, str], ...] = ()
    language: str | None = None

    @property
    def cluster(self) -> str:
        """Return the group, or for a question without an image the key."""
        return self.group or self.key

    def accepted_texts(self) -> tuple[str, ...]:
        """Return the accepted answers; for multiple choice the text of the correct option."""
        texts = {choice.letter: choice.text for choice in self.choices}
        return tuple(texts.get(answer, answer) for answer in self.answers)

    def prompt(self) -> str:
        """Return the text to ask: for multiple choice with hint and options, as VLMEvalKit writes it."""
        if not self.choices:
            return f"{self.hint}\n{self.text}" if self.hint else self.text
        hint = f"Hint: {self.hint}\n" if self.hint else ""
        options = "".join(f"{choice.letter}. {choice.text}\n" for choice in self.choices)
        return f"{hint}Question: {self.text}\nOptions:\n{options}{CHOICE_REQUEST}"
