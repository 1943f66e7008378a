"""A process of several exits with its status although a thread of gloo still releases tensors."""

import subprocess
import sys
from pathlib import Path

from tests.helpers.cli_program import ROOT, environment
from tests.helpers.gloo_shutdown import GIL_HELD, STATUS


def test_gloo_does_not_abort_the_exit(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.helpers.gloo_shutdown", str(tmp_path)]
    both = [subprocess.Popen(command, cwd=ROOT, env=environment(WORLD_SIZE="2", RANK=rank)) for rank in "01"]
    assert [process.wait(100) for process in both] == [0, STATUS]
    assert (tmp_path / GIL_HELD).exists()  # the functions registered with atexit have run
