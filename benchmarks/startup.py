"""Startup time: imports in fresh processes compared with `import torch`.

python -m benchmarks.startup
python -m benchmarks.startup --python another/environment/bin/python --repetitions 9

The target: `from model import chat, VisualGLMModel` takes at most one second more than `import torch`, with and without
deepspeed installed, and imports none of HEAVY_PACKAGES. `benchmarks.chat` measures cli_demo.py by `measure_start`.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass, field

from benchmarks.parts.machine import EXAMPLE_IMAGE, ROOT, describe_machine, min_int
from model.command_line import ArgumentParser, run_program

IMPORTS = ("import torch", "import sat", "from model import chat, VisualGLMModel")
HEAVY_PACKAGES = ("deepspeed", "transformers", "triton", "cpm_kernels")
UNDECLARED = ("requests", "triton", "wandb")
LIMIT_S = 1.0  # more than `import torch`

# Output of cli_demo.py when it waits for an image, starts an answer, and waits for a question.
ASK_IMAGE, ANSWER, ASK_QUESTION = "）：", "VisualGLM：", "\n用户："
# Runs in the measured process; its last line is the result.
IMPORT_PROBE = """
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
FIND_SPEC = "import importlib.util, sys; print(importlib.util.find_spec(sys.argv[1]) is not None)"


@dataclass
class ImportTimes:
    """Repeated measurements of one import statement.

    Attributes:
        seconds: duration of each run, without the start of the interpreter.
        error: the import error, or None.
        loaded: imported packages of HEAVY_PACKAGES.
    """

    seconds: list[float] = field(default_factory=list)
    error: str | None = None
    loaded: list[str] = field(default_factory=list)

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)


def run_python(python: str, *arguments: str) -> str:
    """Run `python -c ...` in the repository root; return the last line of its output."""
    done = subprocess.run([python, "-c", *arguments], cwd=ROOT, check=True, capture_output=True, text=True)
    return done.stdout.strip().splitlines()[-1]


def measure(python: str, repetitions: int) -> dict[str, ImportTimes]:
    """Run all statements in turn, `repetitions` times, after one uncounted run."""
    results = {statement: ImportTimes() for statement in IMPORTS}
    for repetition in range(repetitions + 1):
        for statement, result in results.items():
            answer = json.loads(run_python(python, IMPORT_PROBE, statement, *HEAVY_PACKAGES))
            result.error, result.loaded = answer["error"], answer["loaded"]
            if repetition:
                result.seconds.append(answer["seconds"])
    return results


def format_row(environment: str, statement: str, result: ImportTimes, torch_s: float) -> str:
    """Format one result as a row of the table."""
    name = f"| {environment} | `{statement}` |"
    if result.error is not None:
        return f"{name} does not import: {result.error} | | | |"
    loaded = ", ".join(result.loaded) or "none"
    numbers = f"{result.median:.2f} | {min(result.seconds):.2f} | {result.median - torch_s:+.2f}"
    return f"{name} {numbers} | {loaded} |"


def print_table(environments: list[tuple[str, dict[str, ImportTimes]]]) -> None:
    """Print the results of each environment, and whether the target is met."""
    print(f"| environment | statement | median s | min s | vs. torch, s | imports of {', '.join(HEAVY_PACKAGES)} |")
    print("|---|---|---|---|---|---|")
    for name, results in environments:
        for statement, result in results.items():
            print(format_row(name, statement, result, results[IMPORTS[0]].median))
    met = all(is_met(results) for _, results in environments)
    print(f"\nTarget, at most torch + {LIMIT_S:.0f} s and none of those packages: {'met' if met else 'NOT MET'}.")


def is_met(results: dict[str, ImportTimes]) -> bool:
    """Check whether our import meets the target."""
    own = results[IMPORTS[-1]]
    return own.error is None and not own.loaded and own.median - results[IMPORTS[0]].median <= LIMIT_S


def name_environment(python: str) -> str:
    """Describe an interpreter: deepspeed, and other packages that SAT imports without declaring them."""
    there = {name for name in ("deepspeed", *UNDECLARED) if run_python(python, FIND_SPEC, name) == "True"}
    named = ["with deepspeed" if "deepspeed" in there else "without deepspeed"]
    return ", with ".join(named + [name for name in UNDECLARED if name in there])


class CliProcess:
    """The program cli_demo.py in a subprocess without a terminal, and its output."""

    def __init__(self, arguments: list[str]) -> None:
        self.started = time.perf_counter()
        self.process = subprocess.Popen(
            [sys.executable, "cli_demo.py", "--chinese", *arguments],
            cwd=ROOT,
            env=os.environ | {"PYTHONIOENCODING": "utf-8"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        self.output = b""

    def read_until(self, mark: str, more: int = 0) -> float:
        """Read until `mark` and `more` bytes after it; return the seconds since the last `type` or the start.

        Raises:
            RuntimeError: the program ended first.
        """
        assert self.process.stdout is not None
        text = mark.encode()
        while text not in self.output or len(self.output.split(text, 1)[1]) < more:
            new = os.read(self.process.stdout.fileno(), 1)
            if not new:
                raise RuntimeError("cli_demo.py ended early:\n" + self.output.decode(errors="replace"))
            self.output += new
        return time.perf_counter() - self.started

    def type(self, line: str) -> None:
        """Enter a line; discards the output so far."""
        assert self.process.stdin is not None
        self.output, self.started = b"", time.perf_counter()
        self.process.stdin.write(f"{line}\n".encode())
        self.process.stdin.flush()

    def close(self) -> None:
        """Enter "stop" and wait for the end."""
        self.process.communicate(b"stop\n", timeout=60)


@dataclass(frozen=True)
class StartTimes:
    """Seconds of a fresh process: to its prompt, and to the first word of two answers about an image."""

    prompt_s: float
    first_word_s: float
    second_word_s: float


def measure_start(arguments: list[str]) -> StartTimes:
    """Start the program, let it describe an image, and ask one more question."""
    cli = CliProcess(arguments)
    prompt_s = cli.read_until(ASK_IMAGE)
    cli.type(str(EXAMPLE_IMAGE))
    first_word_s = cli.read_until(ANSWER, more=1)
    cli.read_until(ASK_QUESTION)
    cli.type("图片里有几个物体？")
    second_word_s = cli.read_until(ANSWER, more=1)
    cli.read_until(ASK_QUESTION)
    cli.close()
    return StartTimes(prompt_s, first_word_s, second_word_s)


def print_start(starts: list[StartTimes]) -> None:
    """Print the table of fresh processes."""
    print(f"| `cli_demo.py`, {len(starts)} fresh processes | median s | max s | target |")
    print("|---|---|---|---|")
    rows = (
        ("start to prompt", "prompt_s", "< 5"),
        ("first word about an image, first question", "first_word_s", "< 1"),
        ("first word, second question", "second_word_s", "< 1"),
    )
    for text, name, target in rows:
        values = [getattr(start, name) for start in starts]
        print(f"| {text} | {statistics.median(values):.3f} | {max(values):.3f} | {target} |")


def parse_arguments() -> argparse.Namespace:
    """Parse the command line."""
    parser = ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--repetitions", type=min_int(1), default=7, help="repetitions of each import (default %(default)s)"
    )
    parser.add_argument(
        "--python",
        action="append",
        default=[],
        metavar="PATH",
        help="interpreter of another environment to measure; may be repeated",
    )
    return parser.parse_args()


def main() -> None:
    """Measure the environments of this interpreter and of the given ones; print a table."""
    options = parse_arguments()
    print(f"{describe_machine()}; {options.repetitions} fresh processes per row, in turn, files cached\n")
    interpreters = [sys.executable, *options.python]
    print_table([(name_environment(python), measure(python, options.repetitions)) for python in interpreters])


if __name__ == "__main__":
    sys.exit(run_program(main))
