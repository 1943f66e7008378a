"""The terminal program, started in processes of its own, and how long a person waits for it."""

import os
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass

from benchmarks.parts.machine import PICTURE, ROOT

# What cli_demo.py prints when it waits for a picture, begins an answer, and waits for a question.
ASK_PICTURE, ANSWER, ASK_QUESTION = "）：", "VisualGLM：", "\n用户："


class Terminal:
    """The program cli_demo.py in a process of its own, without a terminal, and what it has printed."""

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
        """Read until `mark` and `more` bytes after it are there; return the seconds since the last `type` or start.

        Raises:
            RuntimeError: the program ended before.
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
        """Enter a line; what was printed before is forgotten."""
        assert self.process.stdin is not None
        self.output, self.started = b"", time.perf_counter()
        self.process.stdin.write(f"{line}\n".encode())
        self.process.stdin.flush()

    def close(self) -> None:
        """Say stop and wait for the end."""
        self.process.communicate(b"stop\n", timeout=60)


@dataclass(frozen=True)
class Start:
    """Seconds of a fresh process: to its prompt, to the first word about a picture, to that of a second question."""

    prompt_s: float
    first_word_s: float
    second_word_s: float


def measure_start(arguments: list[str]) -> Start:
    """Start the program, give it a picture, which it describes, and ask one more question."""
    terminal = Terminal(arguments)
    prompt_s = terminal.read_until(ASK_PICTURE)
    terminal.type(str(PICTURE))
    first_word_s = terminal.read_until(ANSWER, more=1)
    terminal.read_until(ASK_QUESTION)
    terminal.type("图片里有几个物体？")
    second_word_s = terminal.read_until(ANSWER, more=1)
    terminal.read_until(ASK_QUESTION)
    terminal.close()
    return Start(prompt_s, first_word_s, second_word_s)


def print_start(starts: list[Start]) -> None:
    """Print the table of fresh processes."""
    print(f"| `cli_demo.py`, {len(starts)} fresh processes | median s | max s | target |")
    print("|---|---|---|---|")
    rows = (
        ("start to prompt", "prompt_s", "< 5"),
        ("first word about a picture, first question", "first_word_s", "< 1"),
        ("first word about it, second question", "second_word_s", "< 1"),
    )
    for text, name, target in rows:
        values = [getattr(start, name) for start in starts]
        print(f"| {text} | {statistics.median(values):.3f} | {max(values):.3f} | {target} |")
