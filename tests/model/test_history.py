"""Every API accepts the same history formats, rejects other formats, and requires questions to be text."""

import json
from collections import deque
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from model import (
    Conversation,
    GenerationConfig,
    QuestionError,
    SatChatModel,
    SettingError,
    Turn,
    chat,
    chat_batch,
    generate_input,
    stream_chat,
)
from model.prompt import CHINESE, build_prompt, to_turns
from tests.helpers.hf_models import tiny_model as hf_model, tiny_tokenizer

SCENE = str(Path(__file__).parents[2] / "examples" / "scene.png")
QUESTION = "它是什么颜色的？"
PAIR = ("有小汽车吗？", "有，图片中有一辆小汽车。")
MESSAGES = [{"role": "user", "content": PAIR[0]}, {"role": "assistant", "content": PAIR[1]}]
UNDERSTOOD: list[tuple[Any, int]] = [  # a history and its number of turns
    (None, 0),
    ([], 0),
    ((), 0),
    ([PAIR], 1),
    ([list(PAIR)], 1),
    (deque([PAIR]), 1),
    ((PAIR, list(PAIR)), 2),
    ([Turn(*PAIR)], 1),
    (MESSAGES, 1),
    ([*MESSAGES, *MESSAGES], 2),
    ([PAIR, *MESSAGES, PAIR], 3),
    ([{**message, "name": "a", "options": None} for message in MESSAGES], 1),
]
REFUSED: list[Any] = [
    "",
    "你好",
    b"hello",
    0,
    True,
    {"role": "user", "content": "a"},
    PAIR,  # a flat list
    [*PAIR],
    [*PAIR, *PAIR],
    ["ab"],  # a string of two letters is not a pair
    [b"ab"],
    [("q", "a", "more")],
    [("q",)],
    [()],
    [("q", None)],
    [(None, "a")],
    [("q", 3)],
    [("q", ["a"])],
    [None],
    [PAIR, None],
    [{"q": "a"}],
    [{}],
    [{"question": "q", "answer": "a"}],
    [{"role": "user", "content": "a"}],
    [{"role": "assistant", "content": "a"}],
    [{"role": "system", "content": "a"}, *MESSAGES],
    [{"role": "user", "content": "a"}, {"role": "user", "content": "b"}],
    [{"role": "user", "content": "a"}, PAIR],
    [{"role": "user", "content": "a"}, {"role": "assistant", "content": None}],
    [{"role": "user", "content": [{"type": "text", "text": "a"}]}, {"role": "assistant", "content": "b"}],
    [{"role": "user"}, {"role": "assistant"}],
    np.array([["q", "a"]]),
]
NO_TEXTS: list[Any] = [None, 3, b"hello", ["a"], {"role": "user", "content": "a"}, ("q", "a")]


@pytest.mark.parametrize(("history", "count"), UNDERSTOOD, ids=str)
def test_supported_formats_become_turns(history: Any, count: int) -> None:
    assert to_turns(history) == [Turn(*PAIR)] * count


@pytest.mark.parametrize("history", REFUSED, ids=str)
def test_other_formats_are_rejected_with_the_supported_ones(history: Any) -> None:
    with pytest.raises(QuestionError, match=r"role|question"):
        to_turns(history)


@pytest.mark.parametrize("value", NO_TEXTS, ids=str)
def test_prompts_require_text(value: Any, tiny_model: SatChatModel) -> None:
    for make in (lambda: Turn("q", value), lambda: Turn(value, "a"), lambda: build_prompt([], value, CHINESE)):
        with pytest.raises(QuestionError, match="not text"):
            make()
    with pytest.raises(QuestionError, match="not text"):
        next(tiny_model.stream_answer(Conversation(), value, GenerationConfig()))


def ask_sat(model: SatChatModel, query: Any, history: Any) -> Any:
    settings = {"temperature": 0, "repetition_penalty": 1.0}
    return chat(SCENE, model.network, model.tokenizer, query, history=history, **settings)[:2]


def stream_sat(model: SatChatModel, query: Any, history: Any) -> Any:
    settings = {"temperature": 0, "repetition_penalty": 1.0}
    return list(stream_chat(SCENE, model.network, model.tokenizer, query, history=history, **settings))[-1][:2]


def ask_hf(_: SatChatModel, query: Any, history: Any) -> Any:
    settings = {"do_sample": False, "repetition_penalty": 1, "min_length": 0}
    return hf_model().chat(tiny_tokenizer(), SCENE, query, history=history, **settings)


def stream_hf(_: SatChatModel, query: Any, history: Any) -> Any:
    settings = {"do_sample": False, "repetition_penalty": 1, "min_length": 0}
    return list(hf_model().stream_chat(tiny_tokenizer(), SCENE, query, history, **settings))[-1]


def ask_batch(model: SatChatModel, query: Any, history: Any) -> Any:
    settings = {"temperature": 0, "repetition_penalty": 1.0}
    (answer,) = chat_batch([SCENE], model.network, model.tokenizer, [query], [history], **settings)
    if isinstance(answer, Exception):
        raise answer
    return answer


def build_input(model: SatChatModel, query: Any, history: Any) -> Any:
    data = generate_input(query, SCENE, history, image_is_encoded=False)
    return ask_sat(model, data["input_query"], data["history"])


@pytest.mark.parametrize("ask", [ask_sat, stream_sat, ask_hf, stream_hf, ask_batch, build_input])
class TestApis:
    def test_all_formats_get_one_answer_and_are_returned_as_pairs(self, ask: Any, tiny_model: SatChatModel) -> None:
        before = json.dumps(MESSAGES)
        answers = [ask(tiny_model, QUESTION, history) for history in ([PAIR], MESSAGES, [list(PAIR)])]
        assert answers == [answers[0]] * 3
        assert answers[0][1] == [PAIR, (QUESTION, answers[0][0])]
        assert json.dumps(MESSAGES) == before

    def test_none_is_no_history(self, ask: Any, tiny_model: SatChatModel) -> None:
        assert ask(tiny_model, "图片里有什么？", None) == ask(tiny_model, "图片里有什么？", [])

    @pytest.mark.parametrize("history", [PAIR, ["ab"], [("q", "a", "b")], [("q", None)], [{"q": "a"}], "你好"], ids=str)
    def test_other_histories_are_rejected(self, ask: Any, history: Any, tiny_model: SatChatModel) -> None:
        with pytest.raises(QuestionError):
            ask(tiny_model, QUESTION, history)

    @pytest.mark.parametrize("query", NO_TEXTS, ids=str)
    def test_a_question_must_be_text(self, ask: Any, query: Any, tiny_model: SatChatModel) -> None:
        with pytest.raises(QuestionError, match="not text"):
            ask(tiny_model, query, None)


class TestBatch:
    def test_one_text_is_asked_about_each_image(self, tiny_model: SatChatModel) -> None:
        images = [SCENE, None, SCENE.replace("scene", "scene_2")]
        question, settings = "图片里有什么？", {"temperature": 0, "repetition_penalty": 1.0}
        answers = chat_batch(images, tiny_model.network, tiny_model.tokenizer, question, **settings)
        each = chat_batch(images, tiny_model.network, tiny_model.tokenizer, [question] * 3, **settings)
        assert len({answer for answer, _ in answers}) == 3
        assert answers == each

    def test_an_error_of_one_question_leaves_the_others(self, tiny_model: SatChatModel) -> None:
        queries: list[Any] = ["图片里有几个物体？", None, QUESTION, QUESTION]
        histories: list[Any] = [None, [], "ab", MESSAGES]
        first, second, third, last = chat_batch(
            [SCENE] * 4, tiny_model.network, tiny_model.tokenizer, queries, histories, temperature=0
        )
        assert first[0] == "图片中一共有三个物体。"
        assert [type(error) for error in (second, third)] == [QuestionError, QuestionError]
        assert last[1][0] == PAIR

    @pytest.mark.parametrize(
        ("images", "queries", "histories", "named"),
        [
            (SCENE, ["a"], None, "images"),
            (None, ["a"], None, "images"),
            ([None], None, None, "queries"),
            ([None], {"a": "b"}, None, "queries"),
            ([None] * 2, ["a", "b"], "ab", "histories"),
        ],
    )
    def test_a_single_value_is_rejected(
        self, images: Any, queries: Any, histories: Any, named: str, tiny_model: SatChatModel
    ) -> None:
        with pytest.raises(SettingError, match=f"{named}.*type"):
            chat_batch(images, tiny_model.network, tiny_model.tokenizer, queries, histories)
