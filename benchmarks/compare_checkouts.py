"""Compare two checkouts of this repository on one device: decoding and a training step.

python -m benchmarks.compare_checkouts ../before .
python -m benchmarks.compare_checkouts ../before . --rounds 1 --layers 1 --device cpu

Each checkout runs in its own process with the published sizes and random weights. Both processes stay alive, so the
device needs memory for two models. Their order alternates between rounds. Prints the medians, the range over the
rounds, and the ratio of the medians.
"""

import argparse
import json
import statistics
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

from benchmarks.parts import checkout_process
from benchmarks.parts.checkout_process import DECODE, TRAIN
from model.command_line import ArgumentParser, print_text, run_program

SIDES = ("first", "second")


class CheckoutProcess:
    """A process that measures one checkout on request.

    Args:
        checkout: root folder of the checkout.
        options: `layers` and `device`.
    """

    def __init__(self, checkout: Path, options: argparse.Namespace) -> None:
        command = [sys.executable, str(Path(checkout_process.__file__)), str(options.layers), options.device]
        self.process = subprocess.Popen(
            command, cwd=checkout, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )

    def measure(self, phase: str) -> dict[str, float]:
        """Return the results of one measurement by name.

        Raises:
            RuntimeError: the process has ended or failed.
        """
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(f"{phase}\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"{self.process.args} failed. Run it in the checkout to see the error.")
        numbers: dict[str, float] = json.loads(line)
        return numbers


def compare(first: Path, second: Path, options: argparse.Namespace) -> None:
    """Measure two checkouts in turn and print their medians."""
    sides = dict(zip(SIDES, (CheckoutProcess(first, options), CheckoutProcess(second, options)), strict=True))
    for side in sides.values():
        side.measure(DECODE)  # warm-up: graph captures, compilation
    results: defaultdict[str, dict[str, list[float]]] = defaultdict(lambda: {name: [] for name in SIDES})
    for phase in (DECODE, TRAIN):
        for number in range(options.rounds):
            for name in SIDES if number % 2 == 0 else reversed(SIDES):
                for key, value in sides[name].measure(phase).items():
                    results[key][name].append(value)
    for key, values in results.items():
        medians = [statistics.median(values[name]) for name in SIDES]
        shown = (
            f"{median:.4g} ({min(values[name]):.4g} to {max(values[name]):.4g})"
            for name, median in zip(SIDES, medians, strict=True)
        )
        print_text(f"{key}: {', '.join(shown)}, ratio {medians[1] / medians[0]:.3f}")


def main() -> None:
    """Compare the checkouts given on the command line."""
    parser = ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("first", type=Path)
    parser.add_argument("second", type=Path)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--layers", type=int, default=0, help="layers of each component (default: all)")
    parser.add_argument("--device", default="", help="(default: a GPU if available)")
    options = parser.parse_args()
    compare(options.first, options.second, options)


if __name__ == "__main__":
    sys.exit(run_program(main))
