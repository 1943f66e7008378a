"""Questions about drawn scenes of visualglm-tiny's world, which need no file."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

from PIL import Image

from visualglm.scenes import DrawnScene, draw_scene
from visualglm.scenes.sentences import LANGUAGES

from .question import ImageReference, Question

FIRST_SEED = 10**9  # `visualglm.scenes.draw_scene` draws other scenes for each seed


@dataclass(frozen=True)
class SceneImage(ImageReference):
    """A drawn scene.

    Attributes:
        seed: seed of `draw_scene`.
    """

    seed: int

    def source(self) -> Image.Image:
        return cached_scene(self.seed).image


@lru_cache(maxsize=8)
def cached_scene(seed: int) -> DrawnScene:
    """Draw a scene; the last few are kept, because each has several questions."""
    return draw_scene(seed)


def draw_questions(scenes: int, seed: int = FIRST_SEED) -> Iterator[Question]:
    """Yield all questions about `scenes` drawn scenes, in both languages; the kind is the language.

    Args:
        scenes: number of scenes.
        seed: seed of the first scene; the following scenes have the following seeds.
    """
    for number in range(seed, seed + scenes):
        image = SceneImage(f"scene {number}", number)
        for index, question in enumerate(cached_scene(number).questions, start=1):
            for language in LANGUAGES:
                yield Question(
                    f"{number}.{index}.{language}",
                    image,
                    question.question[language],
                    (question.answer[language],),
                    kind=language,
                    group=image.name,
                    language=language,
                )
