"""Answer questions about images as an MCP tool, over the standard input and output.

visualglm mcp --from_pretrained visualglm-tiny
visualglm mcp --from_pretrained visualglm-6b --allow-image-urls
"""

import argparse
import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import Future
from functools import partial

from model import DEMO, ChatModel, GenerationConfig, SettingError
from model.chat_model import demo_config
from model.command_line import ArgumentParser, run_program
from visualglm.arguments import add_model_arguments, choose_loader, load_model

from .questions import LoadedModel
from .stdio import reserved_output, serve_stdio


def parse_arguments(description: str | None = __doc__) -> tuple[argparse.Namespace, GenerationConfig]:
    """Parse the command line; --help shows `description`."""
    parser = ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_model_arguments(parser)
    help_ = "also read images from http(s) URLs with public addresses"
    parser.add_argument("--allow-image-urls", action="store_true", help=help_)
    DEMO.add_arguments(parser)
    options = parser.parse_args()
    try:
        return options, DEMO.from_arguments(options)
    except SettingError as error:
        parser.error(str(error))


def start_loading(options: argparse.Namespace, load: Callable[..., ChatModel]) -> "Future[LoadedModel]":
    """Load and warm up the model in a thread, because clients wait only briefly for the first response."""
    promise: Future[LoadedModel] = Future()
    promise.set_running_or_notify_cancel()  # a call that is cancelled must not cancel the loading

    def run_loading() -> None:
        try:
            model = load_model(options, load)
            model.warm_up()
            promise.set_result(LoadedModel(model, demo_config(model).from_arguments(options)))
        except BaseException as error:
            promise.set_exception(error)

    threading.Thread(target=run_loading, name="loading", daemon=True).start()
    return promise


def run(load: Callable[..., ChatModel] | None, hf: bool, description: str | None) -> None:
    """Serve the tool with the model that the command line names, until the standard input ends."""
    options, _ = parse_arguments(description)  # settings are parsed again after loading: the model has defaults
    with reserved_output() as output:
        loaded = start_loading(options, choose_loader(options.hf or hf, load))
        asyncio.run(serve_stdio(loaded, output, allow_urls=options.allow_image_urls))


def main(load: Callable[..., ChatModel] | None = None, *, hf: bool = False, description: str | None = __doc__) -> int:
    """Run the program; return the exit code.

    Args:
        load: loads the model; None for `load_sat` or `load_hf`.
        hf: use the Hugging Face model, as the flag --hf does.
        description: shown by --help.
    """
    return run_program(partial(run, load, hf, description))
