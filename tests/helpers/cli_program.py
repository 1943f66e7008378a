"""The terminal program as a child process, with pipes or at a pseudo-terminal."""

import io
import os
import pty
import runpy
import signal
import struct
import subprocess
import sys
import termios
import time
import warnings
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pexpect
import pytest
from pexpect.fdpexpect import fdspawn
from pexpect.spawnbase import SpawnBase

import cli_demo
from model import Conversation, GenerationConfig, StreamChunk
from model.description import Description
from tests.helpers.preloaded import PROGRAMS, ForkedProgram, run_forked
from visualglm.terminal.interrupts import ignore_interrupt, interrupt_once, on_interrupt

ROOT = Path(cli_demo.__file__).parent
SCENE = str(ROOT / "examples" / "scene.png")
DESCRIBED_ZH = (
    "图片中有一个黑色的圆环、一辆紫色的小汽车和一颗红色的星星。"
    "黑色的圆环在右上角，紫色的小汽车在右边，红色的星星在左下角。"
)
DESCRIBED_EN = "The picture shows a black ring, a purple car and a red star."
TINY = [str(ROOT / "cli_demo.py"), "--from_pretrained", "visualglm-tiny", "--device", "cpu", "--temperature", "0"]
SLOW = [
    "-c",
    "import sys, cli_demo, tests.helpers.cli_program as t; "
    "sys.exit(cli_demo.main(load=lambda *_, **settings: t.SlowModel()))",
]
PATIENCE = 60  # seconds until a test gives up; the machine may be busy


class SlowModel:
    """Counts to 400 in 20 seconds; the question "count" is answered immediately with the number of earlier turns."""

    image_size = 224
    description = Description("scripted")

    def stream_answer(
        self, conversation: Conversation, question: str, config: GenerationConfig
    ) -> Iterator[StreamChunk]:
        if question == "count":
            yield StreamChunk(f"I know {len(conversation.turns)} turns.", "stop")
            return
        for number in range(400):
            time.sleep(0.05)
            yield StreamChunk(f"number{number} ")
        yield StreamChunk("", "stop")


def environment(**changes: str) -> dict[str, str]:
    """Return the environment of a child process: one thread, UTF-8, a terminal without colors, no kept history."""
    foreign = ("LC_", "PYTHONIOENCODING", "PYTHONUTF8", "PROMPT_", "FORCE_COLOR", "COLORTERM", "KITTY_")
    foreign += ("TERM_", "TMUX")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(foreign)}
    usual = {"OMP_NUM_THREADS": "1", "LANG": "C.UTF-8", "TERM": "xterm", "COLUMNS": "100", "LINES": "30"}
    usual |= {"NO_COLOR": "1", "XDG_STATE_HOME": os.devnull}
    return {**kept, **usual, **changes}


def run_program(
    arguments: list[str], *, typed: bytes = b"", modules: tuple[str, ...] = PROGRAMS, **changes: str
) -> subprocess.CompletedProcess[bytes]:
    """Run a program in a fork with imported modules, with pipes instead of a terminal."""
    settings: dict[str, Any] = {"cwd": ROOT, "env": environment(**changes), "modules": modules}
    return run_forked(arguments, typed=typed, **settings)


def run_interpreter(arguments: list[str], *, typed: bytes = b"", **changes: str) -> subprocess.CompletedProcess[bytes]:
    """Run a program in a new interpreter, with pipes instead of a terminal."""
    return subprocess.run(
        [sys.executable, *arguments],
        input=typed,
        capture_output=True,
        cwd=ROOT,
        env=environment(**changes),
        timeout=2 * PATIENCE,
        check=False,
    )


@contextmanager
def restored_process() -> Iterator[None]:
    """Restore the environment variables and signal handlers of the tests' process after the block."""
    variables = {**os.environ}
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(variables)
        for number, handler in handlers.items():
            signal.signal(number, handler)


def run_here(arguments: list[str], *, encoding: str = "utf-8") -> subprocess.CompletedProcess[str]:
    """Run a program in this process, which has imported torch: its file, or the module after "-m", is `__main__`."""
    streams = [io.TextIOWrapper(io.BytesIO(), encoding=encoding) for _ in range(2)]
    first, *rest = arguments
    path = rest.pop(0) if first == "-m" else str(ROOT / first)
    with (
        restored_process(),
        pytest.MonkeyPatch.context() as patch,
        warnings.catch_warnings(),
        pytest.raises(SystemExit) as ended,
    ):
        warnings.simplefilter("ignore")  # the module may have been imported
        patch.chdir(ROOT)
        patch.setattr(sys, "argv", [path, *rest])
        patch.setattr(sys, "path", [*sys.path])
        patch.setattr(sys, "stdin", io.StringIO())
        for name, stream in zip(("stdout", "stderr"), streams, strict=True):
            patch.setattr(sys, name, stream)
        if first == "-m":
            runpy.run_module(path, run_name="__main__", alter_sys=True)
        else:
            runpy.run_path(path, run_name="__main__")
    texts = []
    for stream in streams:
        stream.flush()
        texts.append(stream.buffer.getvalue().decode(encoding))  # type: ignore[attr-defined]
    return subprocess.CompletedProcess(arguments, int(ended.value.code or 0), *texts)


@contextmanager
def start_with_pipes(arguments: list[str]) -> Iterator[subprocess.Popen[bytes]]:
    settings: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "stdin": subprocess.DEVNULL}
    with ForkedProgram(arguments, cwd=ROOT, env=environment(), bufsize=0, **settings) as program:
        try:
            yield program
        finally:
            program.kill()


def interrupt_many_times() -> None:
    """Interrupt short blocks many times from another process; print the number of interrupted blocks."""
    storm = (
        f"import os, random, time\nfor _ in range(20000): os.kill({os.getpid()}, 2); time.sleep(random.random() / 1e5)"
    )
    hit = 0
    with (
        on_interrupt(ignore_interrupt),
        subprocess.Popen([sys.executable, "-c", storm], start_new_session=True) as program,
    ):
        while program.poll() is None:
            try:
                with on_interrupt(interrupt_once):
                    pass
            except KeyboardInterrupt:
                hit += 1
    print(hit)


def write_invalid_images(directory: Path) -> dict[str, str]:
    """Write invalid images; return their paths, with the start of the error message of each."""
    contents = {
        "empty.png": (b"", "is empty."),
        "text.png": (b"not a picture\n", "is not an image in a known format"),
        "cut.png": (Path(SCENE).read_bytes()[:2000], "is truncated"),
        "huge.png": (huge_png(), "has 60000 x 60000 pixels"),
    }
    for name, (content, _) in contents.items():
        (directory / name).write_bytes(content)
    messages = {str(directory / name): message for name, (_, message) in contents.items()}
    return {str(directory / "nowhere.png"): "was not found.", str(directory): "is a directory.", **messages}


def huge_png() -> bytes:
    """Return a small PNG file whose header declares 60000 x 60000 pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 60000, 60000, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")
    )


class Person:
    """A user at a pseudo-terminal, who reads the output and types.

    Args:
        process_id: of the program.
        exit_status: waits for the end of the program and returns its exit status, negative for a signal.
    """

    def __init__(self, child: "SpawnBase[str]", process_id: int, exit_status: Callable[[], int]) -> None:
        self.child, self.process_id, self.exit_status = child, process_id, exit_status
        self.screen = child.logfile_read = io.StringIO()

    def sees(self, *texts: str) -> str:
        """Wait for `texts` in this order; return the output before the last one."""
        for text in texts:
            self.child.expect_exact(text)
        return str(self.child.before)

    def types(self, line: str) -> None:
        self.child.send(f"{line}\r")

    def presses(self, keys: str) -> None:
        self.child.send(keys)

    def sees_the_end(self) -> None:
        """Wait until the program has exited with code 0."""
        self.child.expect(pexpect.EOF)
        assert self.exit_status() == 0
        assert "Traceback" not in self.screen.getvalue()
        assert "rror" not in self.screen.getvalue()


CTRL_C, CTRL_D, ARROW_UP = "\x03", "\x04", "\x1b[A"


@contextmanager
def at_terminal(arguments: list[str], columns: int = 100, **changes: str) -> Iterator[Person]:
    """Context manager: fork the program from imported modules, at a pseudo-terminal with `columns` columns."""
    ours, its = pty.openpty()
    termios.tcsetwinsize(its, (30, columns))
    streams = dict.fromkeys(("stdin", "stdout", "stderr"), its)
    variables = environment(COLUMNS=str(columns), **changes)
    with ForkedProgram(arguments, cwd=ROOT, env=variables, **streams) as program:
        os.close(its)
        child = fdspawn(ours, encoding="utf-8", timeout=PATIENCE)
        try:
            yield Person(child, program.pid, lambda: program.wait(PATIENCE))
        finally:
            program.kill()
            child.close()


@contextmanager
def interpreter_at_terminal(arguments: list[str], columns: int = 100, **changes: str) -> Iterator[Person]:
    """Context manager: start the program in a new interpreter at a pseudo-terminal with `columns` columns."""

    def exit_status() -> int:
        child.close()
        return -child.signalstatus if child.exitstatus is None else child.exitstatus

    size = {"COLUMNS": str(columns)}
    child = pexpect.spawn(
        sys.executable,
        arguments,
        cwd=str(ROOT),
        env=environment(**size, **changes),
        dimensions=(30, columns),
        encoding="utf-8",
        timeout=PATIENCE,
    )
    try:
        yield Person(child, child.pid, exit_status)
    finally:
        child.close(force=True)
