"""Training examples match the chat: their loss equals the negative log-likelihood of the chat's decoding."""

import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from finetune.data import Batch, ChatDataset, Example, collate, load_batches
from finetune.encoding import TurnEncoder
from finetune.errors import BadRowError, DataError
from finetune.formats import Row
from model import CHAT, Conversation, SatChatModel, Turn, load_sat
from model.engine.batch import make_decoder
from model.errors import SettingError
from model.images.preprocess import load_image
from tests.model.engine.test_decoder import drain
from tests.model.test_prompt import CountingTokenizer
from visualglm.scenes import render_scene, sample_scene

TURNS = [("图里有什么？", "一只红色的球。"), ("Where is it?", "It is on the left."), ("还有吗？", "没有了。")]
GOOD = {"img": "0.png", "prompt": "图里有什么？", "label": "一只红色的球。"}


@pytest.fixture(scope="module")
def model() -> SatChatModel:
    """visualglm-tiny. Do not change it."""
    return load_sat("visualglm-tiny", device="cpu", dtype="float32")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A directory with the images 0.png and 1.png, and broken.png."""
    import numpy as np

    for number in range(2):
        render_scene(sample_scene(np.random.default_rng(number)), 224).save(tmp_path / f"{number}.png")
    (tmp_path / "broken.png").write_bytes((tmp_path / "0.png").read_bytes()[:2000])
    return tmp_path


def make_dataset(model: SatChatModel, folder: Path, rows: list[Any], **settings: Any) -> ChatDataset:
    """Write rows into a file, and open it as a dataset."""
    file = folder / "dataset.json"
    file.write_text(json.dumps(rows, ensure_ascii=False), encoding="utf-8")
    sizes = {"image_length": model.network.image_length, "image_size": model.network.image_size, "max_length": 512}
    return ChatDataset(file, model.tokenizer, **{**sizes, **settings})


def make_rows() -> list[dict[str, Any]]:
    """Return one row of each format, of different lengths, with two images and without an image."""
    dialog = [
        {"from": role, "value": text} for turn in TURNS for role, text in zip(("human", "gpt"), turn, strict=True)
    ]
    dialog[0]["value"] = "<image>\n" + dialog[0]["value"]
    messages = [{"role": "user", "content": "你好"}, {"role": "assistant", "content": "你好！有什么可以帮你？"}]
    return [
        GOOD,
        {"image": "1.png", "conversations": dialog},
        {"messages": messages},
        {"img": "0.png", "prompt": "Is it red?", "label": "Yes, it is.", "history": [["What is it?", "A ball."]]},
    ]


@torch.no_grad()
def losses(model: SatChatModel, batch: Batch) -> torch.Tensor:
    """Return the summed loss of each example [B], from the network's own forward pass."""
    network: Any = model.network
    images = None if batch.pixels is None else network.encode_image(batch.pixels)[batch.image_indices]
    logits = network(
        input_ids=batch.input_ids,
        position_ids=batch.position_ids,
        attention_mask=batch.attention_mask.to(network.dtype),
        image_embeddings=images,
        pre_image=batch.image_starts,
    )[0]
    each = F.cross_entropy(logits[:, :-1].flatten(0, 1).float(), batch.labels[:, 1:].flatten(), reduction="none")
    return each.view(len(batch.rows), -1).sum(1)


@torch.no_grad()
def chat_loss(model: SatChatModel, conversation: Conversation, question: str, answer: list[int]) -> float:
    """Return the negative log-likelihood of an answer in the chat's decoding."""
    _, request = model.make_request(conversation, question, CHAT)
    decoder, length = make_decoder(model.network), len(request.token_ids)
    decoder.grow(1, length + len(answer))
    logits = drain(decoder.prefill(0, [request]))
    total = 0.0
    for longest, token in enumerate(answer, start=length + 1):
        total -= float(logits.log_softmax(-1)[0, token])
        logits = decoder.decode(torch.tensor([token]), longest)
    return total


def answer_ids(model: SatChatModel, text: str) -> list[int]:
    return [*model.tokenizer.encode_text(text), model.tokenizer.eos_token_id]


def asked_in_chat(dataset: ChatDataset) -> Iterator[tuple[Conversation, Turn]]:
    """Yield every answer to train on, with its conversation in the chat."""
    for row in dataset.rows:
        for number, turn in enumerate(row.turns):
            if number >= row.first_trained_turn:
                image = None if row.image is None else load_image(row.image)
                yield Conversation(image, row.turns[:number], row.language_of(number)), turn


def test_the_loss_is_that_of_the_chats_own_decoding(model: SatChatModel, folder: Path) -> None:
    dataset = make_dataset(model, folder, make_rows())
    batch = collate([dataset[index] for index in range(len(dataset))])
    expected = [
        chat_loss(model, conversation, turn.question, answer_ids(model, turn.answer))
        for conversation, turn in asked_in_chat(dataset)
    ]
    assert batch.rows == [1, 2, 2, 2, 3, 4]
    assert (
        len(set(map(tuple, batch.position_ids.flatten(1).tolist()))) > 1
    )  # lengths differ, so some examples are padded
    assert torch.allclose(losses(model, batch), torch.tensor(expected), rtol=1e-4, atol=1e-3)


def test_every_answer_of_a_conversation_is_trained_on_once(model: SatChatModel, folder: Path) -> None:
    dataset = make_dataset(model, folder, make_rows())
    turns = [turn for _, turn in asked_in_chat(dataset)]
    assert [turn.answer for turn in turns[1:4]] == [answer for _, answer in TURNS]
    assert "A ball." not in {turn.answer for turn in turns}  # an answer of a history
    for index, turn in enumerate(turns):
        example, learned = dataset[index], answer_ids(model, turn.answer)
        assert example.labels == [-100] * (example.context_length + 1) + learned
        assert example.input_ids[-len(learned) :] == learned


def test_an_examples_prompt_is_the_chats(model: SatChatModel, folder: Path) -> None:
    dataset = make_dataset(model, folder, make_rows())
    for index, (conversation, turn) in enumerate(asked_in_chat(dataset)):
        prompt = model.encode_prompt(conversation, turn.question, CHAT)
        example = dataset[index]
        assert example.input_ids[: example.context_length + 1] == prompt.token_ids
        assert example.image_start == prompt.image_start


def test_padding_changes_no_loss(model: SatChatModel, folder: Path) -> None:
    dataset = make_dataset(model, folder, make_rows())
    examples = [dataset[index] for index in range(len(dataset))]
    alone = torch.cat([losses(model, collate([example])) for example in examples])
    assert torch.allclose(losses(model, collate(examples)), alone, rtol=1e-4, atol=1e-3)


def test_a_batch_has_each_image_once(model: SatChatModel, folder: Path) -> None:
    dataset = make_dataset(model, folder, make_rows())
    batch = collate([dataset[index] for index in range(len(dataset))])
    assert batch.image_paths == [folder / "0.png", folder / "1.png"]
    assert batch.image_indices == [0, 1, 1, 1, -1, 0]
    assert [start < 0 for start in batch.image_starts] == [False] * 4 + [True, False]
    assert batch.pixels is not None
    for path, pixels in zip(batch.image_paths, batch.pixels, strict=True):
        assert torch.equal(pixels[None], model.image_cache.to_pixels(load_image(path)))


def test_decoding_images_can_be_disabled(model: SatChatModel, folder: Path) -> None:
    rows = [*make_rows(), {**GOOD, "img": "broken.png"}]
    dataset = make_dataset(model, folder, rows, decode_images=False)
    batch = collate([dataset[index] for index in range(len(dataset))])
    assert batch.pixels is None
    assert batch.image_paths[-1] == folder / "broken.png"


LONG = "很长的开头" * 200 + "最后的问题"


def check_marks(model: SatChatModel, example: Example, most: int) -> str:
    """Return the text of a truncated prompt, after checking its image placeholders and prefixes."""
    ids = example.input_ids[: example.context_length + 1]
    assert len(example.input_ids) <= most
    assert example.num_truncated > 0
    assert example.image_start is not None
    after = example.image_start + model.network.image_length
    assert ids[example.image_start : after] == [model.tokenizer.pad_token_id] * model.network.image_length
    text = model.tokenizer.decode_text(ids[after:-2])
    assert text.startswith("</img>问:")
    assert text.endswith("答:")
    return str(text)


@pytest.mark.parametrize("most", [68, 69, 100, 512])
def test_a_long_question_loses_its_beginning(model: SatChatModel, folder: Path, most: int) -> None:
    dataset = make_dataset(model, folder, [{**GOOD, "prompt": LONG}], max_length=most)
    example = dataset[0]
    text = check_marks(model, example, most)
    assert len(example.input_ids) >= most - 8  # no more is dropped than necessary
    assert text.split("\n")[0].endswith("问题")
    assert example.labels[example.context_length + 1 :] == answer_ids(model, GOOD["label"])


def test_a_long_conversation_loses_its_oldest_turns(model: SatChatModel, folder: Path) -> None:
    row = {**GOOD, "history": [[f"第{number}个问题？", "很长的回答" * 20] for number in range(6)]}
    dataset = make_dataset(model, folder, [row], max_length=300)
    text = check_marks(model, dataset[0], 300)
    kept = [number for number in range(6) if f"第{number}个问题" in text]
    assert kept
    assert kept == list(range(6 - len(kept), 6))
    assert GOOD["prompt"][:-1] in text


def test_dropping_turns_encodes_a_row_only_a_few_times(model: SatChatModel) -> None:
    turns = [Turn(f"第{number}个问题？", "很长的回答" * 20) for number in range(300)]
    counting = CountingTokenizer(model.tokenizer)
    row = Row(turns=turns, image=None, number=1)
    example = TurnEncoder(counting, model.network.image_length, 300).encode(row, len(turns) - 1)
    assert 0 < 300 - len(example.input_ids) < 120  # no more turns are dropped than necessary
    assert counting.characters < 2 * sum(len(turn.question) + len(turn.answer) for turn in turns)


def test_a_long_answer_loses_its_end_and_the_token_that_ends_it(model: SatChatModel, folder: Path) -> None:
    dataset = make_dataset(model, folder, [{**GOOD, "label": "很长的回答" * 200}], max_length=200)
    example = dataset[0]
    text = check_marks(model, example, 200)
    assert len(example.input_ids) == 200
    assert GOOD["prompt"][:-1] in text
    assert example.input_ids[-1] != model.tokenizer.eos_token_id


def test_a_long_question_and_a_long_answer_are_both_truncated(model: SatChatModel, folder: Path) -> None:
    dataset = make_dataset(model, folder, [{**GOOD, "prompt": LONG, "label": "很长的回答" * 200}], max_length=200)
    example = dataset[0]
    check_marks(model, example, 200)
    learned = sum(label != -100 for label in example.labels)
    assert 70 < learned < 80  # half of the tokens available for text


def test_a_max_length_without_tokens_for_text_raises_an_error(model: SatChatModel, folder: Path) -> None:
    with pytest.raises(SettingError, match="max_length=40"):
        make_dataset(model, folder, [GOOD], max_length=40)[0]


def test_workers_load_the_same_batches_as_one_process(model: SatChatModel, folder: Path) -> None:
    dataset = make_dataset(model, folder, make_rows())
    batches = [[5, 0], [1, 4, 2], [3]]
    for loaded, indices in zip(load_batches(dataset, batches, workers=2), batches, strict=True):
        expected = collate([dataset[index] for index in indices])
        assert vars(loaded).keys() == vars(expected).keys()
        for name, value in vars(expected).items():
            same = torch.equal(getattr(loaded, name), value) if isinstance(value, torch.Tensor) else None
            assert same or getattr(loaded, name) == value


@pytest.mark.parametrize("workers", [0, 1])
def test_a_broken_image_raises_an_error_with_its_row(model: SatChatModel, folder: Path, workers: int) -> None:
    dataset = make_dataset(model, folder, [GOOD, {**GOOD, "img": "broken.png"}])
    with pytest.raises(BadRowError, match=r"^Row 2: .*broken\.png") as caught:
        list(load_batches(dataset, [[0], [1]], workers))
    assert caught.value.number == 2


def test_a_broken_image_can_be_skipped(model: SatChatModel, folder: Path) -> None:
    broken = {**GOOD, "img": "broken.png"}
    rows = [GOOD, broken, broken, {**GOOD, "img": "1.png"}, broken]
    dataset = make_dataset(model, folder, rows, on_bad_row="skip")
    loaded = list(load_batches(dataset, [[0, 1], [4]]))
    assert [batch.rows for batch in loaded] == [[1, 4], [1]]
    assert [batch.skipped for batch in loaded] == [[2, 3], [5]]
    only_broken = make_dataset(model, folder, [broken, broken], on_bad_row="skip")
    with pytest.raises(DataError, match="Every image"):
        only_broken[0]


def test_bad_rows_are_listed_or_left_out(model: SatChatModel, folder: Path) -> None:
    rows = [GOOD, {**GOOD, "label": " "}, {**GOOD, "img": "missing.png"}, {**GOOD, "img": "1.png"}, 5]
    with pytest.raises(DataError) as caught:
        make_dataset(model, folder, rows)
    for part in ("3 of the 5 rows", "Row 2: ", "Row 3: ", "missing.png", "Row 5: ", "--on-bad-row skip"):
        assert part in str(caught.value)
    dataset = make_dataset(model, folder, rows, on_bad_row="skip")
    assert [dataset[index].row for index in range(len(dataset))] == [1, 4]
    assert [error.number for error in dataset.bad_rows] == [2, 3, 5]
    with pytest.raises(DataError, match="2 rows"):
        make_dataset(model, folder, rows[1:3], on_bad_row="skip")


def test_many_bad_rows_do_not_fill_the_screen(model: SatChatModel, folder: Path) -> None:
    with pytest.raises(DataError, match="90") as caught:
        make_dataset(model, folder, [GOOD, *[5] * 100])
    assert len(str(caught.value).splitlines()) == 13


class Counting:
    """A tokenizer that counts the characters it encodes."""

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer
        self.characters = 0

    def encode_text(self, text: str) -> list[int]:
        self.characters += len(text)
        return self.tokenizer.encode_text(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.tokenizer, name)


@pytest.mark.parametrize("key", ["prompt", "label"])
@pytest.mark.parametrize("text", ["the cat sat on a mat. ", "一只猫。", "x" + " " * 79], ids=["en", "zh", "blanks"])
def test_encoding_a_text_of_megabytes_is_limited(key: str, text: str, model: SatChatModel, folder: Path) -> None:
    """The example is the same as if the complete text had been encoded."""
    long = "Count! " + text * (2_000_000 // len(text)) + " end"
    dataset = make_dataset(model, folder, [{**GOOD, key: long}])
    counting = Counting(model.tokenizer)
    dataset.encoder.tokenizer = counting
    example = dataset.encode(0)
    assert counting.characters < 1_500_000  # the question is encoded in several lengths
    assert len(example.input_ids) <= 512
    ids = model.tokenizer.encode_text(long)
    if key == "label":
        learned = [label for label in example.labels if label >= 0]
        assert learned == ids[: len(learned)]
    else:
        asked, end = example.input_ids[: example.context_length], ids[-300:]
        assert end in [asked[start : start + len(end)] for start in range(len(asked))]
    assert example.num_truncated > 0


def test_a_long_conversation_is_not_encoded_again_for_each_dropped_turn(model: SatChatModel, folder: Path) -> None:
    history = [[f"What is {number}?", f"It is {number}."] for number in range(3000)]
    dataset = make_dataset(model, folder, [{**GOOD, "history": history}])
    counting = Counting(model.tokenizer)
    dataset.encoder.tokenizer = counting
    example = dataset.encode(0)
    assert counting.characters < 5 * sum(map(len, itertools.chain(*history)))
    newest = make_dataset(model, folder, [{**GOOD, "history": history[-100:]}]).encode(0)
    assert newest.num_truncated > 0
    assert example.input_ids == newest.input_ids
