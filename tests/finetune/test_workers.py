"""Prefetching does not exceed the shared memory, and a failing worker ends the training."""

import multiprocessing
import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.data import Dataset

from finetune import batches as workers
from finetune.batches import Batch, choose_workers, collate, load_batches, max_batch_bytes, translate_worker_errors
from finetune.data import ChatDataset
from finetune.encoding import Example
from finetune.errors import TrainingError
from finetune.finetune_visualglm import main
from finetune.trainer import Trainer
from model.errors import SettingError
from tests.helpers.finetuning import SHORT, data, dataset_of, train  # noqa: F401

MB = 1_000_000


def bytes_of(batch: Batch) -> int:
    tensors = (batch.input_ids, batch.labels, batch.position_ids, batch.attention_mask, batch.pixels)
    return sum(tensor.nbytes for tensor in tensors if tensor is not None)


def test_a_batch_has_at_most_the_estimated_bytes(data: Path, tiny_model: Any) -> None:  # noqa: F811
    dataset = dataset_of(data, tiny_model.network)
    batch = collate([dataset[index] for index in (0, 1, 2)])
    assert bytes_of(batch) == max_batch_bytes(3, batch.input_ids.shape[1], tiny_model.network.image_size)


@pytest.mark.parametrize(
    ("free", "expected"),
    [(1000 * MB, 4), (64 * MB, 2), (25 * MB, 0), (0, 0), (None, 4)],
)
def test_the_shared_memory_limits_the_number_of_workers(
    free: int | None, expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("LOCAL_SIZE", raising=False)
    monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)
    monkeypatch.setattr(workers, "free_shared_memory", lambda: free)
    count, notice = choose_workers(4, 8 * MB, 1)
    assert count == expected
    assert bool(notice) == (count < 4)
    assert choose_workers(0, 8 * MB, 1) == (0, "")


def test_processes_of_one_machine_share_its_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers, "free_shared_memory", lambda: 100 * MB)
    monkeypatch.delenv("LOCAL_SIZE", raising=False)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "1")
    assert choose_workers(4, 8 * MB, 1)[0] == 4
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    assert choose_workers(4, 8 * MB, 1)[0] == 1


def refuse(*_: object, **__: object) -> None:
    raise OSError(30, "Read-only file system")


def test_unusable_shared_memory_is_reported_and_training_works(
    data: Path,  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Neither semaphores nor torch's shared tensors can be created."""
    monkeypatch.setattr(multiprocessing.synchronize.SemLock, "__init__", refuse)  # type: ignore[attr-defined]
    monkeypatch.setattr(torch.UntypedStorage, "_new_using_fd_cpu", refuse)
    monkeypatch.setattr(torch.UntypedStorage, "_share_fd_cpu_", refuse)
    train(data, tmp_path, "--use_lora", "--layer_range", "0", "--num-workers", "2")
    assert "Read-only file system" in capsys.readouterr().err


def test_workers_see_which_images_are_cached(data: Path, tiny_model: Any) -> None:  # noqa: F811
    dataset = dataset_of(data, tiny_model.network)
    loaded = load_batches(dataset, [[0]] * 20, workers=1)
    assert next(loaded).pixels is not None
    dataset.is_cached[:] = True
    assert list(loaded)[-1].pixels is None


class Unsendable(Dataset[Example]):
    """Examples whose batches a worker cannot send, because the shared memory is full."""

    def __init__(self, dataset: ChatDataset) -> None:
        self.dataset = dataset

    def __getitem__(self, index: int) -> Example:
        torch.UntypedStorage._share_fd_cpu_ = refuse  # type: ignore[method-assign]
        return self.dataset[index]


class Killed(Dataset[Example]):
    """Examples that kill the worker, like the out-of-memory killer."""

    def __getitem__(self, index: int) -> Example:
        os.kill(os.getpid(), signal.SIGKILL)
        raise AssertionError


def test_a_worker_that_cannot_send_ends_the_training(
    data: Path,  # noqa: F811
    tiny_model: Any,
    capfd: pytest.CaptureFixture[str],
) -> None:
    loaded = load_batches(Unsendable(dataset_of(data, tiny_model.network)), [[0], [1]], workers=1)
    with pytest.raises(TrainingError, match="--num-workers"), translate_worker_errors():
        list(loaded)
    assert "Read-only file system" in capfd.readouterr().err
    assert not multiprocessing.active_children()


def test_a_worker_that_is_killed_ends_the_training() -> None:
    with pytest.raises(TrainingError, match="--num-workers"), translate_worker_errors():
        list(load_batches(Killed(), [[0], [1]], workers=2))
    assert not multiprocessing.active_children()


def test_other_errors_stay_as_they_are() -> None:
    with pytest.raises(RuntimeError, match="a bug"), translate_worker_errors():
        raise RuntimeError("a bug")


def test_a_lost_worker_is_an_error_of_the_command_line(
    data: Path,  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def lost(self: Trainer) -> None:
        raise RuntimeError("DataLoader worker (pid 1) is killed by signal: Killed.")

    monkeypatch.setattr(Trainer, "_train", lost)
    given = ["--from_pretrained", "visualglm-tiny", "--device", "cpu", "--train-data", str(data)]
    assert main([*given, *SHORT, "--use_lora", "--save", str(tmp_path)]) == 1
    assert "--num-workers" in capsys.readouterr().err


def test_a_number_of_workers_below_0_is_refused(data: Path, tmp_path: Path) -> None:  # noqa: F811
    from finetune.arguments import parse_arguments

    with pytest.raises(SettingError, match="--num-workers"):
        parse_arguments(["--train-data", str(data), "--use_lora", "--num-workers", "-1"])
