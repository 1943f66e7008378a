"""Chat with VisualGLM about images in the terminal.

visualglm chat --from_pretrained visualglm-tiny --image image.png
visualglm chat --from_pretrained visualglm-tiny --image image.png --query 图片里有什么？
"""

import argparse
import os
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from model import CHINESE, DEMO, ENGLISH, Conversation, GenerationConfig, Language, SettingError, VisualGLMError
from model.command_line import SUCCESS, ArgumentParser, error_exit_code, print_error, print_text, run_program
from model.prompt import question_language
from model.resource_errors import translate_resource_errors
from visualglm.arguments import add_model_arguments, choose_loader, load_model, locale_language
from visualglm.error_texts import describe_error
from visualglm.terminal.explanation import check_target, save_explanation

if TYPE_CHECKING:  # imports torch
    from model import ChatModel


def answer_once(model: "ChatModel", config: GenerationConfig, conversation: Conversation, question: str) -> str:
    """Stream one answer to the standard output, and return it."""
    answer = ""
    for chunk in model.stream_answer(conversation, question, config):
        answer += chunk.text
        print_text(chunk.text, end="")
    print_text()
    return answer


def parse_arguments(description: str | None = __doc__) -> tuple[argparse.Namespace, GenerationConfig]:
    """Parse the command line; --help shows `description`."""
    parser = ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_model_arguments(parser)
    add = parser.add_argument
    add("--image", metavar="PATH_OR_URL", help="first image; an empty string to start without one")
    add("--query", help="answer this one question and exit")
    help_ = "with --query and --image: also save the image here, dark where the answer does not rely on it"
    add("--explain", type=Path, metavar="FILE", help=help_)
    add("--prompt_zh", help=f"first question about each image, in Chinese (default {CHINESE.describe})")
    add("--prompt_en", help=f"first question about each image, in English (default {ENGLISH.describe})")
    DEMO.add_arguments(parser)
    options = parser.parse_args()
    if options.query is not None and not options.query.strip():
        parser.error("--query is empty. Give a question, or leave the option out to chat.")
    if options.explain is not None and not (options.query and options.image):
        parser.error("--explain needs --query and --image. Give both, or leave the option out.")
    try:
        if options.explain is not None:
            check_target(options.explain)
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


def run(load: "Callable[..., ChatModel] | None", hf: bool, description: str | None) -> int:
    """Load the model that the command line names, then answer one question or chat; return the exit code."""
    options, _ = parse_arguments(description)  # settings are parsed again after loading: the model has defaults
    language = options.language or locale_language(os.environ)
    announce(options.from_pretrained, language)
    try:
        with translate_resource_errors():
            run_chat(options, language, choose_loader(options.hf or hf, load))
    except VisualGLMError as error:
        print_error(describe_error(error, language))
        return error_exit_code(error)
    return SUCCESS


def announce(name: str, language: Language) -> None:
    """Say at a terminal that a model is being loaded: importing torch alone takes seconds."""
    if sys.stderr is not None and sys.stderr.isatty():
        from visualglm.terminal.texts import TEXTS

        print_text(TEXTS[language].loading.format(name), file=sys.stderr)


def run_chat(options: argparse.Namespace, language: Language, load: "Callable[..., ChatModel]") -> None:
    """Load the model, then answer one question or chat."""
    from model.chat_model import demo_config
    from model.images.preprocess import load_image

    # Loaded before the model, so that an invalid image is reported immediately.
    image = load_image(options.image) if options.query and options.image else None
    model = load_model(options, load)
    config = demo_config(model).from_arguments(options)
    if options.query:
        conversation = Conversation(image, language=question_language(options.query, language))
        answer = answer_once(model, config, conversation, options.query)
        if options.explain is not None:
            save_explanation(model, conversation, options.query, answer, options.explain, language)
        return
    from visualglm.terminal.chat import TerminalChat
    from visualglm.terminal.input import is_interactive, make_reader
    from visualglm.terminal.texts import TEXTS

    describe, read = first_question(options, language), make_reader(TEXTS[language])
    TerminalChat(model, config, language, describe, read, is_interactive=is_interactive()).run(options.image)


def main(load: "Callable[..., ChatModel] | None" = None, *, hf: bool = False, description: str | None = __doc__) -> int:
    """Run the program; return the exit code.

    Args:
        load: loads the model; None for `load_sat` or `load_hf`.
        hf: use the Hugging Face model, as the flag --hf does.
        description: shown by --help.
    """
    return run_program(partial(run, load, hf, description))
