"""Two processes, of which the second ends while gloo waits for Python's lock there, to let go of a sum of both.

Each is `python -m tests.helpers.gloo_shutdown FOLDER` with its RANK, 0 or 1, and a WORLD_SIZE of 2.
"""

import atexit
import os
import sys
import time
from datetime import timedelta
from pathlib import Path

GIL_HELD = "holds"  # a file that says that the second process keeps the lock
STATUS = 3  # which the second process ends with


def hold_the_gil(folder: Path) -> None:
    """Keep Python's lock while the first process adds its number and gloo is done with the sum."""
    sys.setswitchinterval(1000)
    (folder / GIL_HELD).touch()
    end = time.monotonic() + 3
    while time.monotonic() < end:
        pass


def main(folder: Path) -> None:
    """Meet the other process, and end."""
    rank = int(os.environ["RANK"])
    if rank == 1:
        atexit.register(hold_the_gil, folder)  # before torch's, so that nothing is between this and the end

    import torch
    import torch.distributed as dist

    from finetune.distributed import close_distributed, exit_process

    dist.init_process_group("gloo", f"file://{folder}/store", timedelta(seconds=60), world_size=2, rank=rank)
    number = torch.ones(1)
    dist.all_reduce(number)
    if rank == 0:
        while not (folder / GIL_HELD).exists():
            time.sleep(0.01)
        dist.all_reduce(number)
        exit_process(0)
    sys.kept = dist.group.WORLD  # type: ignore[attr-defined]  # as deepspeed keeps it
    dist.all_reduce(number, async_op=True)
    close_distributed()
    exit_process(STATUS)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
