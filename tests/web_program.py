"""The web page started as a person starts it, on a model that can be slow, busy or broken when asked to."""

import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from model import BusyError, Conversation, GenerationConfig, Piece, load_sat
from tests.cli_program import PATIENCE, ROOT, environment

STARTED = "VisualGLM is at "


class ModelWithModes:
    """visualglm-tiny; but questions that are one of the words below show what a page must cope with."""

    def __init__(self) -> None:
        self.tiny = load_sat("visualglm-tiny", device="cpu")
        self.closed = 0

    def stream_answer(self, conversation: Conversation, question: str, config: GenerationConfig) -> Iterator[Piece]:
        match question:
            case "slow":
                yield from self.count_slowly()
            case "closed":
                yield Piece(f"{self.closed} closed", "stop")
            case "seen":
                yield Piece(describe(conversation, config), "stop")
            case "cut":
                yield Piece("too long", "length")
            case "busy":
                raise BusyError("Too many people ask at the moment. Try again soon.")
            case "break":
                yield Piece("It begins ")
                raise RuntimeError("the inside of the program")
            case _:
                yield from self.tiny.stream_answer(conversation, question, config)

    def count_slowly(self) -> Iterator[Piece]:
        """Count for half a minute."""
        try:
            for number in range(600):
                time.sleep(0.05)
                yield Piece(f"number{number} ")
            yield Piece("", "stop")
        except GeneratorExit:
            self.closed += 1
            raise


def describe(conversation: Conversation, config: GenerationConfig) -> str:
    """Return what the model was given."""
    size = conversation.image.size if conversation.image is not None else None
    said = " ".join(turn.question for turn in conversation.turns)
    return f"turns [{said}] picture {size} {conversation.language.code} temperature {config.temperature}"


def load(*_: Any, **__: Any) -> ModelWithModes:
    return ModelWithModes()


PROGRAM = ["-c", "import web_demo, tests.web_program as t; web_demo.main(load=t.load)"]


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


@contextmanager
def running_page(program: list[str], *flags: str, **changes: str) -> Iterator[str]:
    """Start the program on a free port; give the page's address."""
    command = [sys.executable, *program, "--server_port", str(free_port()), *flags]
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    with subprocess.Popen(command, cwd=ROOT, env=environment(**changes), **pipes) as process:
        assert process.stdout
        try:
            lines = []
            for line in process.stdout:
                lines.append(line)
                if line.startswith(STARTED):
                    break
            assert lines and lines[-1].startswith(STARTED), "".join(lines)
            yield lines[-1].removeprefix(STARTED).split()[0]
        finally:
            process.terminate()
            rest = process.communicate(timeout=PATIENCE)[0]
            print("".join(lines), rest)  # pytest shows it when a test fails
        assert process.returncode == 0
