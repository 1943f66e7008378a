"""A dialogue with one person at a terminal."""

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from model import CHINESE, ENGLISH, ChatModel, Conversation, GenerationConfig, Language, Turn, VisualGLMError
from model.chat import dropped_turns_notice
from model.command_line import print_text
from model.images.preprocess import load_image, resize_image
from model.prompt import question_language

from .streams import ignore_interrupt, interrupt_once, on_interrupt, write


@dataclass(frozen=True)
class Texts:
    """What the program says in one language."""

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
        "Welcome to VisualGLM. Type a question; clear starts over, stop or Ctrl-D ends, Ctrl-C stops an answer.",
        "Model: {}",
        "Path or URL of a picture (Enter for a talk without one): ",
        "You: ",
        "VisualGLM: ",
        "(stopped)",
        "(max_length reached; the answer is not complete)",
        "Type stop or press Ctrl-D to end.",
        "Goodbye.",
    ),
}


CLEAR, STOP = "clear", "stop"


class ChatEnded(Exception):  # noqa: N818  (not an error)
    """The person ended the program."""


class TerminalChat:
    """A dialogue with one person.

    Args:
        model: answers.
        config: how answers are sampled.
        language: of what the program says, and of questions without letters before any with letters.
        describe: the first question about every picture; empty for none.
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
        """Talk until the person ends it, about `image` first if one is given ("" for none, without asking)."""
        print_text(self.texts.welcome)
        if described := self.model.description.in_language(self.language):
            print_text(self.texts.model.format(described))
        # Ctrl-C interrupts only what takes time: coming a moment later, it must not end the program.
        with on_interrupt(ignore_interrupt), contextlib.suppress(ChatEnded):
            while True:
                self.start_conversation(image)
                self.answer_questions()
                image = None
        print_text(self.texts.goodbye)

    def start_conversation(self, source: str | None) -> None:
        """Start over with a picture, the one given or one asked for, and describe it."""
        image = self.choose_image(source)
        self.conversation = Conversation(image, language=self.conversation.language)
        self.dropped_turns_reported = False
        if image and self.describe:
            self.answer(self.describe)

    def choose_image(self, source: str | None) -> Any:
        """Load the picture at `source`, or ask for one until it can be used; None for a talk without."""
        while True:
            while source is None or source == CLEAR:
                source = self.ask(self.texts.ask_image)
            try:
                with on_interrupt(interrupt_once):
                    # Every question would resize the full picture again.
                    return resize_image(load_image(source), self.model.image_size) if source else None
            except KeyboardInterrupt:
                print_text(self.texts.stopped)
            except VisualGLMError as error:
                print_text(error)
            source = None

    def answer_questions(self) -> None:
        """Answer questions until the person wants to start over."""
        while (question := self.ask(self.texts.ask_question)) != CLEAR:
            if question:
                self.answer(question)

    def ask(self, prompt: str) -> str:
        """Ask for a line. Ctrl-C drops what was typed.

        Raises:
            Ended: at `stop`, Ctrl-D, or the end of the input.
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
        """Write the answer as it comes; keep it in the conversation if it becomes complete."""
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
        """Write each piece of an answer, and what is to be said about it at the end; yield it."""
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
