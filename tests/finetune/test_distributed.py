"""A process that has met others ends as it says, however late gloo is with what they sent one another."""

import subprocess
import sys
from pathlib import Path

from tests.helpers.cli_program import ROOT, environment
from tests.helpers.gloo_shutdown import GIL_HELD, STATUS


def test_gloo_does_not_abort_the_end(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.helpers.gloo_shutdown", str(tmp_path)]
    both = [subprocess.Popen(command, cwd=ROOT, env=environment(WORLD_SIZE="2", RANK=rank)) for rank in "01"]
    assert [process.wait(100) for process in both] == [0, STATUS]
    assert (tmp_path / GIL_HELD).exists()  # what was registered for the exit has been done
