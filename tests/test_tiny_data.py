"""Training batches are drawn alike for alike steps, and hold the prompts that the chat uses."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch

from model import load_tokenizer
from model.visualglm import VisualGLMModel
from tiny.data import IGNORED_LABEL, Batch, Batches, Sequences, Sizes, load_batches, make_batch
from tiny.train import normalize, positions, visible

SIZES = Sizes(pictures=4, questions=4, groups=2)


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return load_tokenizer("visualglm-tiny")


@pytest.fixture(scope="module")
def batch(tokenizer: Any) -> Batch:
    return make_batch(tokenizer, SIZES, 32, seed=1, step=0)


def tensors(batch: Batch) -> Iterator[torch.Tensor]:
    """Yield everything in a batch."""
    yield from (batch.pictures, batch.kinds, batch.colours)
    for part in batch.sequences:
        yield from (part.ids, part.labels, part.context)


def equal(first: Batch, second: Batch) -> bool:
    return all(torch.equal(a, b) for a, b in zip(tensors(first), tensors(second), strict=True))


def test_a_step_is_always_the_same_batch(tokenizer: Any, batch: Batch) -> None:
    assert equal(make_batch(tokenizer, SIZES, 32, seed=1, step=0), batch)
    assert not torch.equal(make_batch(tokenizer, SIZES, 32, seed=1, step=1).pictures, batch.pictures)
    assert not torch.equal(make_batch(tokenizer, SIZES, 32, seed=2, step=0).pictures, batch.pictures)


def test_workers_deal_the_steps_out_in_order(tmp_path: Any) -> None:
    from model.checkpoint.resolve import EMBEDDED

    dataset = Batches(EMBEDDED / "visualglm-tiny", SIZES, 32, seed=1, first=3, last=6)
    alone = list(dataset)
    together = list(load_batches(dataset, workers=2, pin_memory=False))
    assert len(alone) == 3
    assert all(equal(first, second) for first, second in zip(alone, together, strict=True))


def test_labels_are_the_answer_and_its_end_from_sop_on(tokenizer: Any, batch: Batch) -> None:
    for part in batch.sequences:
        for ids, labels, context in zip(part.ids, part.labels, part.context.tolist(), strict=True):
            answered = (labels != IGNORED_LABEL).nonzero().flatten().tolist()
            assert ids[context] == tokenizer.bos_token_id
            assert answered == list(range(context, context + len(answered)))
            assert labels[answered[:-1]].tolist() == ids[context + 1 : context + len(answered)].tolist()
            assert labels[answered[-1]] == tokenizer.eos_token_id


def test_every_picture_is_asked_about_in_both_languages(tokenizer: Any, batch: Batch) -> None:
    asked: dict[int, list[str]] = {}
    for part in batch.sequences:
        if part.picture is not None:
            for ids, number in zip(part.ids, part.picture.tolist(), strict=True):
                text = tokenizer.decode_text(ids.tolist())
                asked.setdefault(number, []).append("zh" if "问:" in text else "en")
    assert asked == {number: asked[number] for number in range(SIZES.pictures)}
    assert all(sorted(languages) == ["en", "en", "zh", "zh"] for languages in asked.values())


def test_masks_and_positions_are_the_models_own(golden_model: VisualGLMModel) -> None:
    prompt = [5, 6, 7, 130001, 130004, 8, 9]
    part = Sequences(torch.tensor([prompt]), torch.zeros(1, 7), torch.tensor([4]), None, 0)
    mask, expected = golden_model.get_inputs(part.ids)
    assert torch.equal(positions(part), expected)
    assert torch.equal(visible(part), mask)


def test_pictures_become_the_pixels_that_the_chat_sees(batch: Batch) -> None:
    from PIL import Image

    from model.image import preprocess

    expected = preprocess(Image.fromarray(batch.pictures[0].numpy()), 224)
    torch.testing.assert_close(normalize(batch.pictures)[0], expected)
