"""Training batches are deterministic, and contain the prompts of the chat."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from model import load_sat, load_tokenizer
from model.visualglm import VisualGLMModel
from tiny.training.data import (
    IGNORED_LABEL,
    Batch,
    BatchDataset,
    Sequences,
    make_batch,
    make_loader,
    pad_examples,
)
from tiny.training.encoding import (
    BatchLayout,
    EncodedExample,
    mask_answer,
    names_held_out,
    plan_bucket_lengths,
    sample_repetition,
)
from tiny.training.network import TrainingModel, appearance_of, attention_mask, normalize, position_ids
from tiny.training.tokenizer import HEAD_PIECES
from tiny.words.sentences import Language

SIZES = BatchLayout(images=4, questions=4, bucket_ends=(0.5,))
LENGTHS = [160, 320, 112]


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
    assert not torch.equal(make_batch(tokenizer, SIZES, LENGTHS, step=1).images, batch.images)
    assert not torch.equal(make_batch(tokenizer, replace(SIZES, seed=2), LENGTHS, step=0).images, batch.images)


def test_workers_deal_the_steps_out_in_order(tmp_path: Any) -> None:
    from model.checkpoint.resolve import EMBEDDED

    dataset = BatchDataset(EMBEDDED / "visualglm-tiny", SIZES, LENGTHS, first=3, last=6)
    alone = list(dataset)
    together = list(make_loader(dataset, workers=2, pin_memory=False))
    assert len(alone) == 3
    assert all(equal(first, second) for first, second in zip(alone, together, strict=True))


def test_labels_are_the_answer_and_its_end_from_sop_on(tokenizer: Any, batch: Batch) -> None:
    for part in batch.sequences:
        for ids, labels, context in zip(part.ids, part.labels, part.context.tolist(), strict=True):
            answered = (labels != IGNORED_LABEL).nonzero().flatten().tolist()
            assert ids[context] == tokenizer.bos_token_id
            assert answered == list(range(context, context + len(answered)))
            seen = ids[context + 1 : context + len(answered)]
            assert bool(((seen == labels[answered[:-1]]) | (seen == tokenizer.mask_token_id)).all())
            assert labels[answered[-1]] == tokenizer.eos_token_id


def test_every_image_has_questions_in_both_languages(tokenizer: Any, batch: Batch) -> None:
    asked: dict[int, list[str]] = {}
    for part in batch.sequences:
        if part.image_index is not None:
            for ids, number in zip(part.ids, part.image_index.tolist(), strict=True):
                text = tokenizer.decode_text(ids.tolist())
                asked.setdefault(number, []).append("zh" if "问:" in text else "en")
    assert asked == {number: asked[number] for number in range(SIZES.images)}
    assert all(sorted(languages) == ["en", "en", "zh", "zh"] for languages in asked.values())


def test_masks_and_positions_are_the_models_own(golden_model: VisualGLMModel) -> None:
    prompt = [5, 6, 7, 130001, 130004, 8, 9]
    part = Sequences(torch.tensor([prompt]), torch.zeros(1, 7), torch.tensor([4]), None, 0)
    mask, expected = golden_model.get_inputs(part.ids)
    assert torch.equal(position_ids(part), expected)
    assert torch.equal(attention_mask(part), mask)


def test_normalization_matches_the_chat(batch: Batch) -> None:
    from PIL import Image

    from model.images.preprocess import preprocess

    expected = preprocess(Image.fromarray(batch.images[0].numpy()), 224)
    torch.testing.assert_close(normalize(batch.images)[0], expected)


def test_every_batch_has_the_planned_shapes(tokenizer: Any) -> None:
    lengths = plan_bucket_lengths(tokenizer, SIZES, trials=4)
    shapes = [[tuple(t.shape) for t in make_batch(tokenizer, SIZES, lengths, step).tensors()] for step in range(3)]
    assert shapes[0] == shapes[1] == shapes[2]
    assert lengths[:-1] == sorted(lengths[:-1])
    assert all(length % 16 == 0 for length in lengths)


def test_too_few_rows_for_all_parts_are_refused() -> None:
    with pytest.raises(ValueError, match="use more"):
        BatchLayout(images=2, questions=2)


def test_a_row_too_long_for_its_group_teaches_nothing() -> None:
    rows = [EncodedExample([5, 6, 9], [7, 8], [4, 8], 0, 1), EncodedExample([5, 6, 6, 6, 9], [7, 8], [7, 8], 0, 1)]
    part = pad_examples(rows, length=6, pad_id=3)
    assert part.ids.tolist() == [[5, 6, 9, 4, 8, 3], [3] * 6]
    assert part.labels.tolist() == [[IGNORED_LABEL, IGNORED_LABEL, 7, 8, IGNORED_LABEL, IGNORED_LABEL], [-100] * 6]
    assert part.context.tolist() == [2, 1]


def test_words_are_hidden_from_half_of_the_answers_and_all_are_learned() -> None:
    rng, row = np.random.default_rng(0), EncodedExample([5, 9], list(range(10, 110)), list(range(10, 110)), 0, 1)
    drawn = [mask_answer(row, 4, rng) for _ in range(400)]
    hidden = [sum(id_ == 4 for id_ in one.input_ids) for one in drawn]
    assert 0.4 < sum(count > 0 for count in hidden) / len(hidden) < 0.6
    assert 25 < sum(hidden) / sum(count > 0 for count in hidden) < 35
    assert all(one.target_ids == row.target_ids and len(one.input_ids) == 100 for one in drawn)
    assert all(seen in (4, id_) for one in drawn for seen, id_ in zip(one.input_ids, row.target_ids, strict=True))


@pytest.mark.parametrize("language", ["zh", "en"])
def test_words_to_repeat_come_from_the_whole_vocabulary(tokenizer: Any, language: Language) -> None:
    rng, said = np.random.default_rng(0), set()
    for _ in range(1500):
        question, answer = sample_repetition(tokenizer, language, rng)
        assert question.endswith(answer)
        assert not names_held_out(language, answer)
        said.update(tokenizer.encode_text(answer))
    start, stop = tokenizer.english_forbidden_ids[0]
    ids = range(start, stop) if language == "zh" else range(len(HEAD_PIECES), start)
    assert len(said & set(ids)) > 0.9 * len(ids)


def test_pairs_that_are_held_out_are_not_repeated() -> None:
    assert names_held_out("en", "House Red fish that")
    assert names_held_out("zh", "的红色的鱼在")
    assert not names_held_out("en", "blue fish red")


def test_the_look_of_an_image_is_its_colors_and_how_much_they_vary() -> None:
    pixels = torch.zeros(1, 3, 224, 224)
    pixels[:, 0, :28, :28] = 2.0
    pixels[:, :, 196:, 196::2] = 1.0
    look = appearance_of(pixels, 8)
    assert look.shape == (1, 4, 8, 8)
    assert look[0, :, 0, 0].tolist() == pytest.approx([2, 0, 0, 0], abs=0.01)
    assert look[0, :, 7, 7].tolist() == pytest.approx([0.5] * 4)
    assert look[0, :, 1:7].abs().max() < 0.01


def test_fast_ops_are_equivalent(tokenizer: Any, batch: Batch) -> None:
    network = load_sat("visualglm-tiny", device="cpu").network.float()

    def run() -> torch.Tensor:
        part = batch.sequences[0]
        images = network.encode_image(normalize(batch.images)).index_select(0, part.image_index)
        arguments = {
            "position_ids": position_ids(part),
            "attention_mask": attention_mask(part),
            "pre_image": part.image_start,
        }
        return network(part.ids, **arguments, image_embeddings=images)[0]

    with torch.no_grad():
        expected = run()
        TrainingModel(network)
        torch.testing.assert_close(run(), expected, rtol=1e-4, atol=1e-4)
