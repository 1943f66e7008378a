"""Training batches are drawn alike for alike steps, and hold the prompts that the chat uses."""

from dataclasses import replace
from typing import Any

import pytest
import torch

from model import load_sat, load_tokenizer
from model.visualglm import VisualGLMModel
from tiny.training.data import (
    IGNORED_LABEL,
    Batch,
    Batches,
    Row,
    Sequences,
    Sizes,
    load_batches,
    make_batch,
    plan_lengths,
    stack_rows,
)
from tiny.training.network import Trainee, normalize, positions, visible

SIZES = Sizes(pictures=4, questions=4, groups=2)
LENGTHS = [128, 256, 64]


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return load_tokenizer("visualglm-tiny")


@pytest.fixture(scope="module")
def batch(tokenizer: Any) -> Batch:
    return make_batch(tokenizer, SIZES, LENGTHS, step=0)


def equal(first: Batch, second: Batch) -> bool:
    return all(torch.equal(a, b) for a, b in zip(first.tensors(), second.tensors(), strict=True))


def test_a_step_is_always_the_same_batch(tokenizer: Any, batch: Batch) -> None:
    assert equal(make_batch(tokenizer, SIZES, LENGTHS, step=0), batch)
    assert not torch.equal(make_batch(tokenizer, SIZES, LENGTHS, step=1).pictures, batch.pictures)
    assert not torch.equal(make_batch(tokenizer, replace(SIZES, seed=2), LENGTHS, step=0).pictures, batch.pictures)


def test_workers_deal_the_steps_out_in_order(tmp_path: Any) -> None:
    from model.checkpoint.resolve import EMBEDDED

    dataset = Batches(EMBEDDED / "visualglm-tiny", SIZES, LENGTHS, first=3, last=6)
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


def test_every_batch_has_the_planned_shapes(tokenizer: Any) -> None:
    lengths = plan_lengths(tokenizer, SIZES, trials=4)
    shapes = [[tuple(t.shape) for t in make_batch(tokenizer, SIZES, lengths, step).tensors()] for step in range(3)]
    assert shapes[0] == shapes[1] == shapes[2]
    assert lengths[: SIZES.groups] == sorted(lengths[: SIZES.groups])
    assert all(length % 16 == 0 for length in lengths)


def test_a_row_too_long_for_its_group_teaches_nothing() -> None:
    part = stack_rows([Row([5, 6, 9], [7, 8], 0, 1), Row([5, 6, 6, 6, 9], [7, 8], 0, 1)], length=6, pad_id=3)
    assert part.ids.tolist() == [[5, 6, 9, 7, 8, 3], [3] * 6]
    assert part.labels.tolist() == [[IGNORED_LABEL, IGNORED_LABEL, 7, 8, IGNORED_LABEL, IGNORED_LABEL], [-100] * 6]
    assert part.context.tolist() == [2, 1]


def test_training_computes_what_the_network_does(tokenizer: Any, batch: Batch) -> None:
    network = load_sat("visualglm-tiny", device="cpu").network.float()

    def run() -> torch.Tensor:
        part = batch.sequences[0]
        images = network.encode_image(normalize(batch.pictures)).index_select(0, part.picture)
        places = {"position_ids": positions(part), "attention_mask": visible(part), "pre_image": part.image_start}
        return network(part.ids, **places, image_embeddings=images)[0]

    with torch.no_grad():
        expected = run()
        Trainee(network)
        torch.testing.assert_close(run(), expected, rtol=1e-4, atol=1e-4)
