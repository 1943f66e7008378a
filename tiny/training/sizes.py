"""How much is in a batch."""

from dataclasses import dataclass
from itertools import pairwise


@dataclass(frozen=True)
class Sizes:
    """How much is in a batch.

    Attributes:
        pictures: pictures in a batch.
        questions: questions about each, half in each language.
        cuts: where the questions about pictures, sorted by length, are parted, in shares of all. Few parts make few
            kernels, and a small last one for the long ones little padding.
        grid: cells of a row of the object map.
        places: cells of a row of the map of places, which is read from the image embeddings.
        image_length: vectors that stand for a picture.
        seed: of everything that is drawn.
    """

    pictures: int = 128
    questions: int = 8
    cuts: tuple[float, ...] = (0.5625, 0.8125, 0.96875)
    grid: int = 16
    places: int = 6
    image_length: int = 32
    seed: int = 1

    def __post_init__(self) -> None:
        if any(stop <= start for start, stop in self.parts()):
            raise ValueError(
                f"{self.pictures} pictures with {self.questions} questions each leave a part empty; take more."
            )

    def parts(self) -> list[tuple[int, int]]:
        """Return where each part of the sorted rows begins and ends."""
        count = self.pictures * self.questions
        return list(pairwise([0, *(int(cut * count) for cut in self.cuts), count]))
