"""A server stops at the first signal, even while further ones arrive."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
WAIT = """
from visualglm.stop_signal import StopSignal
stop = StopSignal()
print("ready", flush=True)
for _ in range(3000):  # so that signals arrive at all places of waiting
    stop.wait()
"""
PATIENCE_S = 20


@pytest.mark.skipif(sys.platform == "win32", reason="Windows ends a program at SIGTERM")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_flood_of_signals_stops_a_server(number: signal.Signals) -> None:
    with subprocess.Popen([sys.executable, "-c", WAIT], cwd=ROOT, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        end = time.monotonic() + PATIENCE_S
        try:
            while process.poll() is None and time.monotonic() < end:
                process.send_signal(number)
                time.sleep(1e-4)  # a flood would interrupt the handler itself too often
            assert process.poll() in (0, -number)  # at its very end Python no longer handles signals
        finally:
            process.kill()


def test_signals_are_counted_and_waited_for_one_by_one() -> None:
    code = (
        "import signal; from visualglm.stop_signal import StopSignal; stop = StopSignal();"
        "signal.raise_signal(signal.SIGINT); signal.raise_signal(signal.SIGTERM); stop.wait(); stop.wait();"
        "print(stop.count)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE_S)
    assert done.stdout == "2\n", done.stderr
