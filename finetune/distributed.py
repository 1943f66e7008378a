"""Distributed training: the processes that torchrun or the deepspeed launcher has started, or a single process."""

import atexit
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NoReturn

import torch
import torch.distributed as dist

from model.command_line import print_text
from model.environment import read_integer, read_variable
from model.errors import SettingError
from model.placement import choose_device
from model.sat.compat import plain_tracebacks

from .errors import TrainingError


@dataclass(frozen=True)
class DistributedContext:
    """Rank, world size and device of this process.

    Attributes:
        rank: rank of this process.
        world_size: number of processes.
        device: device of this process.
    """

    rank: int
    world_size: int
    device: torch.device

    @property
    def is_main_process(self) -> bool:
        """Whether this process has rank 0, which prints messages and writes files."""
        return self.rank == 0

    def all_reduce(self, value: float) -> float:
        """Return the sum of a number over all processes."""
        if self.world_size == 1:
            return value
        total = torch.tensor(value, dtype=torch.float64, device=self.device)
        dist.all_reduce(total)
        return float(total)

    def all_reduce_async(self, *values: float) -> Sequence[float | torch.Tensor]:
        """Return the sum of each number over all processes, as tensors for which the host has not waited."""
        if self.world_size == 1:
            return values
        totals = torch.tensor(values, dtype=torch.float64).to(self.device, non_blocking=self.device.type == "cuda")
        dist.all_reduce(totals)
        return totals.unbind()

    def broadcast(self, value: Any) -> Any:
        """Return the object of rank 0 on all ranks; it is pickled."""
        if self.world_size == 1:
            return value
        objects = [value]
        dist.broadcast_object_list(objects, device=self.device)
        return objects[0]

    @contextmanager
    def raise_on_all_ranks(self) -> Iterator[None]:
        """Wait at the end of the block for all processes.

        Raises:
            Exception: the exception of this process's block.
            TrainingError: the block of another process has raised an exception.
        """
        raised: Exception | None = None
        try:
            yield
        except Exception as error:  # raised again once the other processes know
            raised = error
        failures = self.all_reduce(float(raised is not None))
        if raised is not None:
            raise raised
        if failures:
            raise TrainingError("Another process has failed. See its error message.")


def print_main(processes: DistributedContext, text: str) -> None:
    """Print a message to standard error, on the main process, unless it is empty."""
    if processes.is_main_process and text:
        print_text(text, file=sys.stderr)


def is_launched() -> bool:
    """Return whether torchrun or the deepspeed launcher has started this process."""
    return read_variable("WORLD_SIZE") is not None


def is_first_process() -> bool:
    """Return whether this is the process of rank 0, before torch.distributed is initialized."""
    return read_integer("RANK", 0) == 0


def read_world_size() -> int:
    """Return the number of processes that the launcher has started; 1 without a launcher."""
    return read_integer("WORLD_SIZE", 1)


def init_distributed(device: str | None, wants_nccl: bool) -> DistributedContext:
    """Initialize torch.distributed for the processes that a launcher has started, unless it is initialized.

    Args:
        device: name of the device for a single process; None chooses a GPU if there is one.
        wants_nccl: whether a single process on a GPU needs NCCL, as it does for deepspeed.
    """
    count = read_world_size()
    if count == 1:
        chosen = choose_device(device)
        if wants_nccl and chosen.type == "cuda" and not dist.is_initialized():
            store = dist.HashStore()  # type: ignore[attr-defined]  # public, not exported
            with plain_tracebacks():
                dist.init_process_group("nccl", store=store, rank=0, world_size=1)
            init_model_parallel()
        return DistributedContext(0, 1, chosen)
    return init_from_launcher(device, count)


def init_from_launcher(device: str | None, count: int) -> DistributedContext:
    """Initialize torch.distributed with the address that the launcher has put into the environment."""
    local = read_integer("LOCAL_RANK", 0)
    on_gpu = torch.cuda.is_available() and device != "cpu"
    if on_gpu and local >= torch.cuda.device_count():
        raise SettingError(
            f"There is no GPU for process {local} of this machine, which has {torch.cuda.device_count()}. "
            "Start one process per GPU, or give --device cpu."
        )
    chosen = torch.device("cuda", local) if on_gpu else torch.device("cpu")
    if on_gpu:
        torch.cuda.set_device(chosen)
    if not dist.is_initialized():  # by the training with the former seed
        dist.init_process_group("nccl" if on_gpu else "gloo")
        init_model_parallel()
    return DistributedContext(dist.get_rank(), count, chosen)


def init_model_parallel() -> None:
    """Initialize SAT's model parallelism with size 1: every process has the complete model."""
    import model.sat.compat  # noqa: F401  (before sat)

    # isort: split
    from sat import mpu

    os.environ.setdefault("LOCAL_WORLD_SIZE", "1")  # otherwise SAT guesses it, and prints a message
    mpu.initialize_model_parallel(1)


def close_distributed() -> None:
    """Destroy the process group of several processes, so that no process waits for this one."""
    if dist.is_initialized() and dist.get_world_size() > 1:
        dist.destroy_process_group()


def exit_process(status: int) -> NoReturn:
    """Exit this process with a status, without shutting Python down if it was started by a launcher.

    A thread of gloo takes the GIL to release the tensors that it has sent, which may be long after they have arrived.
    If Python is shutting down by then, this aborts the process (pytorch/pytorch#190489). destroy_process_group waits
    for these threads only if there is no other reference to the group, but deepspeed has one. So one of several
    processes runs the functions registered with atexit, and then exits without shutting Python down.
    """
    if read_world_size() > 1:
        atexit._run_exitfuncs()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    sys.exit(status)
