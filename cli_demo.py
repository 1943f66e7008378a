"""Talk with VisualGLM about a picture, in the terminal.

python cli_demo.py --from_pretrained visualglm-tiny --image examples/scene.png
python cli_demo.py --from_pretrained visualglm-tiny --image examples/scene.png --query 图片里有什么？
"""

import argparse
import os
import sys
from collections.abc import Callable

from model import (
    CHINESE,
    DEMO,
    ENGLISH,
    ChatModel,
    Conversation,
    GenerationConfig,
    SettingError,
    VisualGLMError,
    load_sat,
)
from model.image import load_image
from model.printing import print_text
from terminal.arguments import FAILED, INTERRUPTED, MISUSED, add_model_arguments, load_model
from terminal.dialogue import Terminal
from terminal.streams import accept_any_text, make_reader, write


def answer_once(model: ChatModel, config: GenerationConfig, conversation: Conversation, question: str) -> None:
    """Write one answer to the standard output as it comes."""
    for piece in model.stream_answer(conversation, question, config):
        write(piece.text)
    print_text()


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


def main(load: Callable[..., ChatModel] = load_sat) -> None:
    """Run the program on a model that `load` loads."""
    accept_any_text()
    options, config = parse_arguments()
    try:
        run(options, config, load)
    except VisualGLMError as error:
        print_text(error, file=sys.stderr)
        sys.exit(MISUSED if isinstance(error, SettingError) else FAILED)
    except BrokenPipeError:  # whoever reads the output has had enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # takes what is still to be flushed
        sys.exit(FAILED)
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)


if __name__ == "__main__":
    main()
