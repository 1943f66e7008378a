"""All variants of SAT checkpoints, also of old fine-tunes, can be read; errors name the fault."""

import argparse
import os
import random
import shutil
import sys
import types
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import IntEnum
from pathlib import Path

import numpy as np
import pytest
import torch
from sat.mpu import ColumnParallelLinear, RowParallelLinear, VocabParallelEmbedding

from model import CheckpointError
from model.checkpoint import open_checkpoint, save_sat
from model.checkpoint.layout import interleave_qkv
from model.checkpoint.sat import shard_tensor
from tests.helpers.checkpoints import QKV, RANK_0, Small, differing, read_model, write_sat

pytestmark = pytest.mark.usefixtures("offline")


def test_a_run_an_iteration_and_a_file_are_the_same_model(small: Small, run: Path) -> None:
    shutil.copy(run / "300" / RANK_0, run / "merged.pt")
    for place in (run, run / "300", run / "300" / RANK_0, run / "merged.pt"):
        model, _ = read_model(place)
        assert differing(model, small[0].state_dict()) == []
        assert open_checkpoint(place).path == run


def test_an_earlier_iteration_can_be_chosen(small: Small, run: Path) -> None:
    model, config = small
    tensors = {name: tensor + 1 for name, tensor in model.state_dict().items()}
    write_sat(run, tensors, config, 600)
    assert differing(read_model(run)[0], tensors) == []
    for earlier in (read_model(run, specific_iteration=300)[0], read_model(run / "300")[0]):
        assert differing(earlier, model.state_dict()) == []


def test_a_table_of_positions_that_older_models_own_is_passed_over(small: Small, tmp_path: Path) -> None:
    model, config = small
    tensors = {**model.state_dict(), "transformer.position_embeddings.weight": torch.zeros(2, 64)}
    assert differing(read_model(write_sat(tmp_path / "old", tensors, config))[0], model.state_dict()) == []


def test_checkpoints_from_before_0_4_1_are_reordered(small: Small, tmp_path: Path) -> None:
    model, config = small
    tensors = dict(model.state_dict())
    for name in tensors:
        if name.startswith("transformer.") and ".query_key_value." in name:
            tensors[name] = interleave_qkv(tensors[name], config["num_attention_heads"])
    without_pad = {key: value for key, value in config.items() if key != "pad_token_id"}
    loaded, args = read_model(write_sat(tmp_path / "old", tensors, without_pad))
    assert differing(loaded, model.state_dict()) == []
    assert args.pad_token_id == 3


@pytest.mark.parametrize("size", [2, 4])
def test_a_model_is_sharded_as_sat_shards_it(size: int, small: Small) -> None:
    model, config = small
    seen = set()
    for prefix, module in model.named_modules():
        if isinstance(module, ColumnParallelLinear | RowParallelLinear | VocabParallelEmbedding):
            shares = dict(zip(("weight", "bias"), module.partition(size), strict=True))
            for kind, expected in shares.items():
                if expected:
                    name = f"{prefix}.{kind}"
                    seen.add(name)
                    actual = shard_tensor(name, module.get_parameter(kind).detach(), size, config)
                    assert all(torch.equal(ours, theirs) for ours, theirs in zip(actual, expected, strict=True)), name
    for name, parameter in model.named_parameters():
        if name not in seen:
            assert all(share is parameter for share in shard_tensor(name, parameter, size, config)), name
    assert {QKV, "mixins.chatglm-final.lm_head.weight", "transformer.word_embeddings.weight"} <= seen


@pytest.mark.parametrize("size", [1, 2, 4])
def test_files_of_several_ranks_are_joined(size: int, small: Small, tmp_path: Path) -> None:
    model, config = small
    save_sat(tmp_path / "run", model.state_dict(), config, model_parallel_size=size)
    assert len(list((tmp_path / "run" / "1").iterdir())) == size
    for place in (tmp_path / "run", tmp_path / "run" / "1" / RANK_0):
        loaded, args = read_model(place)
        assert differing(loaded, model.state_dict()) == []
        assert args.model_parallel_size == 1


def test_old_files_of_several_ranks_have_complete_heads(small: Small, tmp_path: Path) -> None:
    model, config = small
    heads, size = config["num_attention_heads"], 2
    save_sat(tmp_path / "run", model.state_dict(), config, model_parallel_size=size)
    for rank in range(size):
        file = tmp_path / "run" / "1" / f"mp_rank_{rank:02d}_model_states.pt"
        module = torch.load(file)["module"]
        for name, tensor in module.items():
            if name.startswith("transformer.") and ".query_key_value." in name:
                module[name] = interleave_qkv(tensor, heads // size)
        torch.save({"module": module}, file)
    loaded, _ = read_model(tmp_path / "run", qkv_layout="interleaved")
    assert differing(loaded, model.state_dict()) == []


def test_a_size_that_does_not_divide_the_heads_is_refused(small: Small, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"3.*4 heads"):
        save_sat(tmp_path / "run", small[0].state_dict(), small[1], model_parallel_size=3)


def test_ranks_that_do_not_belong_together_are_refused(small: Small, tmp_path: Path) -> None:
    save_sat(tmp_path / "run", small[0].state_dict(), small[1], model_parallel_size=2)
    file = tmp_path / "run" / "1" / "mp_rank_01_model_states.pt"
    module = torch.load(file)["module"]
    del module[QKV]
    torch.save({"module": module}, file)
    with pytest.raises(CheckpointError, match=r"[Rr]ank 1.*layers\.1\.attention\.query_key_value\.weight"):
        read_model(tmp_path / "run")


class Stage(IntEnum):
    """An enum like deepspeed's for the stages of ZeRO."""

    TWO = 2


class Scaler:
    """An object with numbers, like deepspeed's loss scaler."""

    def __init__(self) -> None:
        self.scale = 65536.0


@contextmanager
def installed(name: str, *classes: type) -> Iterator[None]:
    """Provide a module with `classes` while a file is written; it is removed before the file is read."""
    names = [name.rsplit(".", up)[0] if up else name for up in range(name.count(".") + 1)]
    for module in names:
        sys.modules[module] = types.ModuleType(module)
    for kind in classes:
        setattr(sys.modules[name], kind.__name__, kind)
        kind.__module__ = name
    try:
        yield
    finally:
        for module in names:
            del sys.modules[module]


def test_objects_of_old_deepspeed_are_inert(small: Small, tmp_path: Path) -> None:
    model, config = small
    with installed("deepspeed.runtime.fp16.loss_scaler", Scaler, Stage):
        run = write_sat(
            tmp_path / "run",
            model.state_dict(),
            {**config, "model_class": "FineTuneVisualGLMModel", "use_lora": False, "pre_seq_len": 8},
            300,
            iteration=300,
            random_rng_state=random.getstate(),
            np_rng_state=np.random.get_state(),
            torch_rng_state=torch.get_rng_state(),
            loss_scaler=Scaler(),
            ds_config={"zero_optimization": {"stage": Stage.TWO}},
            param_shapes=[{"a": torch.Size([2, 3])}],
            mean_loss=np.float64(0.5),
            args=argparse.Namespace(lr=1e-4),
        )
    assert "deepspeed" not in sys.modules
    model_read, _ = read_model(run)
    assert differing(model_read, model.state_dict()) == []


class Command:
    """An object that runs a command when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
        return os.system, (f"touch {self.path}",)


def test_a_file_that_would_run_a_program_is_refused(small: Small, tmp_path: Path) -> None:
    run = write_sat(tmp_path / "run", small[0].state_dict(), small[1], trap=Command(tmp_path / "ran"))
    with pytest.raises(CheckpointError, match=r"posix\.system"):
        read_model(run)
    assert not (tmp_path / "ran").exists()


def test_missing_and_unknown_tensors_are_named(small: Small, tmp_path: Path) -> None:
    model, config = small
    tensors = dict(model.state_dict())
    tensors["transformer.extra"] = tensors.pop("transformer.final_layernorm.weight")
    with pytest.raises(
        CheckpointError, match=r"missing: transformer\.final_layernorm\.weight\nunknown: transformer\.extra"
    ):
        read_model(write_sat(tmp_path / "run", tensors, config))


def test_trained_weights_alone_ask_for_their_base(small: Small, tmp_path: Path) -> None:
    model, config = small
    run = write_sat(tmp_path / "run", {QKV: model.get_parameter(QKV).data}, config)
    with pytest.raises(CheckpointError, match="--base visualglm-6b"):
        read_model(run)


def test_files_written_on_windows_are_read(small: Small, run: Path) -> None:
    for name in ("latest", "model_config.json"):
        (run / name).write_text((run / name).read_text() + "\n", encoding="utf-8-sig")
    assert differing(read_model(run)[0], small[0].state_dict()) == []
