"""The processes that train together: one, or as many as torchrun or the deepspeed launcher has started."""

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
from model.loading import choose_device
from model.sat.compat import plain_tracebacks

from .errors import TrainingError


@dataclass(frozen=True)
class DistributedContext:
    """This process among those that train together.

    Attributes:
        rank: its number.
        world_size: number of processes.
        device: that this process computes on.
    """

    rank: int
    world_size: int
    device: torch.device

    @property
    def is_main_process(self) -> bool:
        """Whether this is the process that speaks and writes."""
        return self.rank == 0

    def all_reduce(self, value: float) -> float:
        """Return the sum of a number over all processes."""
        if self.world_size == 1:
            return value
        total = torch.tensor(value, dtype=torch.float64, device=self.device)
        dist.all_reduce(total)
        return float(total)

    def all_reduce_async(self, *values: float) -> Sequence[float | torch.Tensor]:
        """Return the sum of each number over all processes, as the device will have it, which is not waited for."""
        if self.world_size == 1:
            return values
        totals = torch.tensor(values, dtype=torch.float64).to(self.device, non_blocking=self.device.type == "cuda")
        dist.all_reduce(totals)
        return totals.unbind()

    def broadcast(self, value: Any) -> Any:
        """Return the first process's object."""
        if self.world_size == 1:
            return value
        held = [value]
        dist.broadcast_object_list(held, device=self.device)
        return held[0]

    @contextmanager
    def raise_on_all_ranks(self) -> Iterator[None]:
        """End the block when every process has, or raise in all of them if one has failed."""
        failed: Exception | None = None
        try:
            yield
        except Exception as error:  # told to the others before it goes on
            failed = error
        failures = self.all_reduce(float(failed is not None))
        if failed is not None:
            raise failed
        if failures:
            raise TrainingError("Another process has failed. Its message says why.")


def print_main(processes: DistributedContext, text: str) -> None:
    """Tell the person something, from the first process."""
    if processes.is_main_process and text:
        print_text(text, file=sys.stderr)


def is_launched() -> bool:
    """Whether a launcher, torchrun or deepspeed's, has started this process."""
    return read_variable("WORLD_SIZE") is not None


def read_world_size() -> int:
    """How many processes the launcher has started; 1 without one."""
    return read_integer("WORLD_SIZE", 1)


def init_distributed(device: str | None, wants_nccl: bool) -> DistributedContext:
    """Meet the processes that a launcher has started.

    Args:
        device: name of the device for a single process; None for a GPU where there is one.
        wants_nccl: whether even a single process on a GPU needs NCCL, as deepspeed does.
    """
    count = read_world_size()
    if count == 1:
        chosen = choose_device(device)
        if wants_nccl and chosen.type == "cuda":
            store = dist.HashStore()  # type: ignore[attr-defined]  # public, not exported
            with plain_tracebacks():
                dist.init_process_group("nccl", store=store, rank=0, world_size=1)
            init_model_parallel()
        return DistributedContext(0, 1, chosen)
    return init_from_launcher(device, count)


def init_from_launcher(device: str | None, count: int) -> DistributedContext:
    """Meet the others at the address that the launcher has put into the environment."""
    local = read_integer("LOCAL_RANK", 0)
    on_gpu = torch.cuda.is_available() and device != "cpu"
    if on_gpu and local >= torch.cuda.device_count():
        raise SettingError(
            f"Process {local} of this machine has no GPU: there are {torch.cuda.device_count()}. "
            "Start as many processes as there are GPUs, or give --device cpu."
        )
    chosen = torch.device("cuda", local) if on_gpu else torch.device("cpu")
    if on_gpu:
        torch.cuda.set_device(chosen)
    dist.init_process_group("nccl" if on_gpu else "gloo")
    init_model_parallel()
    return DistributedContext(dist.get_rank(), count, chosen)


def init_model_parallel() -> None:
    """Tell SAT's layers that every process has the whole model."""
    import model.sat.compat  # noqa: F401  (before sat)

    # isort: split
    from sat import mpu

    os.environ.setdefault("LOCAL_WORLD_SIZE", "1")  # SAT guesses it otherwise, and says so
    mpu.initialize_model_parallel(1)


def close_distributed() -> None:
    """End the meeting of several processes, so that none waits for this one."""
    if dist.is_initialized() and dist.get_world_size() > 1:
        dist.destroy_process_group()


def exit_process(status: int) -> NoReturn:
    """End this process with an exit status, whether or not it has met others.

    A thread of gloo takes Python's lock to let go of the tensors that it has sent, which may be long after they have
    arrived. If Python is shutting down by then, that aborts the whole process (pytorch/pytorch#190489), and
    destroy_process_group waits for these threads only if nothing else, as deepspeed does, refers to the group. So a
    process that has met others ends without that shutdown, after all that is registered to be done at exit.
    """
    if read_world_size() > 1:
        atexit._run_exitfuncs()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    sys.exit(status)
