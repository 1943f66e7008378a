"""How long the imports take, each in fresh processes, against `import torch`.

python -m benchmarks.startup
python -m benchmarks.startup --python another/environment/bin/python --repetitions 9

The target: `from model import chat, VisualGLMModel` takes at most one second more than `import torch`, whether
deepspeed is installed or not, and imports none of the packages in HEAVY.
"""

import argparse
import json
import statistics
import subprocess
import sys
from dataclasses import dataclass, field

from benchmarks.parts.machine import ROOT, at_least, describe_machine
from model.command_line import ArgumentParser, run_program

IMPORTS = ("import torch", "import sat", "from model import chat, VisualGLMModel")
HEAVY = ("deepspeed", "transformers", "triton", "cpm_kernels")
UNDECLARED = ("requests", "triton", "wandb")
LIMIT_S = 1.0  # beyond `import torch`

# Runs in the process measured; its last line is the result.
PROBE = """
import json, sys, time
started = time.perf_counter()
try:
    exec(sys.argv[1])
    error = None
except ImportError as failure:
    error = str(failure)
seconds = time.perf_counter() - started
loaded = [name for name in sys.argv[2:] if name in sys.modules]
print(json.dumps({"seconds": seconds, "error": error, "loaded": loaded}))
"""
FIND = "import importlib.util, sys; print(importlib.util.find_spec(sys.argv[1]) is not None)"


@dataclass
class Import:
    """What repeated runs of one import statement showed.

    Attributes:
        seconds: the duration of each run, without the interpreter's own start.
        error: why it does not import, or None.
        loaded: which of HEAVY it imported.
    """

    seconds: list[float] = field(default_factory=list)
    error: str | None = None
    loaded: list[str] = field(default_factory=list)

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)


def run_python(python: str, *arguments: str) -> str:
    """Run `python -c ...` in the repository's root; return the last line that it printed."""
    done = subprocess.run([python, "-c", *arguments], cwd=ROOT, check=True, capture_output=True, text=True)
    return done.stdout.strip().splitlines()[-1]


def measure(python: str, repetitions: int) -> dict[str, Import]:
    """Run every statement `repetitions` times in turn, after one run of each that is not counted."""
    results = {statement: Import() for statement in IMPORTS}
    for repetition in range(repetitions + 1):
        for statement, result in results.items():
            answer = json.loads(run_python(python, PROBE, statement, *HEAVY))
            result.error, result.loaded = answer["error"], answer["loaded"]
            if repetition:
                result.seconds.append(answer["seconds"])
    return results


def to_row(environment: str, statement: str, result: Import, torch_s: float) -> str:
    """Write one result as a row of the table."""
    name = f"| {environment} | `{statement}` |"
    if result.error is not None:
        return f"{name} does not import: {result.error} | | | |"
    loaded = ", ".join(result.loaded) or "none"
    numbers = f"{result.median:.2f} | {min(result.seconds):.2f} | {result.median - torch_s:+.2f}"
    return f"{name} {numbers} | {loaded} |"


def print_table(environments: list[tuple[str, dict[str, Import]]]) -> None:
    """Print the results of each environment, and whether the target is met."""
    print(f"| environment | statement | median s | min s | beyond torch, s | of {', '.join(HEAVY)} it imports |")
    print("|---|---|---|---|---|---|")
    for name, results in environments:
        for statement, result in results.items():
            print(to_row(name, statement, result, results[IMPORTS[0]].median))
    met = all(is_met(results) for _, results in environments)
    print(f"\nTarget, at most torch + {LIMIT_S:.0f} s and none of those packages: {'met' if met else 'NOT MET'}.")


def is_met(results: dict[str, Import]) -> bool:
    """Whether our own import is as light as it should be."""
    own = results[IMPORTS[-1]]
    return own.error is None and not own.loaded and own.median - results[IMPORTS[0]].median <= LIMIT_S


def name_environment(python: str) -> str:
    """Say whether an interpreter has deepspeed, and which other packages that SAT imports without declaring them."""
    there = {name for name in ("deepspeed", *UNDECLARED) if run_python(python, FIND, name) == "True"}
    named = ["with deepspeed" if "deepspeed" in there else "without deepspeed"]
    return ", with ".join(named + [name for name in UNDECLARED if name in there])


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repetitions", type=at_least(1), default=7, help="runs of each import (default %(default)s)")
    parser.add_argument(
        "--python",
        action="append",
        default=[],
        metavar="PATH",
        help="interpreter of another environment to measure too; may be repeated",
    )
    return parser.parse_args()


def main() -> None:
    """Measure this interpreter's environment and those given, and print a table."""
    options = parse_arguments()
    print(f"{describe_machine()}; {options.repetitions} fresh processes a row, in turn, files cached\n")
    interpreters = [sys.executable, *options.python]
    print_table([(name_environment(python), measure(python, options.repetitions)) for python in interpreters])


if __name__ == "__main__":
    sys.exit(run_program(main))
