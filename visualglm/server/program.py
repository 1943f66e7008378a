"""Serve VisualGLM over HTTP: the original's POST / on port 8080, and chat completions under /v1.

visualglm serve --from_pretrained visualglm-tiny
visualglm serve --host 0.0.0.0 --api-key "$KEY" --max-batch 32
visualglm serve --replicas all          one model on each GPU of this machine; needs the extra `scale`
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
from visualglm.scale.arguments import add_cluster_arguments, apply_cluster_file, runs_on_ray

from .app import create_app
from .http_server import load_into, serve
from .request_log import log, set_up_logging
from .settings import Settings


def parse_arguments(description: str | None = __doc__) -> tuple[argparse.Namespace, Settings]:
    """Parse the command line and the environment; --help shows `description`."""
    parser = ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_model_arguments(parser)
    Settings.add_arguments(parser)
    add_cluster_arguments(parser)
    options = parser.parse_args()
    try:
        options = apply_cluster_file(parser, options)
        options.notes = []
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
    if runs_on_ray(options):
        from visualglm.scale.program import serve_on_ray  # imports Ray, which the single-process server does not need

        serve_on_ray(options, settings, options.hf or hf)
        return
    load = choose_loader(options.hf or hf, load, lambda note: log("no SAT", logging.WARNING, advice=note))
    if is_interactive():  # a download may need confirmation, which the loading thread cannot ask for
        resolve(options.from_pretrained)
    # The engine's queue holds all admitted answers: they may all arrive before it starts the first of them.
    load_with_limits = partial(load, max_batch_size=settings.max_batch, max_queue_size=settings.max_concurrent_answers)
    app = create_app(None, settings)
    serve(app, settings, partial(load_into, app.state.service, partial(load_model, options, load_with_limits)))


def main(load: Callable[..., ChatModel] | None = None, *, hf: bool = False, description: str | None = __doc__) -> int:
    """Run the server; return the exit code.

    Args:
        load: loads the model; None for `load_sat` or `load_hf`.
        hf: use the Hugging Face model, as the flag --hf does.
        description: shown by --help.
    """
    return run_program(partial(run, load, hf, description))
