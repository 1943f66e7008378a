"""Exit one of two processes while a thread of gloo waits for the GIL, to release a tensor.

Each is `python -m tests.helpers.gloo_shutdown FOLDER` with its RANK, 0 or 1, and a WORLD_SIZE of 2.
"""

import atexit
import ctypes
import os
import sys
import time
from datetime import timedelta
from pathlib import Path

GIL_HELD = "holds"  # name of the file that exists once the second process holds its GIL
STATUS = 3  # exit status of the second process


def hold_the_gil(folder: Path) -> None:
    """Hold the GIL until the first process has called the all-reduce and gloo has completed it."""
    sys.setswitchinterval(1000)
    (folder / GIL_HELD).touch()
    ctypes.PyDLL(None).usleep(3_000_000)  # unlike CDLL, this class does not release it during a call


def main(folder: Path) -> None:
    """Take part in an all-reduce of two processes, and exit."""
    rank = int(os.environ["RANK"])
    if rank == 1:
        atexit.register(hold_the_gil, folder)  # registered before torch's functions, so that it runs last

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
    sys.kept = dist.group.WORLD  # type: ignore[attr-defined]  # a reference to the group, as deepspeed has one
    dist.all_reduce(number, async_op=True)
    close_distributed()
    exit_process(STATUS)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
