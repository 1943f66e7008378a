"""The vocabulary trained by tiny/training/tokenizer.py has the published layout."""

import itertools
from pathlib import Path

import pytest

from model.hf.tokenization_chatglm import ChatGLMTokenizer, whitespace_pieces
from tiny.training.tokenizer import CHINESE, CONTROL_PIECES, HEAD_PIECES, count_candidates, train_tokenizer

COLORS = {"red": "红色", "green": "绿色", "blue": "蓝色", "yellow": "黄色"}
SHAPES = {"circle": "圆形", "square": "正方形", "star": "星星"}
VOCAB_SIZE = 480


def make_texts() -> list[str]:
    pairs = itertools.product(COLORS.items(), SHAPES.items())
    return [
        text
        for (color, chinese_color), (shape, chinese_shape) in pairs
        for text in (
            f"<img></img>Q:What is in the picture?\nA:A {color} {shape} on the left, and 3 more.",
            f"<img></img>问：图片里有什么？\n答：左边有一个{chinese_color}的{chinese_shape}，背景是天空、草地。",
        )
    ]


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tokenizer") / "new"
    train_tokenizer(make_texts(), path, VOCAB_SIZE)
    return path


@pytest.fixture(scope="module")
def tokenizer(directory: Path) -> ChatGLMTokenizer:
    return ChatGLMTokenizer.from_pretrained(directory)


@pytest.fixture(scope="module")
def pieces(tokenizer: ChatGLMTokenizer) -> list[str]:
    return [tokenizer.sp_model.id_to_piece(i) for i in range(tokenizer.vocab_size)]


def test_order_of_pieces(pieces: list[str]) -> None:
    layout = [piece for piece in whitespace_pieces() if piece != "<n>"]
    tail = [*CONTROL_PIECES, *layout, *(f"<0x{value:02X}>" for value in range(256))]
    assert tuple(pieces[:5]) == HEAD_PIECES
    assert pieces[-len(tail) :] == tail
    assert len(pieces) == len(set(pieces)) <= VOCAB_SIZE


def test_kinds_of_pieces(tokenizer: ChatGLMTokenizer, pieces: list[str]) -> None:
    model = tokenizer.sp_model
    controls = {"<s>", "</s>", "<pad>", *CONTROL_PIECES}
    assert {piece for i, piece in enumerate(pieces) if model.is_control(i)} == controls
    assert [i for i in range(len(pieces)) if model.is_unknown(i)] == [0]
    assert sum(model.is_byte(i) for i in range(len(pieces))) == 256
    for piece in whitespace_pieces():  # user-defined pieces are matched anywhere as one piece
        assert model.piece_to_id(piece) in model.encode(f"a{piece}b")


def test_special_ids_match_the_vocabulary(tokenizer: ChatGLMTokenizer, pieces: list[str]) -> None:
    assert (tokenizer.unk_token_id, tokenizer.pad_token_id, tokenizer.end_token_id) == (0, 3, 2)
    first = pieces.index("[MASK]")
    ids = (tokenizer.mask_token_id, tokenizer.gmask_token_id, tokenizer.bos_token_id, tokenizer.eos_token_id)
    assert ids == (first, first + 1, first + 4, first + 5)
    assert tokenizer("<img>")["input_ids"][-2:] == [first + 1, first + 4]


def test_forbidden_range_holds_exactly_the_chinese_pieces(tokenizer: ChatGLMTokenizer, pieces: list[str]) -> None:
    [(start, stop)] = tokenizer.english_forbidden_ids
    assert stop == tokenizer.mask_token_id
    assert [i for i, piece in enumerate(pieces) if CHINESE.search(piece)] == list(range(start, stop))
    assert {"。", "、"} <= set(pieces[start:stop])


def test_english_needs_no_forbidden_id(tokenizer: ChatGLMTokenizer) -> None:
    [(start, stop)] = tokenizer.english_forbidden_ids
    ids = tokenizer.encode_text("Q:What is in the picture?\nA:A red star, and 3 more.")
    assert not any(start <= i < stop for i in ids)


def test_words_become_pieces(pieces: list[str]) -> None:
    assert {"▁circle", "▁square", "▁picture"} <= set(pieces)


@pytest.mark.parametrize("text", ["<img>", "</img>问：图片里有什么？\n答：", "</img>Q:What is red?\nA:"])
def test_prompts_have_no_unknown_piece(tokenizer: ChatGLMTokenizer, text: str) -> None:
    ids = tokenizer.encode_text(text)
    assert tokenizer.unk_token_id not in ids
    assert tokenizer.decode_text(ids) == text.translate({ord("："): ":", ord("？"): "?"})


@pytest.mark.parametrize("text", ["😀👍🏽", "龘靐", "Zürich", "a\tb\n  c\n", "日本語のテキスト"])
def test_characters_never_seen_round_trip(tokenizer: ChatGLMTokenizer, text: str) -> None:
    assert tokenizer.decode(tokenizer.encode_text(text), clean_up_tokenization_spaces=False) == text


def test_training_texts_round_trip(tokenizer: ChatGLMTokenizer) -> None:
    folded = str.maketrans("：？，", ":?,")
    for text in make_texts():
        assert tokenizer.decode_text(tokenizer.encode_text(text)) == text.translate(folded)


def test_training_is_deterministic(directory: Path, tmp_path: Path) -> None:
    train_tokenizer(iter(make_texts()), tmp_path, VOCAB_SIZE)
    for name in ("ice_text.model", "tokenizer_config.json"):
        assert (tmp_path / name).read_bytes() == (directory / name).read_bytes()
    assert str(tmp_path).encode() not in (tmp_path / "ice_text.model").read_bytes()
    assert b"seeds.tsv" not in (tmp_path / "ice_text.model").read_bytes()


def test_without_chinese_nothing_is_forbidden(tmp_path: Path) -> None:
    train_tokenizer(["a red star", "a blue star"], tmp_path, 400)
    assert ChatGLMTokenizer.from_pretrained(tmp_path).english_forbidden_ids == []


def test_too_small_a_vocabulary_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match=r"[Vv]ocab"):
        train_tokenizer(make_texts(), tmp_path, 355)


def test_seeds_are_parts_of_words_seen_twice() -> None:
    candidates = count_candidates(["red ball<n>ball", "a red hat。"])
    assert candidates["▁red"] == 2
    assert candidates["ball"] == 2
    assert "▁ball" not in candidates
    assert not any("<" in part or "▁" in part[1:] for part in candidates)


def test_colors_and_nouns_are_pieces_of_their_own() -> None:
    candidates = count_candidates(["有一条红色的小汽车在左边", "有一条红色的小汽车在左边", "红球"])
    assert {"有一条", "红色的", "小汽车", "在左边"} <= set(candidates)
    assert not any("条红" in part or "的小" in part or "车在" in part or "红球" in part for part in candidates)
