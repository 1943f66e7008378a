"""Keys at a pseudo-terminal: several lines, completion, history, typing during an answer, and a terminal's replies."""

import os
import re
import signal
import subprocess
import sys
import termios
import time
from pathlib import Path

import pytest
from PIL import Image
from rich.cells import cell_len

from tests.helpers.cli_program import (
    ARROW_UP,
    CTRL_C,
    CTRL_D,
    ROOT,
    SCENE,
    SLOW,
    TINY,
    Person,
    at_terminal,
    environment,
)
from visualglm.terminal.commands import HELP_INDENT

# pexpect forks this multi-threaded process, which is safe because the child executes a program immediately.
pytestmark = pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")

ALT_ENTER = "\x1b\r"


def start_talk(person: Person) -> None:
    person.sees("loading", "Welcome to VisualGLM.", "Path or URL")
    person.types("")
    person.sees("You:")


def end_talk(person: Person) -> None:
    person.types("/quit")
    person.sees("Goodbye.")
    person.sees_the_end()


def test_the_command_line_is_parsed_without_torch() -> None:
    code = (
        "import sys; sys.argv[1:] = []; import visualglm.terminal.program as p; p.parse_arguments(); "
        "p.announce('x', p.ENGLISH); print({'torch', 'numpy', 'PIL', 'transformers'} & {*sys.modules})"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=environment(), capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("set()\n", "")


def test_keys_and_commands() -> None:
    with at_terminal([*SLOW, "--english"]) as person:
        start_talk(person)
        # Tab completes commands, names of settings and paths.
        person.presses("/undo\x15/und\t\r")
        person.sees("There is nothing to undo.", "You:")
        person.presses("/set tempe\t0.25\r".replace("\t", "\t "))
        person.sees("temperature = 0.25", "You:")
        person.presses("/image examples/scene_3\t\r")
        person.sees("Image: examples/scene_3.png", "number0 number1")
        # Typed during the answer: not echoed there, and in the next prompt.
        person.presses("cou")
        time.sleep(0.2)
        person.presses(CTRL_C)
        assert "cou" not in person.sees("(stopped)", "You:")
        # Several lines.
        person.presses(f"one{ALT_ENTER}two\r")
        person.sees("number0 number1")
        person.presses("count\r")
        person.sees("number3 ")
        person.presses(CTRL_C)
        person.sees("(stopped)", "You:")
        person.types('"""count')
        person.types('"""')
        person.sees("I know 0 turns.", "You:")
        person.presses(ARROW_UP)
        person.sees('"""count')
        person.presses(CTRL_C)
        person.sees("Type stop", "You:")
        person.types("/retry")
        person.sees("I know 0 turns.", "You:")
        person.types("exit")
        person.sees("End the chat?")
        person.types("no")
        person.sees("You:")
        end_talk(person)


def test_keys_typed_during_an_answer_are_in_the_next_prompt() -> None:
    with at_terminal([*TINY, "--english", "--image", SCENE]) as person:
        person.sees("VisualGLM: The")
        person.presses("How many objects are there?")  # without Enter
        person.sees("You:", "How many objects are there?")
        person.types("")
        person.sees("VisualGLM: There are three", "You:")
        end_talk(person)


def test_earlier_input_is_kept_for_the_next_start(tmp_path: Path) -> None:
    for keys in ("count\r", f"{ARROW_UP}{ARROW_UP}\r"):
        with at_terminal([*SLOW, "--english", "--image", ""], XDG_STATE_HOME=str(tmp_path)) as person:
            person.sees("You:")
            person.presses(keys)
            person.sees("I know 0 turns.", "You:")
            end_talk(person)


@pytest.mark.parametrize(
    ("variables", "query", "reply", "shown"),
    [
        ({}, "\x1b[c", "\x1b[?62;4;6c", '\x1bPq"1;1;'),
        ({}, "\x1b[c", "\x1b[?62;6c", "▀"),
        ({}, "\x1b[c", "", "▀"),
        ({"TERM_PROGRAM": "WezTerm"}, "\x1b[c", "\x1b_Gi=31;OK\x1b\\\x1b[?65;4c", "\x1b_Ga=T"),
    ],
    ids=["sixel", "neither", "silent", "kitty"],
)
def test_an_image_is_shown_as_the_terminal_says(
    variables: dict[str, str], query: str, reply: str, shown: str, tmp_path: Path
) -> None:
    path = str(tmp_path / "red.png")
    Image.new("RGB", (40, 20), "red").save(path)
    settings = {"NO_COLOR": "", "TERM": "xterm-256color", **variables}
    with at_terminal([*SLOW, "--english", "--image", path, "--prompt_en", ""], **settings) as person:
        person.sees(query)
        person.presses(reply)
        person.sees(shown, "(40 x 20)", "You:")
        person.types("count")
        person.sees("I know 0 turns.", "You:")
        end_talk(person)
    assert "[?62;" not in person.screen.getvalue()


def test_a_terminal_that_never_replies_is_asked_once(tmp_path: Path) -> None:
    path = str(tmp_path / "red.png")
    Image.new("RGB", (40, 20), "red").save(path)
    settings = {"NO_COLOR": "", "TERM": "xterm-256color"}
    with at_terminal([*SLOW, "--english", "--image", path, "--prompt_en", ""], **settings) as person:
        for _ in range(2):
            person.sees("(40 x 20)", "You:")
            person.types(f"/image {path}")
        person.sees("(40 x 20)", "You:")
        end_talk(person)
    assert person.screen.getvalue().count("\x1b[c") == 1


def modes(person: Person) -> list[object]:
    """Return the modes of the terminal."""
    return [*termios.tcgetattr(person.child.child_fd)]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT], ids=lambda number: number.name)
@pytest.mark.parametrize("question", ["long", ""], ids=["answer", "prompt"])
def test_a_signal_that_ends_the_program_leaves_the_terminal_as_it_was(number: signal.Signals, question: str) -> None:
    if signal.getsignal(number) == signal.SIG_IGN:
        pytest.skip("the tests were started with this signal ignored, as in the background, and so is the program")
    with at_terminal([*SLOW, "--english"]) as person:
        before = modes(person)
        person.sees("Path or URL")
        person.types("")
        person.sees("You:")
        if question:
            person.types(question)
            person.sees("number0 number1")
        assert modes(person) != before
        os.kill(person.process_id, number)
        person.sees("\x1b[?2004l", "\x1b[0m")
        assert person.exit_status() == -number
        assert modes(person) == before


@pytest.mark.parametrize("columns", [24, 30, 40])
@pytest.mark.parametrize("language", ["--english", "--chinese"])
def test_lines_of_statistics_end_between_their_items(columns: int, language: str) -> None:
    prompt = "用户：" if language == "--chinese" else "You:"
    with at_terminal([*TINY, language, "--image", ""], columns) as person:
        person.sees(prompt)
        person.types("/set verbose on")
        person.sees("verbose = on", prompt)
        person.types("Hello")
        person.sees("VisualGLM", prompt)
        person.presses(CTRL_D)
        person.sees_the_end()
    output = re.sub(r"\x1b\[[\d;?]*[A-Za-z]", "", person.screen.getvalue())
    items = r"\d+ 个 token，\s*\d+\.\d 秒，\s*每秒 \d+\.\d 个 token", r"\d+ tokens,\s*\d+\.\d s,\s*\d+\.\d tokens/s"
    found = re.search(items[language == "--english"], output.replace("\r", ""))
    assert found
    assert all(cell_len(line) <= columns for line in found[0].split("\n"))


def test_lines_of_the_help_continue_below_the_explanation() -> None:
    with at_terminal([*SLOW, "--english", "--image", ""], 44) as person:
        person.sees("You:")
        person.types("/help")
        person.sees("/quit", "Alt+Enter")
        output = person.screen.getvalue().replace("\r", "")
        end_talk(person)
    lines = output[output.rindex("  /help ") : output.rindex("Alt+Enter")].split("\n")
    assert all(line.startswith(("  /", " " * HELP_INDENT)) for line in lines if line)
    assert any(line.startswith(" " * HELP_INDENT) for line in lines)


def test_paths_with_blanks_and_quotes_are_completed(tmp_path: Path) -> None:
    name = 'a friend\'s "talk".json'
    with at_terminal([*SLOW, "--english", "--image", SCENE, "--prompt_en", ""], 250) as person:
        person.sees("You:")
        person.types(f"/save {tmp_path}/" + re.sub(r"([ '\"])", r"\\\1", name))
        person.sees("Saved as", "You:")
        person.presses(f"/load {tmp_path}/a\t")
        person.sees("json")
        person.presses("\r")
        person.sees("Loaded", "0 turns", "You:")
        end_talk(person)
    assert (tmp_path / name).exists()


def test_ctrl_c_and_ctrl_d_leave_no_empty_line() -> None:
    with at_terminal([*SLOW, "--english", "--image", ""]) as person:
        person.sees("You:")
        person.presses(CTRL_C)
        person.sees("Type stop", "You:")
        person.presses(CTRL_D)
        person.sees_the_end()
    output = re.sub(r"\x1b\[[\d;?]*[A-Za-z]|\r", "", person.screen.getvalue())
    assert "\n\n" not in output
