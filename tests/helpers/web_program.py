"""The web program as a child process, with a model that special questions make slow, busy or broken."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from PIL import Image, ImageStat

from model import BusyError, Conversation, GenerationConfig, StreamChunk, load_sat
from model.chat_model import AnswerPhase, Usage
from tests.helpers.cli_program import PATIENCE, ROOT, environment
from tests.helpers.ports import free_port
from tests.helpers.preloaded import WEB, ForkedProgram

STARTED = "VisualGLM is at "
DRAWN = str(ROOT / "examples" / "hand_drawn.png")


class ModelWithModes:
    """visualglm-tiny, except that the questions below cause special answers and errors."""

    loaded = 0

    def __init__(self) -> None:
        ModelWithModes.loaded += 1
        self.number = ModelWithModes.loaded
        self.tiny = load_sat("visualglm-tiny", device="cpu")
        self.image_size = self.tiny.image_size
        self.description = self.tiny.description
        self.closed = 0

    def stream_answer(
        self, conversation: Conversation, question: str, config: GenerationConfig
    ) -> Iterator[StreamChunk]:
        """Return the answer to a question."""
        return PhasedAnswer() if question == "phases" else self.answer(conversation, question, config)

    def answer(self, conversation: Conversation, question: str, config: GenerationConfig) -> Iterator[StreamChunk]:
        """Yield the chunks of an answer."""
        match question:
            case "slow":
                yield from self.count_slowly()
            case "closed":
                yield StreamChunk(f"{self.closed} closed", "stop")
            case "seen":
                yield StreamChunk(describe(conversation, config), "stop")
            case "cut":
                yield StreamChunk("too long", "length")
            case "which":
                yield StreamChunk(f"This is model {self.number} of the page.", "stop")
            case "dropped":
                yield StreamChunk("short memory", "stop", Usage(100, 12, 2, 0.5, 3.25))
            case "paragraphs":
                yield from write_paragraphs()
            case _ if question.startswith("say "):
                yield StreamChunk(question.removeprefix("say "), "stop")
            case "busy":
                raise BusyError("Too many people ask at the moment. Try again soon.")
            case "break":
                yield StreamChunk("It begins ")
                raise RuntimeError("the inside of the program")
            case _:
                yield from self.tiny.stream_answer(conversation, question, config)

    def warm_up(self) -> None:
        """Warm up; the program calls it before it serves the page."""
        self.tiny.warm_up()

    def count_slowly(self) -> Iterator[StreamChunk]:
        """Count for half a minute."""
        try:
            for number in range(600):
                time.sleep(0.05)
                yield StreamChunk(f"number{number} ")
            yield StreamChunk("", "stop")
        except GeneratorExit:
            self.closed += 1
            raise


def write_paragraphs() -> Iterator[StreamChunk]:
    """Write 60 lines, 20 a second, with token counts."""
    for number in range(60):
        time.sleep(0.05)
        yield StreamChunk(f"line {number}\n", None, Usage(100, number + 1, 0, 0.05, 0.05 * (number + 1)))
    yield StreamChunk("the end", "stop", Usage(100, 61, 0, 0.05, 3.05))


class PhasedAnswer(Iterator[StreamChunk]):
    """An answer that waits in a queue, reads the image and the prompt, a second each, then has 12 tokens."""

    def __init__(self) -> None:
        self.phase = AnswerPhase("waiting", requests_ahead=2)
        self.phases = iter([self.phase, AnswerPhase("image"), AnswerPhase("prompt"), AnswerPhase("text")])

    def __next__(self) -> StreamChunk:
        if self.phase.name == "text":
            time.sleep(1)
            return StreamChunk("and the end", "stop", Usage(100, 16, 0, 1, 5))
        for phase in self.phases:
            self.phase = phase
            time.sleep(1)
        return StreamChunk("The beginning ", None, Usage(100, 12, 0, 1, 3))

    def close(self) -> None:
        """Cancel the answer."""


def describe(conversation: Conversation, config: GenerationConfig) -> str:
    """Describe the input of the model as text."""
    image = None if conversation.image is None else color_of(conversation.image)
    questions = " ".join(turn.question for turn in conversation.turns)
    return f"turns [{questions}] image {image} {conversation.language.code} temperature {config.temperature}"


def color_of(image: Image.Image) -> str:
    """Return the mean color of an image, which differs between the examples."""
    return "-".join(str(round(value)) for value in ImageStat.Stat(image).mean)


def load(*_: Any, **__: Any) -> ModelWithModes:
    return ModelWithModes()


def python(*arguments: str) -> list[str]:
    """Return the command that runs Python with `arguments`."""
    return [sys.executable, *arguments]


PROGRAM = python("-c", "import sys, web_demo, tests.helpers.web_program as t; sys.exit(web_demo.main(load=t.load))")


@contextmanager
def running_page(command: list[str], cwd: Path = ROOT, log: list[str] | None = None, **changes: str) -> Iterator[str]:
    """Context manager: start the page on a free port; yield its URL; append its output to `log` at the end."""
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    variables = environment(GRADIO_SERVER_PORT=str(free_port()), **changes)
    start: Any = partial(subprocess.Popen, start_new_session=True)
    if command[0] == sys.executable and not changes:  # Gradio reads variables when it is imported
        start, command = partial(ForkedProgram, modules=WEB), command[1:]
    with start(command, cwd=cwd, env=variables, **pipes) as process:
        assert process.stdout
        printed = []
        try:
            for line in process.stdout:
                printed.append(line)
                if line.startswith(STARTED):
                    break
            assert printed and printed[-1].startswith(STARTED), "".join(printed)
            yield printed[-1].removeprefix(STARTED).split()[0]
        finally:
            os.killpg(process.pid, signal.SIGTERM)  # to the process group, because make does not forward signals
            printed.append(process.communicate(timeout=PATIENCE)[0])
            print("".join(printed))  # pytest shows it if a test fails
            if log is not None:
                log += printed
    assert process.returncode == 0 or command[0] == "make"  # make reports a signal as an error
