"""How much is in a batch."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Sizes:
    """How much is in a batch.

    Attributes:
        pictures: pictures in a batch.
        questions: questions about each, half in each language.
        groups: parts of similar length into which the questions about pictures are sorted.
        grid: cells of a row of the object map.
        places: cells of a row of the map of places, which is read from the image embeddings.
        image_length: vectors that stand for a picture.
        seed: of everything that is drawn.
    """

    pictures: int = 128
    questions: int = 8
    groups: int = 8
    grid: int = 16
    places: int = 6
    image_length: int = 32
    seed: int = 1
