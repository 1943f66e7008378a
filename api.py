"""Serve VisualGLM over HTTP: the original's POST / on port 8080, and chat completions under /v1.

python api.py --from_pretrained visualglm-tiny
python api.py --host 0.0.0.0 --api-key "$KEY" --max-batch 32
"""

import argparse
import logging
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

from model import ChatModel, SettingError, load_sat
from model.checkpoint.resolve import is_interactive, resolve
from model.command_line import ArgumentParser, run_program
from visualglm.arguments import add_model_arguments, load_model
from visualglm.server import Settings, create_app
from visualglm.server.process import serve
from visualglm.server.trace import log, set_up_logging


def parse_arguments() -> tuple[argparse.Namespace, Settings]:
    """Read the command line and the environment."""
    parser = ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_model_arguments(parser)
    Settings.add_arguments(parser)
    options = parser.parse_args()
    options.notes = []
    try:
        settings = Settings.from_arguments(options, note=options.notes.append)
    except SettingError as error:
        parser.error(str(error))
    return options, replace(settings, model_name=settings.model_name or Path(options.from_pretrained).name)


def run(load: Callable[..., ChatModel]) -> None:
    """Serve the model that the command line names."""
    options, settings = parse_arguments()
    set_up_logging(settings.log_text)
    for note in options.notes:
        log("ignored variable", logging.WARNING, advice=note)
    if is_interactive():  # a download may have to be confirmed, which a thread cannot ask
        resolve(options.from_pretrained)
    # All that the server lets in may wait, for a moment, before the first of them are begun.
    load_places = partial(load, rows=settings.max_batch, most_waiting=settings.most_answers)
    serve(create_app(None, settings), settings, partial(load_model, options, load_places))


def main(load: Callable[..., ChatModel] = load_sat) -> int:
    """Run the server on a model that `load` loads; return the exit code."""
    return run_program(partial(run, load))


if __name__ == "__main__":
    sys.exit(main())
