"""Chat in the terminal: reads questions and commands, and writes the answers."""

import contextlib
import traceback
from collections.abc import Callable, Iterator

from model import ChatModel, Conversation, GenerationConfig, Language, StreamChunk, Usage, VisualGLMError
from model.command_line import print_text

from ..error_texts import describe_error
from .commands import Commands, parse_command
from .input import BOM as BOM, LineEditor, make_reader as make_reader, read_line as read_line
from .interrupts import ignore_interrupt, interrupt_once, on_interrupt
from .output import Screen
from .preview import show_preview
from .query import hold_keys, restore_modes
from .session import ChatImage, ChatSession, find_image_source
from .texts import TEXTS, Texts as Texts, count_turns

CLEAR, STOP = "clear", "stop"
# The words that start over, end the chat, and ask whether to end it, in lower case.
CLEAR_WORDS = (CLEAR, "清空", "清除")
STOP_WORDS = (STOP, "停止")
LEAVE_WORDS = ("exit", "quit", "bye", "退出", "结束")
YES = ("y", "yes", "是", "好")


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
        is_interactive: whether a user types at a terminal. Otherwise lines are questions, the words `clear` and `stop`,
            and images where the program asks for one; there are no commands, and an unexpected exception is raised.
    """

    def __init__(
        self,
        model: ChatModel,
        config: GenerationConfig,
        language: Language,
        describe: str,
        read: Callable[[str], str],
        *,
        is_interactive: bool = False,
    ) -> None:
        self.language = language
        self.texts = TEXTS[language]
        self.describe = describe
        self.read = read
        self.is_interactive = is_interactive
        self.screen = Screen()
        self.session = ChatSession(model, config, language)
        self.commands = Commands(self.session, self.screen, language, self.confirm)
        self.needs_image = True
        self.dropped_turns_reported = False

    @property
    def conversation(self) -> Conversation:
        """The current conversation."""
        return self.session.conversation

    def run(self, image: str | None) -> None:
        """Chat until the user quits.

        Args:
            image: path or URL of the first image; "" to start without an image, None to ask for it.
        """
        self.screen.show(self.texts.greeting if self.is_interactive else self.texts.welcome)
        if described := self.session.model.description.in_language(self.language):
            self.screen.show(self.texts.model.format(described))
        # Ctrl-C only interrupts long operations: pressed a moment after one, it must not end the program.
        with on_interrupt(ignore_interrupt), restore_modes(), contextlib.suppress(ChatEnded):
            if image is not None and image.strip().lower() not in CLEAR_WORDS:
                self.open_image(image)
            while True:
                line = self.ask(self.texts.ask_image if self.needs_image else self.texts.ask_question)
                try:
                    self.take(line)
                except ChatEnded:
                    raise
                except Exception as error:
                    if not self.is_interactive:
                        raise
                    self.show_bug(error)
        self.screen.show(self.texts.goodbye)

    def ask(self, prompt: str) -> str:
        """Ask for a line. Ctrl-C discards the typed text.

        Raises:
            ChatEnded: at `stop`, Ctrl-D, or the end of the input.
        """
        while True:
            try:
                line = self.read(prompt).strip()
            except KeyboardInterrupt:
                self.end_prompt()
                print_text(self.texts.quit_hint)
                continue
            except EOFError:
                self.end_prompt()
                raise ChatEnded from None
            if line.lower() in STOP_WORDS:
                raise ChatEnded
            return line

    def end_prompt(self) -> None:
        """End the line of a prompt without an answer, unless the line editor has ended it."""
        if not isinstance(self.read, LineEditor):
            print_text()

    def confirm(self, question: str) -> bool:
        """Ask a yes/no question; return whether the answer is yes."""
        return self.ask(question).lower() in YES

    def take(self, line: str) -> None:
        """Act on a line: a word, a command, an image or a question."""
        if line.lower() in CLEAR_WORDS:
            self.start(None)
            self.needs_image = True
        elif self.is_interactive and self.take_interactively(line):
            return
        elif self.needs_image:
            self.open_image(line)
        elif line:
            self.answer(line)

    def take_interactively(self, line: str) -> bool:
        """Act on a command, on a word that may mean the end, or on an image's path; return whether it was one."""
        if line.lower() in LEAVE_WORDS:
            if self.confirm(self.texts.confirm_quit):
                raise ChatEnded
        elif command := parse_command(line):
            self.run_command(*command)
        elif not self.needs_image and (source := find_image_source(line)):
            self.open_image(source)
        else:
            return False
        return True

    def run_command(self, name: str, argument: str) -> None:
        """Run a command with its argument, "" for none."""
        simple = {"/help": self.commands.show_help, "/?": self.commands.show_help, "/show": self.commands.show_all}
        simple |= {"/new": self.renew, "/undo": self.undo, "/retry": self.retry, "/quit": self.quit}
        simple |= {"/exit": self.quit, "/clear": lambda: self.take(CLEAR)}
        if name in simple:
            simple[name]()
        elif name == "/set":
            self.commands.set_value(argument)
        elif name == "/save":
            self.commands.save(argument)
        elif name == "/image" and not argument:
            self.take(CLEAR)
        elif name == "/image":
            self.open_image(find_image_source(argument) or argument)
        elif name == "/load" and argument:
            self.load(argument)
        elif name in self.texts.commands:
            self.commands.needs(name)
        else:
            self.commands.reject(name)

    def start(self, image: ChatImage | None) -> None:
        """Start a conversation about an image, or without one."""
        self.session.start(image)
        self.needs_image = False
        self.dropped_turns_reported = False

    def open_image(self, source: str) -> None:
        """Start a conversation about the image at `source` ("" for none), and ask the first question about it."""
        try:
            with on_interrupt(interrupt_once), hold_keys():
                image = self.session.open_image(source) if source else None
        except KeyboardInterrupt:
            self.screen.show(self.texts.stopped)
            return
        except VisualGLMError as error:
            self.show_error(error)
            return
        self.start(image)
        if image is not None:
            self.show_image(image)
            if self.describe:
                self.answer(self.describe)

    def show_image(self, image: ChatImage) -> None:
        """Show a preview of an image, and its size, to a user at a terminal."""
        if not self.is_interactive:
            return
        typed = show_preview(image.original, self.screen)
        if typed and isinstance(self.read, LineEditor):
            self.read.next_text += typed
        width, height = image.size
        self.screen.show(self.texts.image_loaded.format(name=image.name, width=width, height=height), "note")

    def load(self, argument: str) -> None:
        """Load a saved conversation."""
        if self.commands.load(argument):
            self.needs_image = False
            self.dropped_turns_reported = False
            if self.session.image:
                self.show_image(self.session.image)
            self.commands.show_turns()

    def renew(self) -> None:
        """Start a new conversation about the same image."""
        self.start(self.session.image)
        self.screen.show(self.texts.new_conversation, "note")

    def undo(self) -> None:
        """Drop the last turn, or return to the conversation before."""
        if self.session.undo():
            self.needs_image = False
            count = len(self.conversation.turns)
            self.screen.show(self.texts.undone.format(count=count, turns=count_turns(count)), "note")
        else:
            self.screen.show(self.texts.nothing_to_undo, "note")

    def retry(self) -> None:
        """Answer the last question again; if that fails, its turn remains as it was."""
        count = len(self.conversation.turns)
        question = self.session.retry()
        if question is None:
            self.screen.show(self.texts.nothing_to_retry, "note")
        elif not self.answer(question) and len(self.conversation.turns) < count:
            self.session.undo()

    def quit(self) -> None:
        """End the chat."""
        raise ChatEnded

    def answer(self, question: str) -> bool:
        """Stream an answer to the terminal; return whether it is complete, so that its turn was added."""
        self.screen.write(self.texts.answer, "label")
        try:
            with on_interrupt(interrupt_once), hold_keys():
                text = "".join(self.write_chunks(question))
        except KeyboardInterrupt:
            self.screen.show(self.texts.stopped)
        except VisualGLMError as error:
            self.screen.end_line()
            self.show_error(error)
        except Exception as error:
            if not self.is_interactive:
                raise
            self.show_bug(error)
        else:
            self.screen.end_line()
            self.session.add_turn(question, text)
            return True
        return False

    def write_chunks(self, question: str) -> Iterator[str]:
        """Write each chunk of an answer and yield its text; then write notes about the answer."""
        for chunk in self.session.ask(question):
            self.screen.write(chunk.text)
            yield chunk.text
            if chunk.finish_reason is not None:
                self.write_notes(chunk)

    def write_notes(self, chunk: StreamChunk) -> None:
        """Write notes about an answer after its last chunk: its end, dropped turns, and the speed."""
        if chunk.finish_reason == "length":
            self.write_note(self.texts.truncated)
        usage = chunk.usage
        if usage is not None and usage.dropped_turns and not self.dropped_turns_reported:
            self.dropped_turns_reported = True
            count = usage.dropped_turns
            self.write_note(self.texts.dropped.format(count=count, turns=count_turns(count)))
        if usage is not None and self.session.is_verbose:
            self.write_statistics(usage)

    def write_note(self, text: str) -> None:
        """Write a note in a new line."""
        self.screen.end_part()
        self.screen.write("\n" + text, "note")

    def write_statistics(self, usage: Usage) -> None:
        """Write the number of tokens of an answer, and its speed, in a new line."""
        rate = usage.answer_tokens / max(usage.total_s, 1e-9)
        values = {"tokens": usage.answer_tokens, "seconds": usage.total_s, "rate": rate}
        self.screen.write_units(["\n", *(unit.format(**values) for unit in self.texts.statistics)], "note")

    def show_error(self, error: VisualGLMError) -> None:
        """Write an error in the program's language."""
        self.screen.show(describe_error(error, self.language), "error")

    def show_bug(self, error: Exception) -> None:
        """Write a short message about an unexpected exception, and its traceback after /set verbose on."""
        self.screen.end_line()
        name = f"{type(error).__name__}: {error}".splitlines()[0][:200]
        self.screen.show(self.texts.internal_error.format(error=name), "error")
        if self.session.is_verbose:
            self.screen.show("".join(traceback.format_exception(error)), "note")


def write(text: str) -> None:
    """Write a part of an answer immediately."""
    print_text(text, end="")
