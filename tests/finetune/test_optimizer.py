"""Loss scaling of float16, skipped steps, and scalars that are read asynchronously; without a GPU."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from finetune.arguments import parse_arguments
from finetune.config import TrainingConfig
from finetune.deepspeed_optimizer import deepspeed_config
from finetune.optimizer import AsyncScalars, OptimizerSettings, OptimizerStep, PlainOptimizer
from finetune.trainer import MAX_SKIPPED_STEPS
from tests.helpers.finetuning import data, losses_of, train  # noqa: F401

CPU = torch.device("cpu")


def settings(**changes: Any) -> OptimizerSettings:
    return OptimizerSettings(
        **{"weight_decay": 0.0, "clip_grad": 0.0, "dtype": torch.float16, "batch_size": 1, **changes}
    )


def plain_optimizer(**changes: Any) -> tuple[nn.Parameter, PlainOptimizer]:
    """Return a parameter of 1 and its optimizer."""
    weight = nn.Parameter(torch.ones(1))
    return weight, PlainOptimizer(nn.Identity(), [weight], settings(**changes), uses_autocast=False)


def test_loss_scaling_does_not_change_the_update() -> None:
    scaled, plain = plain_optimizer(), plain_optimizer(dtype=torch.float32)
    for weight, optimizer in (scaled, plain):
        lengths = []
        for _ in range(3):
            optimizer.backward((3 * weight**2).sum())
            stepped = optimizer.step(0.1)
            assert not bool(stepped.is_skipped)
            lengths.append(float(torch.as_tensor(stepped.norm)))
        assert lengths[0] == 6
    assert scaled[1].scaler.get_scale() > 1
    assert torch.allclose(scaled[0], plain[0])


def test_an_overflow_skips_the_step_and_lowers_the_scale() -> None:
    weight, optimizer = plain_optimizer()
    scale = optimizer.scaler.get_scale()
    optimizer.backward((weight * 3e38).sum())  # overflows float32 when it is scaled
    stepped = optimizer.step(0.1)
    assert bool(stepped.is_skipped)
    assert weight.item() == 1
    assert optimizer.scaler.get_scale() == scale / 2
    optimizer.backward(weight.sum())
    assert not bool(optimizer.step(0.1).is_skipped)
    assert weight.item() == pytest.approx(0.9)


def test_the_scale_is_restored_with_a_run(tmp_path: Path) -> None:
    _, first = plain_optimizer()
    for _ in range(2):
        first.backward((first.parameters[0] * 3e38).sum())
        first.step(0.1)
    first.save(tmp_path)
    _, second = plain_optimizer()
    second.load(tmp_path)
    assert second.scaler.get_scale() == first.scaler.get_scale() == 2.0**14


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_only_float16_is_scaled(dtype: torch.dtype) -> None:
    weight, optimizer = plain_optimizer(dtype=dtype)
    optimizer.backward((weight * torch.inf).sum())
    stepped = optimizer.step(0.1)
    assert not bool(stepped.is_skipped)  # the trainer raises an error for the infinite norm instead
    assert not torch.isfinite(torch.as_tensor(stepped.norm))


class SkippingOptimizer:
    """Wraps an optimizer, and reports some of its steps as skipped."""

    def __init__(self, optimizer: Any, skipped: set[int]) -> None:
        self.optimizer, self.skipped, self.step_number = optimizer, skipped, 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self.optimizer, name)

    def step(self, lr: float) -> OptimizerStep:
        self.step_number += 1
        if self.step_number not in self.skipped:
            return self.optimizer.step(lr)  # type: ignore[no-any-return]
        return OptimizerStep(torch.tensor(True), torch.tensor(torch.inf))


@pytest.fixture
def skipping(monkeypatch: pytest.MonkeyPatch) -> set[int]:
    """The steps that the next training reports as skipped."""
    from finetune import preparation

    make, chosen = preparation.make_optimizer, set[int]()
    monkeypatch.setattr(preparation, "make_optimizer", lambda *given: SkippingOptimizer(make(*given), chosen))
    return chosen


def test_skipped_steps_are_counted(skipping: set[int], data: Path, tmp_path: Path) -> None:  # noqa: F811
    skipping.update({2, 3})
    run = train(data, tmp_path, "--use_lora", "--train-iters", "4")
    assert list(losses_of(run)) == [1, 4]
    assert '"skipped": 2' in (run / "4" / "state.json").read_text(encoding="utf-8")


def test_many_consecutive_skipped_steps_raise_an_error(
    skipping: set[int],
    data: Path,  # noqa: F811
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    skipping.update(range(3, 3 + MAX_SKIPPED_STEPS))
    with pytest.raises(AssertionError):  # raised by `train`, because the program fails
        train(data, tmp_path, "--use_lora", "--train-iters", "40")
    error = capsys.readouterr().err
    assert f"{MAX_SKIPPED_STEPS} steps in a row" in error
    assert "--bf16" in error


def options(*flags: str) -> TrainingConfig:
    return parse_arguments(["--use_lora", "--train-data", "data.json", *flags])


def test_offload_configures_deepspeed() -> None:
    assert not options().offload
    assert options("--offload", "--zero-stage", "2").offload
    config = deepspeed_config(settings(offload=True, zero_stage=2), 10)
    assert config["zero_optimization"]["stage"] == 2
    assert config["zero_optimization"]["offload_optimizer"] == {"device": "cpu"}
    assert "torch_adam" not in config["optimizer"]["params"]
    assert "offload_optimizer" not in deepspeed_config(settings(zero_stage=2), 10)["zero_optimization"]


@pytest.mark.parametrize(("dtype", "names"), [("float16", ["fp16"]), ("bfloat16", ["bf16"]), ("float32", [])])
def test_deepspeed_computes_in_the_models_dtype(dtype: str, names: list[str]) -> None:
    config = deepspeed_config(settings(dtype=getattr(torch, dtype)), 10)
    assert [name for name in ("fp16", "bf16") if config[name]["enabled"]] == names


def test_deepspeeds_bucket_is_no_larger_than_the_gradients() -> None:
    sizes = [deepspeed_config(settings(), n)["zero_optimization"]["reduce_bucket_size"] for n in (7, 10**10)]
    assert sizes == [7, 500_000_000]


def test_async_scalars_keep_their_values() -> None:
    given = (1.5, torch.tensor(2.25), torch.tensor(True), False, torch.tensor(torch.inf))
    assert AsyncScalars(given, CPU).read() == [1.5, 2.25, 1.0, 0.0, torch.inf]
