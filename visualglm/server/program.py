"""Serve VisualGLM over HTTP: the original's POST / on port 8080, and chat completions under /v1.

visualglm serve --from_pretrained visualglm-tiny
visualglm serve --host 0.0.0.0 --api-key "$KEY" --max-batch 32
"""

import argparse
import logging
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

from model import ChatModel, SettingError
from model.checkpoint.resolve import is_interactive, resolve
from model.command_line import ArgumentParser, run_program
from visualglm.arguments import add_model_arguments, choose_loader, load_model
from visualglm.server import Settings, create_app
from visualglm.server.process import serve
from visualglm.server.request_log import log, set_up_logging


def parse_arguments(description: str | None = __doc__) -> tuple[argparse.Namespace, Settings]:
    """Read the command line and the environment; --help shows `description`."""
    parser = ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_model_arguments(parser)
    Settings.add_arguments(parser)
    options = parser.parse_args()
    options.notes = []
    try:
        settings = Settings.from_arguments(options, note=options.notes.append)
    except SettingError as error:
        parser.error(str(error))
    return options, replace(settings, model_name=settings.model_name or Path(options.from_pretrained).name)


def run(load: Callable[..., ChatModel] | None, hf: bool, description: str | None) -> None:
    """Serve the model that the command line names."""
    options, settings = parse_arguments(description)
    set_up_logging(settings.log_text)
    for note in options.notes:
        log("ignored variable", logging.WARNING, advice=note)
    load = choose_loader(options.hf or hf, load, lambda note: log("no SAT", logging.WARNING, advice=note))
    if is_interactive():  # a download may have to be confirmed, which a thread cannot ask
        resolve(options.from_pretrained)
    # All that the server lets in may wait, for a moment, before the first of them are begun.
    load_places = partial(load, max_batch_size=settings.max_batch, max_queue_size=settings.max_concurrent_answers)
    serve(create_app(None, settings), settings, partial(load_model, options, load_places))


def main(load: Callable[..., ChatModel] | None = None, *, hf: bool = False, description: str | None = __doc__) -> int:
    """Run the server; return the exit code.

    Args:
        load: loads the model; None for `load_sat` or `load_hf`.
        hf: use the Hugging Face model, as the flag --hf does.
        description: shown by --help.
    """
    return run_program(partial(run, load, hf, description))
