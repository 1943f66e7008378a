"""The QKV row order is read from the configuration and verified with the weights."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch

from model import CheckpointError
from model.checkpoint import Checkpoint, open_checkpoint
from model.checkpoint.layout import (
    check_layout,
    detect_other_layout,
    explained_variance,
    interleave_qkv,
    is_language_qkv,
    p_value,
    split_qkv,
)
from tests.helpers.checkpoints import QKV, write_sat

pytestmark = pytest.mark.usefixtures("offline")
OTHER = {"split": "interleaved", "interleaved": "split"}


def rewrite(directory: Path, order: str, word: dict[str, Any], has_pad: bool = True) -> dict[str, torch.Tensor]:
    """Save visualglm-tiny in the SAT format with rows in `order`; return its tensors in the split order."""
    tiny = open_checkpoint("visualglm-tiny")
    tensors, heads = dict(tiny.tensors()), tiny.config["num_attention_heads"]
    stored = {
        name: interleave_qkv(tensor, heads) if order == "interleaved" and is_language_qkv(name) else tensor
        for name, tensor in tensors.items()
    }
    config = {**tiny.config, **word}
    if not has_pad:
        del config["pad_token_id"]
    write_sat(directory, stored, config)
    return tensors


def test_row_orders_are_inverse_and_as_published() -> None:
    heads, head_dim = 3, 2
    split = torch.arange(3 * heads * head_dim).view(3, heads, head_dim)  # q, k, v, each by head
    interleaved = torch.stack([split[part, head] for head in range(heads) for part in range(3)])
    assert torch.equal(split_qkv(interleaved.flatten(), heads), split.flatten())
    assert torch.equal(interleave_qkv(split.flatten(), heads), interleaved.flatten())


@pytest.mark.parametrize("order", OTHER)
@pytest.mark.parametrize("says", ["by qkv_layout", "by pad_token_id"])
def test_a_configuration_that_is_right_is_followed(order: str, says: str, tmp_path: Path) -> None:
    word = {"qkv_layout": order} if says == "by qkv_layout" else {}
    expected = rewrite(tmp_path / "run", order, word, has_pad=bool(word) or order == "split")
    checkpoint = open_checkpoint(tmp_path / "run")
    assert checkpoint.qkv_layout == order
    assert torch.equal(dict(checkpoint.tensors())[QKV], expected[QKV])


@pytest.mark.parametrize("order", OTHER)
@pytest.mark.parametrize("says", ["by qkv_layout", "by pad_token_id"])
def test_weights_that_contradict_the_configuration_stop_the_reading(order: str, says: str, tmp_path: Path) -> None:
    word = {"qkv_layout": OTHER[order]} if says == "by qkv_layout" else {}
    expected = rewrite(tmp_path / "run", order, word, has_pad=bool(word) or order == "interleaved")
    with pytest.raises(CheckpointError, match=f"--qkv-layout {order}"):
        next(open_checkpoint(tmp_path / "run").tensors())
    settled = open_checkpoint(tmp_path / "run", qkv_layout=order)
    assert torch.equal(dict(settled.tensors())[QKV], expected[QKV])


def test_the_callers_word_is_the_last(tmp_path: Path) -> None:
    expected = rewrite(tmp_path / "run", "split", {})
    settled = open_checkpoint(tmp_path / "run", qkv_layout="interleaved")
    assert torch.equal(dict(settled.tensors())[QKV], split_qkv(expected[QKV], 8))


def test_hugging_face_files_in_the_wrong_order_are_noticed() -> None:
    tiny = open_checkpoint("visualglm-tiny")
    tiny.split_qkv()
    with pytest.raises(CheckpointError, match="interleaved"):
        check_layout(tiny.stored_tensors, "split", 8, "visualglm-tiny")


def test_a_checkpoint_is_known_by_its_former_names() -> None:
    with pytest.warns(
        DeprecationWarning, match="stored_tensors|layout_is_explicit|split_qkv|check_file_sizes"
    ) as warned:
        made = Checkpoint(Path(), {"num_attention_heads": 8}, [], stored={}, qkv_layout="split", is_settled=True)  # type: ignore[call-arg]
        assert made.stored is made.stored_tensors
        assert made.is_settled
        assert made.split() == {}
        made.check_room()
    assert len(warned) == 6


@pytest.mark.parametrize("given", ["by qkv_layout", "by argument"])
def test_an_unknown_order_is_refused(given: str, tmp_path: Path) -> None:
    rewrite(tmp_path / "run", "split", {"qkv_layout": "sideways"} if given == "by qkv_layout" else {})
    with pytest.raises(CheckpointError, match="'sideways'"):
        open_checkpoint(tmp_path / "run", qkv_layout="sideways" if given == "by argument" else None)


@pytest.mark.parametrize(("heads", "layers"), [(1, 3), (2, 1), (3, 4), (4, 3), (8, 4), (32, 28)])
def test_random_weights_never_contradict(heads: int, layers: int) -> None:
    for seed in range(100 if heads < 32 else 3):
        generator = torch.Generator().manual_seed(seed)
        tensors = [torch.randn(3 * heads * 4, 8, generator=generator) for _ in range(layers)]
        biases = [torch.randn(3 * heads * 4, generator=generator) for _ in range(layers)]
        for layout in OTHER:
            assert detect_other_layout([*tensors, *biases], layout, heads) is None


@pytest.mark.parametrize("heads", [2, 5, 32])
@pytest.mark.parametrize("layers", [1, 4])
def test_trained_weights_of_any_head_count_are_recognized(heads: int, layers: int) -> None:
    generator = torch.Generator().manual_seed(0)
    sizes = torch.tensor([1.0, 0.9, 2.0]).repeat_interleave(heads * 16)[:, None]  # of q, k and v
    tensors = [sizes * torch.randn(3 * heads * 16, 64, generator=generator) for _ in range(max(layers, 8 // heads))]
    assert detect_other_layout(tensors, "interleaved", heads) == "split"
    assert detect_other_layout(tensors, "split", heads) is None
    mixed = [interleave_qkv(tensor, heads) for tensor in tensors]
    assert detect_other_layout(mixed, "split", heads) == "interleaved"


def test_weights_without_variance_say_nothing() -> None:
    shares, count = explained_variance([torch.zeros(24), torch.ones(24, 4)], 4)
    assert set(shares.values()) == {0.0}
    assert count == 0
    assert detect_other_layout([torch.zeros(24)], "split", 4) is None


def test_the_p_value_matches_random_blocks() -> None:
    heads, count, draws = 4, 2, 4000
    generator = torch.Generator().manual_seed(0)
    blocks = torch.randn(draws, count, 3, heads, generator=generator)
    blocks -= blocks.mean((2, 3), keepdim=True)
    shares = (blocks.mean(3).square().sum((1, 2)) * heads) / blocks.square().sum((1, 2, 3))
    for share in (0.1, 0.2, 0.4):
        measured = float((shares >= share).double().mean())
        expected = p_value(share, heads, count)
        assert measured == pytest.approx(expected, abs=5 * math.sqrt(expected * (1 - expected) / draws) + 1e-9)
