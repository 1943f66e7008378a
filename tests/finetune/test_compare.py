"""Two models answer the same questions; an answer is correct if it equals the expected one as the chat displays it."""

import json
import re
import shutil
from itertools import count, islice
from pathlib import Path
from typing import Any

import pytest
import torch

from finetune.compare import main
from finetune.evaluation import displayed_text, questions_of, score_answers
from finetune.rows import read_rows
from model import Conversation, SatChatModel, VisualGLMError, load_sat
from model.answers import answer_all, greedy_config
from model.checkpoint import open_checkpoint, save_sat
from model.command_line import FAILURE, USAGE_ERROR
from model.images.preprocess import load_image
from tests.helpers.html_reader import Reader
from tiny.fewshot import write_folder

NASTY = "<script>alert('x')</script> {title} \x1b[2J"


@pytest.fixture(scope="module")
def model() -> SatChatModel:
    """visualglm-tiny. Do not change it."""
    return load_sat("visualglm-tiny", device="cpu")


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model with other weights, which gives other answers."""
    folder = tmp_path_factory.mktemp("other") / "model"
    changed = load_sat("visualglm-tiny", device="cpu").network
    with torch.no_grad():
        changed.transformer.final_layernorm.weight.neg_()
    checkpoint = open_checkpoint("visualglm-tiny")
    save_sat(folder, changed.state_dict(), checkpoint.config)
    for name in ("ice_text.model", "tokenizer_config.json"):
        shutil.copy(checkpoint.path / name, folder)
    return folder


@pytest.fixture(scope="module")
def data(model: SatChatModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three images with questions; visualglm-tiny answers two correctly, one of them in a second turn."""
    folder = tmp_path_factory.mktemp("data")
    write_folder(folder, seed=5, count=3)
    conversation = Conversation(load_image(folder / "1.jpg"))
    question = "描述这张图片。"
    answer = "".join(piece.text for piece in model.stream_answer(conversation, question, greedy_config(model, 256)))
    rows: list[dict[str, Any]] = [
        {"img": "1.jpg", "prompt": question, "label": answer},
        {"img": "2.jpg", "prompt": NASTY, "label": NASTY, "history": [[NASTY, NASTY]]},
        {"prompt": question, "label": "-"},
    ]
    (folder / "dataset.json").write_text(json.dumps(rows), encoding="utf-8")
    return folder / "dataset.json"


def test_both_answers_and_both_scores_are_shown(
    data: Path, other: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page = tmp_path / "page.html"
    assert main(["visualglm-tiny", str(other), "--data", str(data), "--html", str(page), "--device", "cpu"]) == 0
    shown = capsys.readouterr().out
    assert shown.endswith(f"visualglm-tiny: 1 of 3 (33.3 %)\n  {other}: 0 of 3 (0.0 %)\n")
    assert len(re.findall("✓", shown)) == 1
    assert len(re.findall("✗", shown)) == 5
    assert "\x1b" not in shown
    read = Reader(page.read_text(encoding="utf-8"))
    assert not read.open
    assert read.tags.count("article") == 3
    assert read.tags.count("img") == 2
    assert "script" not in read.tags
    assert read.texts.count(NASTY) == 4
    assert "visualglm-tiny: 1 of 3 (33.3 %)" in read.texts


def test_answers_are_the_chats(model: SatChatModel, data: Path) -> None:
    questions = list(questions_of(read_rows(data)))
    config = greedy_config(model, 256)
    alone = [
        "".join(piece.text for piece in model.stream_answer(one.conversation(), one.text, config)) for one in questions
    ]
    assert [answer.text for answer in score_answers(model, questions, min_tokens=256)] == alone
    assert questions[1].conversation().turns == questions[1].history != []


class Alone:
    """A chat model that answers one question at a time."""

    def __init__(self, model: SatChatModel) -> None:
        self.stream_answer = model.stream_answer
        self.image_size, self.description, self.warm_up = model.image_size, model.description, model.warm_up


def test_an_error_of_one_question_does_not_affect_others(model: SatChatModel) -> None:
    questions = [(Conversation(), "你好"), (Conversation(), "长" * 9999), (Conversation(), "Hello!")]
    config = greedy_config(model, 16)
    for some in (model, Alone(model)):
        answers = list(answer_all(some, iter(questions), config))
        assert [isinstance(answer, VisualGLMError) for answer in answers] == [False, True, False]
        assert answers[::2] == list(answer_all(model, questions[::2], config))


def test_questions_are_consumed_lazily(model: SatChatModel) -> None:
    endless = ((Conversation(), "你好") for _ in count())
    assert len(set(islice(answer_all(model, endless, greedy_config(model, 2)), 3))) == 1


def test_an_expected_answer_is_compared_as_the_chat_would_show_it(model: SatChatModel) -> None:
    shown = displayed_text(model.tokenizer, " 有一只球,红色的!")
    assert shown == "有一只球，红色的！"
    assert displayed_text(model.tokenizer, shown) == shown


def test_numbers_of_asked_and_printed_questions_are_limited(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags = ["--data", str(data), "--device", "cpu"]
    assert main(["visualglm-tiny", "visualglm-tiny", *flags, "--count", "2", "--show", "1"]) == 0
    shown = capsys.readouterr().out
    assert shown.count("row ") == 1
    assert "... and 1 more" in shown
    assert shown.count("1 of 2 (50.0 %)") == 2


def test_bad_data_raises_an_error_or_is_skipped(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [*json.loads(data.read_text(encoding="utf-8")), {"img": "half.jpg", "prompt": "甲", "label": "乙"}, 5]
    (data.parent / "half.jpg").write_bytes((data.parent / "1.jpg").read_bytes()[:900])
    path = data.with_name("bad.json")
    path.write_text(json.dumps(rows), encoding="utf-8")
    flags = ["visualglm-tiny", "visualglm-tiny", "--data", str(path), "--device", "cpu"]
    assert main(flags) == FAILURE
    errors = capsys.readouterr().err
    assert "2 of the 5 rows" in errors
    assert "half.jpg" in errors
    assert main([*flags, "--on-bad-row", "skip"]) == 0
    assert "1 of 3" in capsys.readouterr().out
    assert main([*flags, "--html", str(data.parent / "none" / "page.html")]) == USAGE_ERROR
    assert "Create it, or choose another --html" in capsys.readouterr().err
