"""Chat with VisualGLM about images in the terminal.

visualglm chat --from_pretrained visualglm-tiny --image image.png
visualglm chat --from_pretrained visualglm-tiny --image image.png --query 图片里有什么？
"""

import argparse
import os
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
)
from model.chat_model import demo_config
from model.command_line import ArgumentParser, print_text, run_program
from model.images.preprocess import load_image
from model.prompt import question_language
from visualglm.arguments import add_model_arguments, choose_loader, load_model, locale_language
from visualglm.terminal.chat import TerminalChat, make_reader, write


def answer_once(model: ChatModel, config: GenerationConfig, conversation: Conversation, question: str) -> None:
    """Stream one answer to the standard output."""
    for chunk in model.stream_answer(conversation, question, config):
        write(chunk.text)
    print_text()


def parse_arguments(description: str | None = __doc__) -> tuple[argparse.Namespace, GenerationConfig]:
    """Parse the command line; --help shows `description`."""
    parser = ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_model_arguments(parser)
    add = parser.add_argument
    add("--image", metavar="PATH_OR_URL", help="first image; an empty string to start without one")
    add("--query", help="answer this one question and exit")
    add("--prompt_zh", help=f"first question about each image, in Chinese (default {CHINESE.describe})")
    add("--prompt_en", help=f"first question about each image, in English (default {ENGLISH.describe})")
    DEMO.add_arguments(parser)
    options = parser.parse_args()
    if options.query is not None and not options.query.strip():
        parser.error("--query is empty. Give a question, or leave the option out to chat.")
    try:
        return options, DEMO.from_arguments(options)
    except SettingError as error:
        parser.error(str(error))


def first_question(options: argparse.Namespace, language: Language) -> str:
    """Return the first question about each image: from the flag for `language`, another flag, or the default.

    If --english or --chinese is set, a flag for another language is ignored.
    """
    given: dict[Language, str | None] = {CHINESE: options.prompt_zh, ENGLISH: options.prompt_en}
    choices = [given[language], *([] if options.language else given.values()), language.describe]
    return next(choice for choice in choices if choice is not None)


def run(load: Callable[..., ChatModel] | None, hf: bool, description: str | None) -> None:
    """Load the model that the command line names, then answer one question or chat."""
    options, _ = parse_arguments(description)  # settings are parsed again after loading: the model has defaults
    language = options.language or locale_language(os.environ)
    # Loaded before the model, so that an invalid image is reported immediately.
    image = load_image(options.image) if options.query and options.image else None
    model = load_model(options, choose_loader(options.hf or hf, load))
    config = demo_config(model).from_arguments(options)
    if options.query:
        conversation = Conversation(image, language=question_language(options.query, language))
        answer_once(model, config, conversation, options.query)
        return
    TerminalChat(model, config, language, first_question(options, language), make_reader()).run(options.image)


def main(load: Callable[..., ChatModel] | None = None, *, hf: bool = False, description: str | None = __doc__) -> int:
    """Run the program; return the exit code.

    Args:
        load: loads the model; None for `load_sat` or `load_hf`.
        hf: use the Hugging Face model, as the flag --hf does.
        description: shown by --help.
    """
    return run_program(partial(run, load, hf, description))
