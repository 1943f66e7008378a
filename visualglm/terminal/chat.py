"""Chat in the terminal: conversation, input and output, and the handling of Ctrl-C."""

import contextlib
import os
import signal
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, NoReturn

from model import CHINESE, ENGLISH, ChatModel, Conversation, GenerationConfig, Language, Turn, VisualGLMError
from model.chat import dropped_turns_notice
from model.command_line import print_text
from model.images.preprocess import load_image, resize_image
from model.prompt import question_language


@dataclass(frozen=True)
class Texts:
    """The program's texts in one language."""

    welcome: str
    model: str
    ask_image: str
    ask_question: str
    answer: str
    stopped: str
    truncated: str
    quit_hint: str
    goodbye: str


TEXTS = {
    CHINESE: Texts(
        "欢迎使用 VisualGLM。输入问题开始对话；clear 重新开始，stop 或 Ctrl-D 退出，Ctrl-C 中断回答。",
        "模型：{}",
        "请输入图片路径或网址（直接回车则进入纯文本对话）：",
        "用户：",
        "VisualGLM：",
        "（已中断）",
        "（已达到 max_length，回答未完）",
        "输入 stop 或按 Ctrl-D 退出。",
        "再见。",
    ),
    ENGLISH: Texts(
        "Welcome to VisualGLM. Type a question; clear starts over, stop or Ctrl-D quits, Ctrl-C stops an answer.",
        "Model: {}",
        "Path or URL of an image (press Enter to chat without one): ",
        "You: ",
        "VisualGLM: ",
        "(stopped)",
        "(max_length reached; the answer is incomplete)",
        "Type stop or press Ctrl-D to quit.",
        "Goodbye.",
    ),
}


CLEAR, STOP = "clear", "stop"


class ChatEnded(Exception):  # noqa: N818  (not an error)
    """The user quit the chat."""


class TerminalChat:
    """A chat with one user.

    Args:
        model: generates the answers.
        config: the sampling parameters.
        language: of the program's texts, and of prompts until a question contains letters.
        describe: the first question about each image; "" for none.
        read: shows a prompt and returns a line, as `input` does.
    """

    def __init__(
        self, model: ChatModel, config: GenerationConfig, language: Language, describe: str, read: Callable[[str], str]
    ) -> None:
        self.model = model
        self.config = config
        self.language = language
        self.texts = TEXTS[language]
        self.describe = describe
        self.read = read
        self.conversation = Conversation(language=language)
        self.dropped_turns_reported = False

    def run(self, image: str | None) -> None:
        """Chat until the user quits.

        Args:
            image: path or URL of the first image; "" to start without an image, None to ask for it.
        """
        print_text(self.texts.welcome)
        if described := self.model.description.in_language(self.language):
            print_text(self.texts.model.format(described))
        # Ctrl-C only interrupts long operations: pressed a moment after one, it must not end the program.
        with on_interrupt(ignore_interrupt), contextlib.suppress(ChatEnded):
            while True:
                self.start_conversation(image)
                self.answer_questions()
                image = None
        print_text(self.texts.goodbye)

    def start_conversation(self, source: str | None) -> None:
        """Start a conversation about the image at `source` (None: ask for it), and ask the first question."""
        image = self.choose_image(source)
        self.conversation = Conversation(image, language=self.conversation.language)
        self.dropped_turns_reported = False
        if image and self.describe:
            self.answer(self.describe)

    def choose_image(self, source: str | None) -> Any:
        """Load the image at `source`; if it is None or unusable, ask for another. Return None to chat without one."""
        while True:
            while source is None or source == CLEAR:
                source = self.ask(self.texts.ask_image)
            try:
                with on_interrupt(interrupt_once):
                    # Resized once here, not again for each question.
                    return resize_image(load_image(source), self.model.image_size) if source else None
            except KeyboardInterrupt:
                print_text(self.texts.stopped)
            except VisualGLMError as error:
                print_text(error)
            source = None

    def answer_questions(self) -> None:
        """Answer questions until the user enters `clear`."""
        while (question := self.ask(self.texts.ask_question)) != CLEAR:
            if question:
                self.answer(question)

    def ask(self, prompt: str) -> str:
        """Ask for a line. Ctrl-C discards the typed text.

        Raises:
            ChatEnded: at `stop`, Ctrl-D, or the end of the input.
        """
        while True:
            try:
                line = self.read(prompt).strip()
            except KeyboardInterrupt:
                print_text(f"\n{self.texts.quit_hint}")
                continue
            except EOFError:
                print_text()
                raise ChatEnded from None
            if line == STOP:
                raise ChatEnded
            return line

    def answer(self, question: str) -> None:
        """Stream an answer to the terminal; add the turn to the conversation if the answer is complete."""
        print_text(self.texts.answer, end="")
        try:
            with on_interrupt(interrupt_once):
                text = "".join(self.print_chunks(question))
        except KeyboardInterrupt:
            print_text(self.texts.stopped)
        except VisualGLMError as error:
            print_text(f"\n{error}")
        else:
            print_text()
            self.conversation.turns.append(Turn(question, text))

    def print_chunks(self, question: str) -> Iterator[str]:
        """Write each chunk of an answer and yield its text; then write notes about the answer."""
        self.conversation.language = question_language(question, self.conversation.language)
        for chunk in self.model.stream_answer(self.conversation, question, self.config):
            write(chunk.text)
            yield chunk.text
            if chunk.finish_reason == "length":
                print_text(f"\n{self.texts.truncated}", end="")
            if chunk.finish_reason is None or chunk.usage is None or self.dropped_turns_reported:
                continue
            if chunk.usage.dropped_turns:
                self.dropped_turns_reported = True
                print_text(f"\n{dropped_turns_notice(chunk.usage.dropped_turns)}", end="")


@contextlib.contextmanager
def on_interrupt(handler: Any) -> Iterator[None]:
    """Context manager: handle SIGINT (Ctrl-C) by `handler` during the block."""
    previous = signal.signal(signal.SIGINT, handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, previous)


def ignore_interrupt(*_: Any) -> None:
    """Ignore SIGINT.

    `signal.SIG_IGN` would not do: Python prints an error if a signal arrives just before it is set.
    """


def interrupt_once(*_: Any) -> NoReturn:
    """Raise KeyboardInterrupt, and ignore further signals, so that they cannot interrupt its handling."""
    signal.signal(signal.SIGINT, ignore_interrupt)
    raise KeyboardInterrupt


BOM = "\ufeff"


def write(text: str) -> None:
    """Write a part of an answer immediately."""
    print_text(text, end="")


def make_reader() -> Callable[[str], str]:
    """Return a function that reads a line: with editing and history at a terminal, else without."""
    if not sys.stdin.isatty() or not sys.stdout.isatty():
        return read_line
    # prompt_toolkit queries the cursor position for its menus, and prints a warning if the terminal does not reply.
    os.environ.setdefault("PROMPT_TOOLKIT_NO_CPR", "1")
    from prompt_toolkit import PromptSession

    return partial(PromptSession[str]().prompt, handle_sigint=False)  # handles Ctrl-C as a key while it reads


def read_line(prompt: str) -> str:
    """Read a line without editing.

    A line that does not come from a terminal is echoed, so that the output is a complete transcript.
    """
    with on_interrupt(interrupt_once):
        line = input(prompt).removeprefix(BOM)  # editors on Windows put it at the start of a file
    if not sys.stdin.isatty():
        print_text(line)
    return line
