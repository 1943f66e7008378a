"""Questions of an evaluation, read lazily from local files in the formats of public benchmarks.

for question in open_questions("coco_pope_popular.json", images="val2014"):
    print(question.text, question.answers, question.image.load().size)
"""

from .formats import FORMATS, QuestionFile, open_questions
from .question import Choice, ImageFile, ImageReference, Question
from .scenes import SceneImage, draw_questions
from .tsv import TableImage

__all__ = [
    "FORMATS",
    "Choice",
    "ImageFile",
    "ImageReference",
    "Question",
    "QuestionFile",
    "SceneImage",
    "TableImage",
    "draw_questions",
    "open_questions",
]
