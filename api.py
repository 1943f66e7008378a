"""Serve VisualGLM over HTTP: the original's POST / on port 8080, and chat completions under /v1.

python api.py --from_pretrained visualglm-tiny
python api.py --host 0.0.0.0 --api-key "$KEY" --max-batch 32
"""

import argparse
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

from model import ChatModel, SettingError, VisualGLMError, load_sat
from model.command_line import ArgumentParser
from model.printing import print_text
from model.shortage import shortage_explained
from serving import Settings, create_app
from serving.server import serve
from serving.trace import set_up_logging
from terminal.arguments import FAILED, MISUSED, add_model_arguments, load_model


def parse_arguments() -> tuple[argparse.Namespace, Settings]:
    """Read the command line and the environment."""
    parser = ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_model_arguments(parser)
    Settings.add_arguments(parser)
    options = parser.parse_args()
    try:
        settings = Settings.from_arguments(options)
    except SettingError as error:
        parser.error(str(error))
    return options, replace(settings, model_name=settings.model_name or Path(options.from_pretrained).name)


def main(load: Callable[..., ChatModel] = load_sat) -> None:
    """Run the server on a model that `load` loads."""
    options, settings = parse_arguments()
    set_up_logging(settings.log_text)
    # All that the server lets in may wait, for a moment, before the first of them are begun.
    load_places = partial(load, rows=settings.max_batch, most_waiting=settings.most_answers)
    try:
        with shortage_explained():
            serve(create_app(None, settings), settings, partial(load_model, options, load_places))
    except VisualGLMError as error:
        print_text(error, file=sys.stderr)
        sys.exit(MISUSED if isinstance(error, SettingError) else FAILED)


if __name__ == "__main__":
    main()
