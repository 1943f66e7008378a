"""Talk with VisualGLM about a picture, in the terminal.

python cli_demo.py --from_pretrained visualglm-tiny --image examples/scene.png
python cli_demo.py --from_pretrained visualglm-tiny --image examples/scene.png --query 图片里有什么？
"""

import argparse
import contextlib
import io
import os
import signal
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, NoReturn

from model import (
    CHINESE,
    DEMO,
    ENGLISH,
    ChatModel,
    Conversation,
    GenerationConfig,
    Language,
    SettingError,
    Turn,
    VisualGLMError,
    load_sat,
)
from model.chat import dropped_notice
from model.checkpoint.resolve import DEFAULT_MODEL
from model.image import load_image
from model.loading import DTYPES

CLEAR, STOP = "clear", "stop"
FAILED, MISUSED, INTERRUPTED = 1, 2, 130  # exit codes; the last is the shells' for Ctrl-C
UNPRINTABLE = dict.fromkeys({*range(32), *range(127, 160)} - {ord("\n"), ord("\t")}, "\ufffd")


@dataclass(frozen=True)
class Words:
    """What the program says in one language."""

    welcome: str
    ask_picture: str
    ask_question: str
    answer: str
    stopped: str
    cut_short: str
    how_to_end: str
    goodbye: str


WORDS = {
    CHINESE: Words(
        "欢迎使用 VisualGLM。输入问题开始对话；clear 重新开始，stop 或 Ctrl-D 退出，Ctrl-C 中断回答。",
        "请输入图片路径或网址（直接回车则进入纯文本对话）：",
        "用户：",
        "VisualGLM：",
        "（已中断）",
        "（已达到 max_length，回答未完）",
        "输入 stop 或按 Ctrl-D 退出。",
        "再见。",
    ),
    ENGLISH: Words(
        "Welcome to VisualGLM. Type a question; clear starts over, stop or Ctrl-D ends, Ctrl-C stops an answer.",
        "Path or URL of a picture (Enter for a talk without one): ",
        "You: ",
        "VisualGLM: ",
        "(stopped)",
        "(max_length reached; the answer is not complete)",
        "Type stop or press Ctrl-D to end.",
        "Goodbye.",
    ),
}


class Ended(Exception):  # noqa: N818  (not an error)
    """The person ended the program."""


@contextlib.contextmanager
def on_interrupt(handler: Any) -> Iterator[None]:
    """Let Ctrl-C do what `handler` does, in the block."""
    previous = signal.signal(signal.SIGINT, handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, previous)


def ignore_interrupt(*_: Any) -> None:
    """Let Ctrl-C do nothing.

    Unlike `signal.SIG_IGN`: Python complains on the screen of a signal that came just before it was to be ignored.
    """


def interrupt_once(*_: Any) -> NoReturn:
    """Raise KeyboardInterrupt, and let no other disturb what it sets off."""
    signal.signal(signal.SIGINT, ignore_interrupt)
    raise KeyboardInterrupt


def write(text: str) -> None:
    """Write a piece of an answer at once, without the control characters that would command the terminal."""
    print(text.translate(UNPRINTABLE), end="", flush=True)


def make_reader() -> Callable[[str], str]:
    """Return a function that asks for a line: with editing and history at a terminal, plain otherwise."""
    if not sys.stdin.isatty() or not sys.stdout.isatty():
        return read_plainly
    # It asks the terminal where the cursor is, to place menus that we have not, and complains if that is mute.
    os.environ.setdefault("PROMPT_TOOLKIT_NO_CPR", "1")
    from prompt_toolkit import PromptSession

    return partial(PromptSession[str]().prompt, handle_sigint=False)  # while it reads, Ctrl-C is a key


def read_plainly(prompt: str) -> str:
    """Ask for a line; write it out if nobody typed it, so that a dialogue from a file can be followed."""
    with on_interrupt(interrupt_once):
        line = input(prompt)
    if not sys.stdin.isatty():
        print(line)
    return line


class Terminal:
    """A dialogue with one person.

    Args:
        model: answers.
        config: how answers are sampled.
        language: of the prompt and of what the program says.
        describe: the first question about every picture; empty for none.
        read: shows a prompt and returns a line, as `input` does.
    """

    def __init__(
        self, model: ChatModel, config: GenerationConfig, language: Language, describe: str, read: Callable[[str], str]
    ) -> None:
        self.model = model
        self.config = config
        self.words = WORDS[language]
        self.describe = describe
        self.read = read
        self.conversation = Conversation(language=language)
        self.told_of_dropped_turns = False

    def run(self, image: str | None) -> None:
        """Talk until the person ends it, about `image` first if one is given ("" for none, without asking)."""
        print(self.words.welcome)
        # Ctrl-C interrupts only what takes time: coming a moment later, it must not end the program.
        with on_interrupt(ignore_interrupt), contextlib.suppress(Ended):
            while True:
                self.start(image)
                self.talk()
                image = None
        print(self.words.goodbye)

    def start(self, source: str | None) -> None:
        """Start over with a picture, the one given or one asked for, and describe it."""
        image = self.choose_picture(source)
        self.conversation = Conversation(image, language=self.conversation.language)
        self.told_of_dropped_turns = False
        if image and self.describe:
            self.answer(self.describe)

    def choose_picture(self, source: str | None) -> Any:
        """Load the picture at `source`, or ask for one until it can be used; None for a talk without."""
        while True:
            while source is None or source == CLEAR:
                source = self.ask(self.words.ask_picture)
            try:
                with on_interrupt(interrupt_once):
                    return load_image(source) if source else None
            except KeyboardInterrupt:
                print(self.words.stopped)
            except VisualGLMError as error:
                print(error)
            source = None

    def talk(self) -> None:
        """Answer questions until the person wants to start over."""
        while (question := self.ask(self.words.ask_question)) != CLEAR:
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
                print(f"\n{self.words.how_to_end}")
                continue
            except EOFError:
                print()
                raise Ended from None
            if line == STOP:
                raise Ended
            return line

    def answer(self, question: str) -> None:
        """Write the answer as it comes; keep it in the conversation if it becomes complete."""
        print(self.words.answer, end="", flush=True)
        try:
            with on_interrupt(interrupt_once):
                text = "".join(self.show(question))
        except KeyboardInterrupt:
            print(self.words.stopped)
        except VisualGLMError as error:
            print(f"\n{error}")
        else:
            print()
            self.conversation.turns.append(Turn(question, text))

    def show(self, question: str) -> Iterator[str]:
        """Write each piece of an answer, and what is to be said about it at the end; yield it."""
        for piece in self.model.stream_answer(self.conversation, question, self.config):
            write(piece.text)
            yield piece.text
            if piece.finish_reason == "length":
                print(f"\n{self.words.cut_short}", end="")
            if piece.usage is not None and piece.usage.dropped_turns and not self.told_of_dropped_turns:
                self.told_of_dropped_turns = True
                print(f"\n{dropped_notice(piece.usage.dropped_turns)}", end="")


def answer_once(model: ChatModel, config: GenerationConfig, conversation: Conversation, question: str) -> None:
    """Write one answer to the standard output as it comes."""
    for piece in model.stream_answer(conversation, question, config):
        write(piece.text)
    print()


@contextlib.contextmanager
def loading_bar() -> Iterator[Callable[[int, int], None]]:
    """Show how much of the weights is read, on the standard error if that is a terminal."""
    from tqdm import tqdm

    # The delay lets it begin with the first tensor, after any notice of a download.
    with tqdm(unit="tensor", desc="Loading", leave=False, disable=None, delay=0.01) as bar:

        def update(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        yield update


def add_model_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags that choose a model and how it is loaded."""
    add = parser.add_argument
    names = "visualglm-tiny, visualglm-6b, a directory, or a hub id"
    add("--from_pretrained", default=DEFAULT_MODEL, metavar="NAME_OR_DIR", help=f"{names} (default %(default)s)")
    add(
        "--base",
        metavar="NAME_OR_DIR",
        help="of a fine-tune that holds only what was trained, where its base has moved",
    )
    add("--quant", type=int, choices=(8, 4), help="bits of quantised weights")
    add("--quant_vision", action="store_true", help="with --quant, quantise the image part as well")
    add("--quant_embeddings", action="store_true", help="with --quant, quantise the tokens' embeddings as well")
    add("--device", help="cpu, cuda, cuda:1, ... (default: a GPU where there is one)")
    add("--dtype", choices=DTYPES, help="of the weights (default: what suits the device)")


def load_model(options: argparse.Namespace, load: Callable[..., ChatModel]) -> ChatModel:
    """Load the model that the flags of `add_model_arguments` name, showing how far it is."""
    names = ("base", "device", "dtype", "quant", "quant_vision", "quant_embeddings")
    settings = {name: getattr(options, name) for name in names}
    with loading_bar() as progress:
        return load(options.from_pretrained, progress=progress, **settings)


def parse_arguments() -> tuple[argparse.Namespace, GenerationConfig]:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_model_arguments(parser)
    add = parser.add_argument
    add("--image", metavar="PATH_OR_URL", help="picture to start with")
    add("--query", help="answer this one question and exit")
    add("--english", action="store_true", help="talk English")
    add("--prompt_zh", default=CHINESE.describe, help="first question in Chinese (default %(default)s)")
    add("--prompt_en", default=ENGLISH.describe, help="first question in English (default %(default)s)")
    DEMO.add_arguments(parser)
    options = parser.parse_args()
    if options.query is not None and not options.query.strip():
        parser.error("--query is empty. Give a question, or leave the option out to talk.")
    try:
        return options, DEMO.from_arguments(options)
    except SettingError as error:
        parser.error(str(error))


def run(options: argparse.Namespace, config: GenerationConfig, load: Callable[..., ChatModel]) -> None:
    """Load the model, then answer one question or talk."""
    language = ENGLISH if options.english else CHINESE
    image = load_image(options.image) if options.query and options.image else None  # before a long loading
    model = load_model(options, load)
    if options.query:
        answer_once(model, config, Conversation(image, language=language), options.query)
        return
    describe = options.prompt_en if options.english else options.prompt_zh
    Terminal(model, config, language, describe, make_reader()).run(options.image)


def accept_any_text() -> None:
    """Let no byte that cannot be read and no character that cannot be shown end the program."""
    for stream in (sys.stdin, sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # Escaped, the name of a picture keeps its bytes that are not UTF-8; the tokenizer reads them as "?".
            stream.reconfigure(errors="surrogateescape" if stream is sys.stdin else "replace")


def main(load: Callable[..., ChatModel] = load_sat) -> None:
    """Run the program on a model that `load` loads."""
    accept_any_text()
    options, config = parse_arguments()
    try:
        run(options, config, load)
    except VisualGLMError as error:
        print(error, file=sys.stderr)
        sys.exit(MISUSED if isinstance(error, SettingError) else FAILED)
    except BrokenPipeError:  # whoever reads the output has had enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # takes what is still to be flushed
        sys.exit(FAILED)
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)


if __name__ == "__main__":
    main()
