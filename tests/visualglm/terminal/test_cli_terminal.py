"""The terminal program at a pseudo-terminal: typed input and Ctrl-C."""

import time
from collections.abc import Iterator

import pytest

from tests.helpers.cli_program import (
    ARROW_UP,
    CTRL_C,
    CTRL_D,
    DESCRIBED_EN,
    DESCRIBED_ZH,
    SCENE,
    SLOW,
    TINY,
    Person,
    at_terminal,
    interpreter_at_terminal,
)

# pexpect forks this multi-threaded process, which is safe because the child executes a program immediately.
pytestmark = pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")


@pytest.fixture(scope="module")
def started() -> Iterator[Person]:
    """An English chat that several tests share."""
    with at_terminal([*TINY, "--english", "--prompt_en", "Describe the image."]) as person:
        person.sees("Loading", "Welcome to VisualGLM.", "Path or URL")
        yield person


@pytest.fixture
def person(started: Person) -> Person:
    """The shared chat, asking for an image."""
    started.presses(CTRL_C)
    started.sees("Type stop or press Ctrl-D to quit.")
    started.types("clear")
    started.sees("clear", "Path or URL of an image")
    return started


class TestDialogue:
    """Tests that share one chat; the last one ends it."""

    def test_describes_the_image_and_answers(self, person: Person) -> None:
        person.types("examples/nowhere.png")
        person.sees("The image 'examples/nowhere.png' was not found.", "Path or URL")
        person.types(f"'{SCENE}'")  # quoted, as a file dropped on a terminal window
        person.sees(f"VisualGLM: {DESCRIBED_EN}", "You:")
        person.types("How many objects are there?")
        person.sees("VisualGLM: There are three objects in the picture.", "You:")

    def test_arrow_up_brings_back_the_last_question(self, person: Person) -> None:
        person.types("")
        person.sees("You:")
        person.types("Who are you?")
        first = person.sees("VisualGLM: ", "\r\n")
        person.sees("You:")
        person.presses(ARROW_UP)
        person.sees("Who are you?")
        person.types("")
        assert person.sees("VisualGLM: ", "\r\n") == first
        person.sees("You:")

    def test_interrupt_drops_the_line(self, person: Person) -> None:
        for keys, prompt in (("examples/sce", "Path or URL"), ("", "Path or URL")):
            person.presses(keys + CTRL_C)
            person.sees("Type stop or press Ctrl-D to quit.", prompt)
        person.types("")
        person.sees("You:")
        for keys in ("How many", ""):
            person.presses(keys + CTRL_C)
            person.sees("Type stop or press Ctrl-D to quit.", "You:")
        person.types("Who are you?")
        person.sees("VisualGLM: ", "You:")

    def test_long_question_is_rejected_and_forgotten(self, person: Person) -> None:
        person.types("")
        person.sees("You:")
        for _ in range(10):
            person.presses("x" * 500)
        person.types("")
        person.sees("The question needs 5", "Shorten", "You:")
        person.types("Who are you?")
        person.sees("VisualGLM: ", "You:")

    def test_stop_ends(self, person: Person) -> None:
        person.types("stop")
        person.sees("Goodbye.")
        person.sees_the_end()


class TestInterrupts:
    def test_ctrl_c_stops_the_answer_and_ctrl_d_the_program(self) -> None:
        with at_terminal([*SLOW, "--english", "--image", ""]) as person:
            person.sees("You:")
            person.types("long")
            person.sees("number0 number1")
            person.presses(CTRL_C)
            assert "number399" not in person.sees("(stopped)", "You:")
            person.types("count")
            person.sees("I know 0 turns.", "You:")
            person.types("count")
            person.sees("I know 1 turns.", "You:")
            person.presses(CTRL_D)
            person.sees("Goodbye.")
            person.sees_the_end()

    def test_ctrl_c_held_down_does_not_end_the_program(self) -> None:
        with at_terminal([*SLOW, "--english", "--image", ""]) as person:
            person.sees("You:")
            for _ in range(2):
                person.types("long")
                person.sees("number0 number1")
                for pause in range(40):
                    person.presses(CTRL_C)
                    time.sleep(pause / 2000)
                person.sees("(stopped)")
                person.types("count")  # earlier keys may still be in the input
                person.sees("I know 0 turns.", "You:")
                person.types("clear")
                person.sees("Path or URL")
                person.types("")
                person.sees("You:")
            person.types("stop")
            person.sees_the_end()

    @pytest.mark.slow
    def test_ctrl_c_stops_a_real_model(self) -> None:
        chaos = [
            "--temperature",
            "100",
            "--top_k",
            "0",
            "--top_p",
            "1",
            "--repetition_penalty",
            "1.2",
            "--seed",
            "3",
        ]  # answers up to the length limit, which takes seconds
        with at_terminal([*TINY, *chaos, "--chinese", "--image", SCENE]) as person:
            person.sees("欢迎", "VisualGLM：")
            time.sleep(0.5)
            person.presses(CTRL_C)
            person.sees("（已中断）", "用户：")
            person.types("stop")
            person.sees_the_end()


class TestTerminals:
    def test_dumb_in_the_c_locale(self) -> None:
        with interpreter_at_terminal(TINY, TERM="dumb", LANG="C", LC_ALL="C") as person:
            person.sees("Path or URL")
            person.presses(CTRL_C)
            person.sees("Type stop or press Ctrl-D to quit.", "Path or URL")
            person.types(SCENE)
            person.sees(f"VisualGLM: {DESCRIBED_EN}", "You:")
            person.types("星星在哪里？")
            person.sees("VisualGLM: 星星在左下角。", "You:")
            person.types("clear")
            person.sees("Path or URL")
            person.presses(CTRL_D)
            person.sees("Goodbye.")
            person.sees_the_end()


class TestLanguages:
    """Each question is answered in its own language, independent of the interface's and of the terminal's width."""

    @pytest.mark.parametrize(
        ("locale", "columns", "welcome", "you", "described"),
        [
            ({"LANG": "en_US.UTF-8"}, 100, "Welcome to VisualGLM.", "You:", DESCRIBED_EN),
            ({"LANG": "zh_CN.UTF-8"}, 20, "欢迎使用 VisualGLM。", "用户：", DESCRIBED_ZH),
        ],
        ids=["en", "zh"],
    )
    def test_questions_of_both_languages(
        self, locale: dict[str, str], columns: int, welcome: str, you: str, described: str
    ) -> None:
        with at_terminal([*TINY, "--image", SCENE], columns, **locale) as person:
            person.sees(welcome, "VisualGLM")
            assert unwrap(described) in unwrap(person.sees(you))
            for question, answer in (
                ("What colour is the star?", "The star is red."),
                ("星星在哪里？", "星星在左下角。"),
                ("How many objects are there?", "There are three objects in the picture."),
            ):
                person.types(question)
                assert unwrap(answer) in unwrap(person.sees("VisualGLM", you))
            person.presses(CTRL_D)
            person.sees_the_end()


def unwrap(text: str) -> str:
    """Remove the blanks and the ends of lines, which depend on the width of the terminal."""
    return "".join(text.split())
