"""Talk with VisualGLM about a picture, in the terminal.

python cli_demo.py --from_pretrained visualglm-tiny --image examples/scene.png
python cli_demo.py --from_pretrained visualglm-tiny --image examples/scene.png --query 图片里有什么？
"""

import argparse
import os
import sys
from collections.abc import Callable
from functools import partial

from model import (
    CHINESE,
    DEMO,
    ENGLISH,
    ChatModel,
    Conversation,
    GenerationConfig,
    Language,
    SettingError,
    load_sat,
)
from model.chat_model import demo_config
from model.command_line import ArgumentParser, print_text, run_program
from model.images.preprocess import load_image
from model.prompt import question_language
from visualglm.arguments import add_model_arguments, load_model, locale_language
from visualglm.terminal.dialogue import Terminal
from visualglm.terminal.streams import make_reader, write


def answer_once(model: ChatModel, config: GenerationConfig, conversation: Conversation, question: str) -> None:
    """Write one answer to the standard output as it comes."""
    for piece in model.stream_answer(conversation, question, config):
        write(piece.text)
    print_text()


def parse_arguments() -> tuple[argparse.Namespace, GenerationConfig]:
    """Read the command line."""
    parser = ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_model_arguments(parser)
    add = parser.add_argument
    add("--image", metavar="PATH_OR_URL", help="picture to start with")
    add("--query", help="answer this one question and exit")
    add("--prompt_zh", help=f"first question in Chinese (default {CHINESE.describe})")
    add("--prompt_en", help=f"first question in English (default {ENGLISH.describe})")
    DEMO.add_arguments(parser)
    options = parser.parse_args()
    if options.query is not None and not options.query.strip():
        parser.error("--query is empty. Give a question, or leave the option out to talk.")
    try:
        return options, DEMO.from_arguments(options)
    except SettingError as error:
        parser.error(str(error))


def first_question(options: argparse.Namespace, language: Language) -> str:
    """Return the first question about a picture: the one given for `language`, else the only one given, else its own.

    A language that was forced takes no question that was given for the other.
    """
    given = {CHINESE: options.prompt_zh, ENGLISH: options.prompt_en}
    choices = [given[language], *([] if options.language else given.values()), language.describe]
    return next(choice for choice in choices if choice is not None)


def run(load: Callable[..., ChatModel]) -> None:
    """Load the model that the command line names, then answer one question or talk."""
    options, _ = parse_arguments()  # the model's own settings are known only when it is loaded
    language = options.language or locale_language(os.environ)
    image = load_image(options.image) if options.query and options.image else None  # before a long loading
    model = load_model(options, load)
    config = demo_config(model).from_arguments(options)
    if options.query:
        conversation = Conversation(image, language=question_language(options.query, language))
        answer_once(model, config, conversation, options.query)
        return
    Terminal(model, config, language, first_question(options, language), make_reader()).run(options.image)


def main(load: Callable[..., ChatModel] = load_sat) -> int:
    """Run the program on a model that `load` loads; return the exit code."""
    return run_program(partial(run, load))


if __name__ == "__main__":
    sys.exit(main())
