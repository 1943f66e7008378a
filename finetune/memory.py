"""What the base model knows already, kept by training on its own answers beside the new ones.

Few examples of one question soon make it the only one that a model answers. Before the training the base is asked
other questions about the same pictures, and what it says is mixed in. Known as rehearsal, or self-distillation:
https://arxiv.org/abs/2402.13669.
"""

import json
from collections.abc import Sequence
from itertools import product
from pathlib import Path
from typing import Any

import torch

from model import CHINESE, DEMO, ENGLISH, Conversation, SatChatModel, VisualGLMError
from model.image import load_image
from model.prompt import Language

from .data import ChatDataset

# Asked about every picture, in this order as far as the number of answers goes.
QUESTIONS: tuple[tuple[Language, str], ...] = (
    (CHINESE, CHINESE.describe),
    (ENGLISH, ENGLISH.describe),
    (CHINESE, "图片里有什么？"),
    (ENGLISH, "What is in the picture?"),
    (CHINESE, "图片里有几个物体？"),
    (ENGLISH, "How many objects are there?"),
    (CHINESE, "左边有什么？"),
    (ENGLISH, "What is on the right?"),
    (CHINESE, "右上角有什么？"),
    (ENGLISH, "What is in the bottom left corner?"),
    (CHINESE, "图片里有小汽车吗？"),
    (ENGLISH, "Is there a house?"),
    (CHINESE, "星星是什么颜色？"),
    (ENGLISH, "What colour is the car?"),
    (CHINESE, "树在哪里？"),
    (ENGLISH, "Where is the ball?"),
    (CHINESE, "哪个物体最大？"),
    (ENGLISH, "Which is larger, the tree or the house?"),
)
ROWS = 16  # answered side by side
LONGEST = 128  # tokens of an answer


@torch.no_grad()
def write_memory(file: Path, network: Any, tokenizer: Any, datasets: Sequence[ChatDataset], count: int) -> None:
    """Ask a model that is not trained yet, and write what it answers as training data.

    Args:
        file: JSON lines.
        network: answers.
        datasets: whose pictures are asked about.
        count: answers to write, at most.
    """
    pictures = picture_files(datasets, count)
    if not pictures:
        return
    pairs = [(path, *question) for question, path in product(QUESTIONS, pictures)][:count]
    asked = [(Conversation(load_image(path), language=language), question) for path, language, question in pairs]
    config = DEMO.replace(temperature=0.0, repetition_penalty=1.0, max_new_tokens=LONGEST)
    answers = SatChatModel(network, tokenizer).answer_batch(asked, config, ROWS)
    with file.open("w", encoding="utf-8") as opened:
        for (path, language, question), answer in zip(pairs, answers, strict=True):
            if not isinstance(answer, VisualGLMError) and answer.strip():
                row = {"img": str(path.resolve()), "prompt": question, "label": answer, "language": language.code}
                opened.write(json.dumps(row, ensure_ascii=False) + "\n")


def picture_files(datasets: Sequence[ChatDataset], count: int) -> list[Path]:
    """Return up to `count` pictures of the data."""
    found: dict[Path, None] = {}
    for dataset in datasets:
        for index in range(len(dataset)):
            image = dataset.encode(index).image
            if image is not None:
                found[image] = None
            if len(found) == count:
                return list(found)
    return list(found)
