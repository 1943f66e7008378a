"""ChatGLMTokenizer with the published vocabulary, which is not in the repository."""

import copy
import json
import logging
import pickle
import random
import shutil
from pathlib import Path

import pytest
import transformers
from tokenizers.decoders import DecodeStream

from model.hf.tokenization_chatglm import (
    MAX_SPACES,
    ChatGLMTokenizer,
    clean_up_spaces,
    encode_whitespace,
    whitespace_pieces,
)

VOCAB_FILE = Path(__file__).parents[4] / "shared" / "data" / "ice_text.model"
GOLDENS = json.loads((Path(__file__).parents[2] / "goldens" / "tokenizer.json").read_text(encoding="utf-8"))
PUBLISHED_CONFIG = {
    "name_or_path": "THUDM/chatglm-6b",
    "bos_token": "<sop>",
    "eos_token": "<eop>",
    "end_token": "</s>",
    "gmask_token": "[gMASK]",
    "mask_token": "[MASK]",
    "pad_token": "<pad>",
    "unk_token": "<unk>",
    "remove_space": False,
    "do_lower_case": False,
    "tokenizer_class": "ChatGLMTokenizer",
    "num_image_tokens": 0,
    "auto_map": {"AutoTokenizer": ["tokenization_chatglm.ChatGLMTokenizer", None]},
}
SPECIAL_STRINGS = ("<sop>", "<eop>", "[MASK]", "[gMASK]", "[sMASK]", "<pad>", "<unk>", "</s>", "<s>", "<ENC>", "<0x41>")
FIRST_BYTE = 130_088
EXTRA_TOKENS_KEY = "additional_special_tokens" if transformers.__version__ < "5" else "extra_special_tokens"

pytestmark = pytest.mark.skipif(
    not VOCAB_FILE.is_file(), reason=f"the published vocabulary is not part of the repository: {VOCAB_FILE}"
)


@pytest.fixture(scope="module")
def tokenizer() -> ChatGLMTokenizer:
    return ChatGLMTokenizer(VOCAB_FILE)


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """A checkpoint directory that contains only the vocabulary."""
    shutil.copyfile(VOCAB_FILE, tmp_path / "ice_text.model")
    return tmp_path


def byte_ids(data: bytes) -> list[int]:
    return [FIRST_BYTE + value for value in data]


def stream_text(tokenizer: ChatGLMTokenizer, ids: list[int]) -> str:
    stream = tokenizer.stream()
    return "".join(map(stream.push, ids)) + stream.flush()


@pytest.mark.parametrize("row", GOLDENS["rows"], ids=range(len(GOLDENS["rows"])))
def test_golden_row(tokenizer: ChatGLMTokenizer, row: dict) -> None:
    assert tokenizer.encode(row["text"], add_special_tokens=False) == row["ids"]
    assert tokenizer.encode(row["text"]) == row["ids_with_special"]
    assert tokenizer.decode(row["ids"]) == row["decoded"]
    assert tokenizer.decode_text(row["ids"]) == row["decoded"]


@pytest.mark.parametrize(
    ("text", "ids"),
    [  # as transformers 4.33.3: whitespace around a special string is removed, "[gMASK]" and "</s>" are plain text
        ("<sop>  \n hi", [130004, 12273]),
        ("a [gMASK] </s>", [104, 53, 199, 15475, 42, 98, 106, 33]),
        ("你好<eop>\t\n<pad> <unk>", [5, 74874, 130005, 3, 0]),
    ],
)
def test_encode_takes_special_strings_as_the_original_did(
    tokenizer: ChatGLMTokenizer, text: str, ids: list[int]
) -> None:
    assert tokenizer.encode(text, add_special_tokens=False) == ids


def test_special_ids(tokenizer: ChatGLMTokenizer) -> None:
    names = ("pad", "bos", "eos", "mask", "unk")
    assert {name: getattr(tokenizer, f"{name}_token_id") for name in names} == {
        name: GOLDENS["special"][name] for name in names
    }
    assert tokenizer.gmask_token_id == GOLDENS["special"]["gmask"]
    assert (tokenizer.end_token, tokenizer.end_token_id) == ("</s>", 2)
    assert tokenizer.vocab_size == len(tokenizer) == GOLDENS["special"]["vocab_size"]
    assert tokenizer.english_forbidden_ids == [[63823, 130000]]


def test_vocabulary_maps_both_ways(tokenizer: ChatGLMTokenizer) -> None:
    vocabulary = tokenizer.get_vocab()
    assert len(vocabulary) == tokenizer.vocab_size
    ids = [0, 4, 5, 63823, 130001, 130008, 130343]
    tokens = tokenizer.convert_ids_to_tokens(ids)
    assert [vocabulary[token] for token in tokens] == tokenizer.convert_tokens_to_ids(tokens) == ids
    assert tokenizer.convert_ids_to_tokens([130400]) == [""]
    assert tokenizer.convert_tokens_to_string(["▁Hello", "<n>", "。", "<sop>"]) == "Hello\n。"


@pytest.mark.parametrize("special", SPECIAL_STRINGS)
def test_encode_text_knows_no_control_tokens(tokenizer: ChatGLMTokenizer, special: str) -> None:
    ids = tokenizer.encode_text(f"a {special}你好 {special}")
    assert not any(tokenizer.sp_model.is_control(i) or tokenizer.sp_model.is_byte(i) for i in ids)
    assert tokenizer.unk_token_id not in ids
    assert tokenizer.decode_text(ids) == f"a {special}你好 {special}"


def test_encode_text_agrees_with_encode_on_plain_text(tokenizer: ChatGLMTokenizer) -> None:
    rows = [row for row in GOLDENS["rows"] if "[MASK]" not in row["text"]]
    assert [tokenizer.encode_text(row["text"]) for row in rows] == [row["ids"] for row in rows]


def test_encode_text_survives_a_lone_surrogate(tokenizer: ChatGLMTokenizer) -> None:
    assert tokenizer.decode_text(tokenizer.encode_text("a\ud83db")) == "a?b"


def test_case_and_space_settings() -> None:
    tokenizer = ChatGLMTokenizer(VOCAB_FILE, do_lower_case=True, remove_space=True)
    assert tokenizer.decode_text(tokenizer.encode_text("  Hello \n\t World ")) == "hello world"


@pytest.mark.parametrize("count", [1, 2, 79, 80, 81, 82, 160, 161, 243])
def test_encode_whitespace_takes_the_longest_runs_first(count: int) -> None:
    expected = "a" + " " * count + "b"
    for length in range(MAX_SPACES, 1, -1):  # as the original does
        expected = expected.replace(" " * length, f"<|blank_{length}|>")
    assert encode_whitespace("a" + " " * count + "b") == expected


def test_clean_up_spaces() -> None:
    assert clean_up_spaces("It 's red , is n't it ? I 'm , we 've ' they 're . Yes !") == (
        "It's red, isn't it? I'm, we've'they're. Yes!"
    )


def test_decode_keeps_spaces_when_asked(tokenizer: ChatGLMTokenizer) -> None:
    ids = tokenizer.encode_text("red , blue")
    assert tokenizer.decode(ids, clean_up_tokenization_spaces=False) == "red , blue"
    assert tokenizer.decode(ids) == tokenizer.decode_text(ids) == "red, blue"


def test_decode_skips_ids_without_text(tokenizer: ChatGLMTokenizer) -> None:
    assert tokenizer.decode([130344, 74874, -1, 130527, 10**9, 3, 130004, 130005]) == "你好"
    assert tokenizer.decode([0, 74874]) == " ⁇ 你好"
    assert tokenizer.decode([0, 74874], skip_special_tokens=True) == "你好"
    assert tokenizer.decode([]) == tokenizer.decode_text([]) == ""
    assert tokenizer.decode(74874) == "你好"
    assert tokenizer.batch_decode([[74874], [5, 4]]) == ["你好", "\n"]


def test_whitespace_is_known_by_id_not_by_spelling(tokenizer: ChatGLMTokenizer) -> None:
    spelled = tokenizer.convert_tokens_to_ids(["<", "n", ">"])
    assert 0 not in spelled
    assert tokenizer.decode(spelled) == "<n>"
    assert tokenizer.decode([4, 130008, 130010]) == "\n\t   "


def draw_ids(rng: random.Random) -> list[int]:
    """Ids of all kinds: any piece, bytes of incomplete characters, special and whitespace pieces, common pieces."""
    pool = [
        [rng.randrange(130_344)],
        byte_ids(rng.choice(["é", "水", "😀"]).encode()[: rng.randint(1, 4)]),
        byte_ids(rng.randbytes(2)),
        [rng.randrange(130_000, 130_010)],
        [rng.choice([0, 1, 2, 4, 5, 6, 7, 31])],
    ]
    return [i for _ in range(rng.randint(0, 8)) for i in rng.choice(pool)]


def original_decode(tokenizer: ChatGLMTokenizer, ids: list[int]) -> str:
    """Decode as the original does: sentencepiece, then replacements in the complete text."""
    text: str = tokenizer.sp_model.decode(ids)
    for piece, layout in whitespace_pieces().items():
        text = text.replace(piece, layout)
    return text


def test_decoding_equals_sentencepiece_and_replacement(tokenizer: ChatGLMTokenizer) -> None:
    rng = random.Random(0)
    for ids in (draw_ids(rng) for _ in range(3000)):
        original = original_decode(tokenizer, ids)
        assert stream_text(tokenizer, ids) == original, ids
        assert tokenizer.decode_text(ids) == clean_up_spaces(original), ids


def test_stream_holds_back_incomplete_characters(tokenizer: ChatGLMTokenizer) -> None:
    stream = tokenizer.stream()
    assert [stream.push(i) for i in byte_ids("😀".encode())] == ["", "", "", "😀"]
    assert [stream.push(i) for i in [*byte_ids(b"\xe6\xb0"), 74874]] == ["", "", "��你好"]
    assert [stream.push(i) for i in byte_ids(b"\xff")] == ["�"]  # not a valid first byte
    assert [stream.push(i) for i in byte_ids(b"\xe6A")] == ["", "�A"]
    assert [stream.push(i) for i in byte_ids(b"\xe6")] == [""]
    assert stream.flush() == "�"
    assert stream.flush() == ""


def test_stream_skips_pads_within_a_character(tokenizer: ChatGLMTokenizer) -> None:
    first, *rest = byte_ids("水".encode())
    assert stream_text(tokenizer, [first, 3, *rest]) == "水"
    assert stream_text(tokenizer, [first, 130_400, *rest]) == "水"


def test_streams_are_independent(tokenizer: ChatGLMTokenizer) -> None:
    one, other = tokenizer.stream(), tokenizer.stream()
    one.push(byte_ids("水".encode())[0])
    assert other.push(19316) == "Hello"
    assert one.flush() == "�"


def test_build_inputs(tokenizer: ChatGLMTokenizer) -> None:
    assert tokenizer.build_inputs_with_special_tokens([7]) == [7, 130001, 130004]
    assert tokenizer.build_inputs_with_special_tokens([7], [8]) == [7, 130001, 130004, 8, 130005]
    assert tokenizer.get_special_tokens_mask([7], [8]) == [0, 1, 1, 0, 1]
    assert tokenizer.get_special_tokens_mask([7, 130001, 130004], already_has_special_tokens=True) == [0, 1, 1]
    assert tokenizer("你好", "你好")["input_ids"] == [5, 74874, 130001, 130004, 5, 74874, 130005]


def test_without_padding_there_are_only_ids(tokenizer: ChatGLMTokenizer) -> None:
    assert dict(tokenizer("你好")) == {"input_ids": [5, 74874, 130001, 130004]}


def test_padding_goes_left(tokenizer: ChatGLMTokenizer) -> None:
    batch = tokenizer(["你好", "hi there all"], padding=True, return_tensors="pt")
    assert batch["input_ids"].tolist() == [[3, 5, 74874, 130001, 130004], [12273, 173, 146, 130001, 130004]]
    assert batch["attention_mask"].tolist() == [[0, 1, 1, 1, 1], [1, 1, 1, 1, 1]]
    assert batch["position_ids"].tolist() == [
        [[0, 0, 1, 2, 2], [0, 0, 0, 0, 1]],
        [[0, 1, 2, 3, 3], [0, 0, 0, 0, 1]],
    ]


def test_padding_with_an_answer_and_to_a_multiple(tokenizer: ChatGLMTokenizer) -> None:
    padded = tokenizer("你好", "你好", padding=True, pad_to_multiple_of=8, padding_side="left")
    assert padded["input_ids"] == [3, 5, 74874, 130001, 130004, 5, 74874, 130005]
    assert padded["position_ids"] == [[0, 0, 1, 2, 2, 2, 2, 2], [0, 0, 0, 0, 1, 2, 3, 4]]
    assert tokenizer("你好", padding="max_length", max_length=6)["attention_mask"] == [0, 0, 1, 1, 1, 1]


def test_padding_without_special_tokens(tokenizer: ChatGLMTokenizer) -> None:
    padded = tokenizer.pad({"input_ids": [5, 74874]}, padding="max_length", max_length=3)
    assert padded["position_ids"] == [[0, 0, 1], [0, 0, 0]]


def test_padding_right_is_refused(tokenizer: ChatGLMTokenizer) -> None:
    with pytest.raises(ValueError, match="left"):
        tokenizer("你好", padding=True, padding_side="right")


@pytest.mark.parametrize("config", [None, PUBLISHED_CONFIG], ids=["no config", "published config"])
def test_from_pretrained_is_quiet_and_runs_no_remote_code(
    directory: Path, config: dict | None, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging.getLogger("transformers"), "propagate", True)
    (directory / "tokenization_chatglm.py").write_text("raise AssertionError('remote code ran')")
    if config:
        (directory / "tokenizer_config.json").write_text(json.dumps(config))
    loaded = ChatGLMTokenizer.from_pretrained(directory)
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert loaded.encode("a [gMASK]") == [104, 53, 199, 15475, 42, 130001, 130004]
    assert loaded.english_forbidden_ids == [[63823, 130000]]


def test_save_and_load_keep_everything(tokenizer: ChatGLMTokenizer, tmp_path: Path) -> None:
    changed = ChatGLMTokenizer(VOCAB_FILE, english_forbidden_ids=[[10, 20], [30, 40]], do_lower_case=True)
    changed.add_tokens(["新词新词"])
    changed.add_special_tokens({EXTRA_TOKENS_KEY: ["[sMASK]"]})
    changed.save_pretrained(tmp_path)
    loaded = ChatGLMTokenizer.from_pretrained(tmp_path)
    text = "A 新词新词[sMASK]</s>[gMASK]<sop>"
    assert loaded.encode(text) == changed.encode(text)
    assert loaded.encode("新词新词[sMASK]", add_special_tokens=False) == [130344, 130002]
    assert loaded.decode([130344]) == "新词新词"
    assert loaded.get_vocab() == changed.get_vocab()
    assert loaded.english_forbidden_ids == [[10, 20], [30, 40]]
    assert (tmp_path / "ice_text.model").read_bytes() == VOCAB_FILE.read_bytes()
    assert json.loads((tmp_path / "tokenizer_config.json").read_text())["gmask_token"] == "[gMASK]"


def test_a_file_that_lists_gmask_as_special_loads_as_published(directory: Path) -> None:
    token = {"lstrip": False, "rstrip": False, "normalized": False, "single_word": False, "special": True}
    added = {"130001": {"content": "[gMASK]", **token}, "130004": {"content": "<sop>", **token}}
    config = json.dumps({**PUBLISHED_CONFIG, "added_tokens_decoder": added})
    (directory / "tokenizer_config.json").write_text(config)
    loaded = ChatGLMTokenizer.from_pretrained(directory)
    assert loaded.encode("a [gMASK]<sop> \nb", add_special_tokens=False) == [104, 53, 199, 15475, 42, 130004, 463]


@pytest.mark.parametrize(
    "duplicate", [copy.deepcopy, lambda it: pickle.loads(pickle.dumps(it))], ids=["copy", "pickle"]
)
def test_duplicates_work(tokenizer: ChatGLMTokenizer, duplicate) -> None:
    other = duplicate(tokenizer)
    assert other is not tokenizer
    for row in GOLDENS["rows"]:
        assert other.encode(row["text"]) == row["ids_with_special"]
        assert other.decode(row["ids"]) == row["decoded"]


def test_the_decoder_of_the_library_tokenizers_streams_the_same_text(tokenizer: ChatGLMTokenizer) -> None:
    for row in GOLDENS["rows"]:
        ids = tokenizer.encode_text("a" + row["text"])
        streams = DecodeStream([], skip_special_tokens=True), tokenizer.stream()
        found = [streams[0].step(tokenizer._tokenizer, token_id) or "" for token_id in (*ids, tokenizer.eos_token_id)]
        assert "".join(found) == "".join(map(streams[1].push, ids))


def test_image_tokens_are_refused() -> None:
    with pytest.raises(ValueError, match="num_image_tokens"):
        ChatGLMTokenizer(VOCAB_FILE, num_image_tokens=20000)


@pytest.mark.parametrize("ranges", [[[5]], [[9, 5]], [[0, 10**6]], [[-1, 5]]])
def test_senseless_forbidden_ranges_are_refused(ranges: list[list[int]]) -> None:
    with pytest.raises(ValueError, match="english_forbidden_ids"):
        ChatGLMTokenizer(VOCAB_FILE, english_forbidden_ids=ranges)


def test_bad_vocabulary_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"ice_text\.model"):
        ChatGLMTokenizer(tmp_path / "ice_text.model")
    (tmp_path / "ice_text.model").write_text("version https://git-lfs.github.com/spec/v1\n")
    with pytest.raises(ValueError, match="Git LFS pointer"):
        ChatGLMTokenizer.from_pretrained(tmp_path)


def test_a_missing_piece_is_named() -> None:
    with pytest.raises(ValueError, match="<begin>"):
        ChatGLMTokenizer(VOCAB_FILE, bos_token="<begin>")


def test_the_bytes_of_tokens_join_to_the_text(tokenizer: ChatGLMTokenizer) -> None:
    texts = ["The star is red.", "图片中有一个黑色的圆环。", "a\n\tb  c", "naïve 🦜 𠮷 n't <n>", "1.5 % of x_1"]
    for text in texts:
        stream = tokenizer.stream()
        ids = tokenizer.encode_text(text)
        joined = b"".join(map(stream.token_bytes, ids)).decode()
        assert joined.removeprefix(" ") == stream_text(tokenizer, ids)


def test_control_tokens_have_no_bytes(tokenizer: ChatGLMTokenizer) -> None:
    stream = tokenizer.stream()
    for token_id in (tokenizer.pad_token_id, tokenizer.gmask_token_id, tokenizer.bos_token_id, 10**9, -1):
        assert stream.token_bytes(token_id) == b""
