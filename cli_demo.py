"""Talk with VisualGLM about a picture, in the terminal.

python cli_demo.py --from_pretrained visualglm-tiny --image examples/scene.png
python cli_demo.py --from_pretrained visualglm-tiny --image examples/scene.png --query 图片里有什么？
"""

import argparse
import contextlib
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass

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

CLEAR, STOP = "clear", "stop"
INTERRUPTED = 130  # exit code of a program ended by Ctrl-C


@dataclass(frozen=True)
class Words:
    """What the program says in one language."""

    welcome: str
    ask_picture: str
    ask_question: str
    answer: str
    stopped: str
    how_to_end: str
    goodbye: str


WORDS = {
    CHINESE: Words(
        "欢迎使用 VisualGLM。输入问题开始对话；clear 重新开始，stop 或 Ctrl-D 退出，Ctrl-C 中断回答。",
        "请输入图片路径或网址（直接回车则进入纯文本对话）：",
        "用户：",
        "VisualGLM：",
        "（已中断）",
        "输入 stop 或按 Ctrl-D 退出。",
        "再见。",
    ),
    ENGLISH: Words(
        "Welcome to VisualGLM. Type a question; clear starts over, stop or Ctrl-D ends, Ctrl-C stops an answer.",
        "Path or URL of a picture (Enter for a talk without one): ",
        "You: ",
        "VisualGLM: ",
        "(stopped)",
        "Type stop or press Ctrl-D to end.",
        "Goodbye.",
    ),
}


class Ended(Exception):  # noqa: N818  (not an error)
    """The person ended the program."""


def make_reader() -> Callable[[str], str]:
    """Return a function that asks for a line: with editing and history at a terminal, plain otherwise."""
    if not sys.stdin.isatty():
        return read_and_echo
    if not sys.stdout.isatty():
        return input
    from prompt_toolkit import PromptSession

    return PromptSession[str]().prompt


def read_and_echo(prompt: str) -> str:
    """Ask for a line and write it out, so that a dialogue read from a file can be followed."""
    line = input(prompt)
    print(line)
    return line


class Terminal:
    """A dialogue with one person.

    Args:
        model: answers.
        config: how answers are sampled.
        language: of the prompt and of what the program says.
        describe: the first question about every picture.
    """

    def __init__(self, model: ChatModel, config: GenerationConfig, language: Language, describe: str) -> None:
        self.model = model
        self.config = config
        self.language = language
        self.describe = describe
        self.words = WORDS[language]
        self.read = make_reader()
        self.conversation = Conversation(language=language)
        self.told_of_dropped_turns = False

    def run(self, image: str | None) -> None:
        """Talk until the person ends it, about `image` first if one is given."""
        print(self.words.welcome)
        with contextlib.suppress(Ended):
            while True:
                self.start(image)
                self.talk()
                image = None
        print(self.words.goodbye)

    def start(self, image: str | None) -> None:
        """Start over with a picture, the one given or one asked for, and describe it."""
        self.conversation = Conversation(language=self.language)
        self.told_of_dropped_turns = False
        while True:
            source = self.ask(self.words.ask_picture) if image is None else image
            try:
                self.conversation.image = load_image(source) if source else None
                break
            except VisualGLMError as error:
                print(error)
                image = None
        if source:
            self.answer(self.describe)

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
            text = "".join(self.show(question))
        except KeyboardInterrupt:
            print(self.words.stopped)
        except VisualGLMError as error:
            print(f"\n{error}")
        else:
            print()
            self.conversation.turns.append(Turn(question, text))

    def show(self, question: str) -> Iterator[str]:
        """Print each piece of an answer and yield it."""
        for piece in self.model.stream_answer(self.conversation, question, self.config):
            print(piece.text, end="", flush=True)
            yield piece.text
            if piece.usage is not None and piece.usage.dropped_turns and not self.told_of_dropped_turns:
                self.told_of_dropped_turns = True
                print(f"\n{dropped_notice(piece.usage.dropped_turns)}", end="")


def answer_once(model: ChatModel, config: GenerationConfig, conversation: Conversation, question: str) -> None:
    """Write one answer to the standard output as it comes."""
    for piece in model.stream_answer(conversation, question, config):
        print(piece.text, end="", flush=True)
    print()


@contextlib.contextmanager
def loading_bar() -> Iterator[Callable[[int, int], None]]:
    """Show how much of the weights is read, on the standard error if that is a terminal."""
    from tqdm import tqdm

    with tqdm(unit="tensor", desc="Loading", leave=False, disable=None) as bar:

        def update(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        yield update


def parse_arguments() -> tuple[argparse.Namespace, GenerationConfig]:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--from_pretrained",
        default=DEFAULT_MODEL,
        metavar="NAME_OR_DIR",
        help="visualglm-tiny, visualglm-6b, a directory, or a hub id (default %(default)s)",
    )
    parser.add_argument("--image", metavar="PATH_OR_URL", help="picture to start with")
    parser.add_argument("--query", help="answer this one question and exit")
    parser.add_argument("--english", action="store_true", help="talk English")
    parser.add_argument("--prompt_zh", default=CHINESE.describe, help="first question in Chinese (default %(default)s)")
    parser.add_argument("--prompt_en", default=ENGLISH.describe, help="first question in English (default %(default)s)")
    parser.add_argument("--quant", type=int, choices=(8, 4), help="bits of quantised weights")
    parser.add_argument("--device", help="cpu, cuda, cuda:1, ... (default: a GPU where there is one)")
    parser.add_argument("--dtype", help="float32, bfloat16 or float16 (default: what suits the device)")
    DEMO.add_arguments(parser)
    options = parser.parse_args()
    try:
        return options, DEMO.from_arguments(options)
    except SettingError as error:
        parser.error(str(error))


def run(options: argparse.Namespace, config: GenerationConfig, load: Callable[..., ChatModel]) -> None:
    """Load the model, then answer one question or talk."""
    language = ENGLISH if options.english else CHINESE
    image = load_image(options.image) if options.query and options.image else None  # before a long loading
    with loading_bar() as progress:
        model = load(
            options.from_pretrained,
            device=options.device,
            dtype=options.dtype,
            quant=options.quant,
            progress=progress,
        )
    if options.query:
        answer_once(model, config, Conversation(image, language=language), options.query)
        return
    describe = options.prompt_en if options.english else options.prompt_zh
    Terminal(model, config, language, describe).run(options.image)


def main(load: Callable[..., ChatModel] = load_sat) -> None:
    """Run the program on a model that `load` loads."""
    options, config = parse_arguments()
    try:
        run(options, config, load)
    except VisualGLMError as error:
        sys.exit(f"{error}")
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)


if __name__ == "__main__":
    main()
