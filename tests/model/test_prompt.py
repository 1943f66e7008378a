"""Prompts and cleaned answers equal the original's; streamed text is never revised."""

import json
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from model.checkpoint.resolve import EMBEDDED
from model.errors import PromptTooLongError
from model.hf.tokenization_chatglm import ChatGLMTokenizer, clean_up_spaces
from model.prompt import (
    CHINESE,
    ENGLISH,
    Conversation,
    Prompt,
    StableTextStream,
    Turn,
    build_prompt,
    clean_answer,
    encode_prompt,
    encode_turns,
    is_chinese,
)
from tests.conftest import GOLDENS

PUBLISHED = Path(__file__).parents[3] / "shared" / "data"
needs_published = pytest.mark.skipif(
    not (PUBLISHED / "ice_text.model").is_file(), reason="the published vocabulary is not part of the repository"
)


@pytest.fixture(scope="module")
def tokenizer() -> ChatGLMTokenizer:
    """The small model's tokenizer."""
    return ChatGLMTokenizer.from_pretrained(EMBEDDED / "visualglm-tiny")


@pytest.fixture(scope="module")
def published() -> ChatGLMTokenizer:
    """The published tokenizer."""
    return ChatGLMTokenizer.from_pretrained(PUBLISHED)


CASES = {
    "zh_image": Conversation("picture"),
    "en_image": Conversation("picture", language=ENGLISH),
    "zh_history_image": Conversation("picture", [Turn("你好", "你好！")]),
    "zh_text": Conversation(),
}
QUESTIONS = {
    "zh_image": "描述这张图片。",
    "en_image": "Describe the image.",
    "zh_history_image": "这张图片可能是在什么场所拍摄的？",
    "zh_text": "描述这张图片。",
}


@needs_published
@pytest.mark.parametrize("name", CASES)
def test_ids_equal_the_original(name: str, golden_spec: Any, published: ChatGLMTokenizer) -> None:
    case = golden_spec["cases"][name]
    conversation, question = CASES[name], QUESTIONS[name]
    assert build_prompt(conversation.turns, question, conversation.language) == case["text"]
    prompt = encode_prompt(published, conversation, question, image_length=32, max_length=1024)
    assert prompt.token_ids == case["input_ids"]
    assert prompt.image_start == (case["image_start"] if case["image"] else None)


@needs_published
def test_english_forbids_the_chinese_ids_of_the_published_vocabulary(published: ChatGLMTokenizer) -> None:
    assert ENGLISH.forbidden_ids(published) == ((63823, 130000),)
    assert CHINESE.forbidden_ids(published) == ()


def test_english_forbids_what_is_chinese_and_nothing_else(tokenizer: ChatGLMTokenizer) -> None:
    ((start, stop),) = ENGLISH.forbidden_ids(tokenizer)
    pieces = tokenizer.convert_ids_to_tokens(list(range(start, stop)))
    assert all(is_chinese(piece) or not piece.isascii() for piece in pieces)
    chinese = [
        i for i in tokenizer.encode_text("图片中有一个红色的球。") if is_chinese(tokenizer.convert_ids_to_tokens(i))
    ]
    assert chinese
    assert all(start <= i < stop for i in chinese)


@pytest.mark.parametrize("control", ["<sop>", "[gMASK]", "<eop>", "[MASK]", "<pad>", "<unk>", "</s>", "<img>x</img>"])
def test_control_strings_in_a_question_are_plain_words(tokenizer: ChatGLMTokenizer, control: str) -> None:
    conversation = Conversation("picture", [Turn(control, control)])
    prompt = encode_prompt(tokenizer, conversation, f"a {control} b", image_length=32, max_length=1024)
    special = {tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.gmask_token_id, tokenizer.mask_token_id}
    assert [i for i in prompt.token_ids if i in special] == [tokenizer.gmask_token_id, tokenizer.bos_token_id]
    assert prompt.token_ids[-2:] == [tokenizer.gmask_token_id, tokenizer.bos_token_id]
    assert prompt.token_ids.count(tokenizer.pad_token_id) == 32
    assert control in tokenizer.decode_text(prompt.token_ids)


def make_long(turns: int) -> Conversation:
    """Return a conversation of many numbered turns."""
    return Conversation(None, [Turn(f"question {number}", "answer " * 5) for number in range(turns)], ENGLISH)


def test_a_conversation_past_the_limit_drops_its_oldest_turns(tokenizer: ChatGLMTokenizer) -> None:
    conversation = make_long(30)
    whole = encode_prompt(tokenizer, conversation, "last", image_length=32, max_length=4000)
    assert whole.dropped_turns == 0
    limit = len(whole.token_ids) // 2
    prompt = encode_prompt(tokenizer, conversation, "last", image_length=32, max_length=limit)
    text = tokenizer.decode_text(prompt.token_ids)
    assert len(prompt.token_ids) <= limit - limit // 8
    assert f"question {prompt.dropped_turns}\n" in text
    assert f"question {prompt.dropped_turns - 1}\n" not in text
    assert text.endswith("Q:last\nA:")
    assert len(conversation.turns) == 30


def test_no_more_turns_are_dropped_than_needed(tokenizer: ChatGLMTokenizer) -> None:
    conversation = make_long(30)
    dropped = encode_prompt(tokenizer, conversation, "last", image_length=32, max_length=300).dropped_turns
    fuller = Conversation(None, conversation.turns[dropped - 1 :], ENGLISH)
    assert encode_prompt(tokenizer, fuller, "last", image_length=32, max_length=300).dropped_turns == 1


def test_a_question_that_does_not_fit_says_both_lengths(tokenizer: ChatGLMTokenizer) -> None:
    conversation = Conversation("picture", [Turn("a", "b")])
    with pytest.raises(PromptTooLongError, match="max_length=64") as caught:
        encode_prompt(tokenizer, conversation, "word " * 100, image_length=32, max_length=64)
    assert caught.value.limit == 64
    assert caught.value.length > 64
    assert str(caught.value.length) in str(caught.value)


def test_a_question_that_just_fits_is_answered(tokenizer: ChatGLMTokenizer) -> None:
    prompt = encode_prompt(tokenizer, Conversation(), "hello", image_length=32, max_length=1024)
    length = len(prompt.token_ids)
    assert encode_prompt(tokenizer, Conversation(), "hello", image_length=32, max_length=length + 1) == prompt
    with pytest.raises(PromptTooLongError):
        encode_prompt(tokenizer, Conversation(), "hello", image_length=32, max_length=length)


def encode_dropping_one_by_one(
    tokenizer: ChatGLMTokenizer, conversation: Conversation, question: str, max_length: int
) -> Prompt:
    """Reference for `encode_prompt`: encode the complete conversation again for each dropped turn."""
    length = None if conversation.image is None else 32
    for dropped in range(len(conversation.turns) + 1):
        turns = conversation.turns[dropped:]
        prompt = encode_turns(tokenizer, turns, question, conversation.language, length)
        if len(prompt.token_ids) <= max_length - max_length // 8:
            break
    return replace(prompt, dropped_turns=dropped)


FRAGMENTS = (
    *(
        "word",
        "猫",
        "图片中有",
        "a",
        "A:",
        "答：",
        "问：",
        "😀",
        "👨‍👩‍👧",
        "é",
        "e\u0301",
        "\u0301",
        "ﬁ",
        "Ⅷ",
        "\u200b",
        "\ufeff",
    ),
    *(
        " ",
        "  ",
        " " * 90,
        "\n",
        "\n\n",
        "\t",
        "\r\n",
        "\u3000",
        "\xa0",
        "\x01",
        "<",
        ">",
        "n>",
        "<n",
        "<n>",
        "<|tab|>",
    ),
    *("<|blank_2|>", "<|blank_", "[MASK]", "[gMASK]", "<sop>", "<eop>", "<img>", "</img>", "<pad>", "\ud800", "", "\0"),
)


def draw_text(draw: random.Random) -> str:
    return "".join(draw.choice(FRAGMENTS) for _ in range(draw.randrange(12)))


@pytest.mark.parametrize("seed", range(60))
@pytest.mark.parametrize("vocabulary", ["tokenizer", pytest.param("published", marks=needs_published)])
def test_a_prompt_is_that_of_dropping_turns_one_by_one(
    vocabulary: str, seed: int, request: pytest.FixtureRequest
) -> None:
    tokenizer = request.getfixturevalue(vocabulary)
    draw = random.Random(seed)
    turns = [Turn(draw_text(draw), draw_text(draw)) for _ in range(draw.randrange(12))]
    conversation = Conversation(draw.choice([None, "picture"]), turns, draw.choice([CHINESE, ENGLISH]))
    question = draw_text(draw)
    for max_length in (120, 160, *range(200, 260), 400):
        expected = encode_dropping_one_by_one(tokenizer, conversation, question, max_length)
        if len(expected.token_ids) >= max_length:
            with pytest.raises(PromptTooLongError):
                encode_prompt(tokenizer, conversation, question, image_length=32, max_length=max_length)
        else:
            prompt = encode_prompt(tokenizer, conversation, question, image_length=32, max_length=max_length)
            assert prompt == expected


class CountingTokenizer:
    """Counts the characters passed to another tokenizer."""

    def __init__(self, tokenizer: ChatGLMTokenizer) -> None:
        self.tokenizer = tokenizer
        self.characters = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self.tokenizer, name)

    def encode_text(self, text: str) -> list[int]:
        self.characters += len(text)
        return self.tokenizer.encode_text(text)


def count_characters(tokenizer: ChatGLMTokenizer, turns: list[Turn]) -> int:
    """Return the number of characters encoded for a short question after `turns`."""
    counting = CountingTokenizer(tokenizer)
    encode_prompt(counting, Conversation("picture", turns), "最后", image_length=32, max_length=512)
    return counting.characters


def test_dropped_turns_are_not_encoded(tokenizer: ChatGLMTokenizer) -> None:
    turns = [Turn(f"question {number}", "answer " * 5) for number in range(500, 2000)]
    few, many = count_characters(tokenizer, turns[-100:]), count_characters(tokenizer, turns)
    assert few == many < 10_000


def test_a_giant_turn_is_not_tokenized_completely(tokenizer: ChatGLMTokenizer) -> None:
    giant, short = Turn("巨" * 100_000, "word " * 100_000), Turn("a", "b")
    for turns in ([giant], [short, giant], [giant, short], [short, giant, short]):
        assert count_characters(tokenizer, turns) < 50_000


@pytest.mark.parametrize("character", ["巨", "a", "😀"])
def test_a_giant_question_is_rejected_after_its_beginning(tokenizer: ChatGLMTokenizer, character: str) -> None:
    counting = CountingTokenizer(tokenizer)
    with pytest.raises(PromptTooLongError, match="at least"):
        encode_prompt(counting, Conversation(), character * 10_000_000, image_length=32, max_length=512)
    assert counting.characters < 50_000


def test_a_long_question_of_few_tokens_is_answered(tokenizer: ChatGLMTokenizer) -> None:
    question = f"a{' ' * 7000}b"  # one token for each 80 blanks
    prompt = encode_prompt(tokenizer, Conversation(), question, image_length=32, max_length=100)
    assert prompt == encode_turns(tokenizer, (), question, CHINESE, None)
    with_turn = Conversation(None, [Turn(question, "b"), Turn("c", "d")])
    assert encode_prompt(tokenizer, with_turn, "e", image_length=32, max_length=200).dropped_turns == 0


@pytest.mark.parametrize("row", json.loads((GOLDENS / "clean_answer.json").read_text(encoding="utf-8")))
def test_clean_answer_equals_the_original(row: dict[str, str]) -> None:
    assert clean_answer(row["raw"]) == row["clean"]


ALPHABET = [*"中文a,.!:;? \n'ntvrems[]训练时间答A1，", "[[训练时间]]", " n't", " 've", "  ", "答：", "\n答："]


@pytest.mark.parametrize("seed", range(300))
def test_streamed_text_is_the_clean_answer_and_is_never_revised(seed: int) -> None:
    draw = random.Random(seed)

    def clean(raw: str) -> str:
        return clean_answer(clean_up_spaces(raw))

    pieces = [draw.choice(ALPHABET) for _ in range(draw.randrange(40))]
    stream = StableTextStream(clean)
    shown = ""
    for piece in pieces:
        shown += stream.push(piece)
    assert shown + stream.flush() == clean("".join(pieces))


def test_a_stream_delays_no_more_text_than_necessary() -> None:
    stream = StableTextStream()
    assert [stream.push(piece) for piece in ["图片", "中", "有", "猫", ",", "狗"]] == [
        "图片",
        "中",
        "有",
        "猫",
        "",
        "，狗",
    ]
