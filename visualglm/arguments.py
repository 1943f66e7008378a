"""Flags of chat, web and serve: the model and the prompt language; the locale's language; the loader."""

import argparse
import contextlib
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from model import CHINESE, ENGLISH, Conversation, GenerationConfig, Language
from model.command_line import print_text
from model.description import Description
from model.names import DEFAULT_MODEL, DTYPE_NAMES

from .cli import install_command

if TYPE_CHECKING:  # these import torch
    from model import ChatModel, StreamChunk
    from model.model_facts import ModelFacts

LOCALE_VARIABLES = ("LC_ALL", "LC_MESSAGES", "LANG")  # the first non-empty one applies, as in POSIX


def locale_language(environment: Mapping[str, str]) -> Language:
    """Return the language of the locale in `environment`: Chinese for zh, else English."""
    name = next(filter(None, map(environment.get, LOCALE_VARIABLES)), "")
    return CHINESE if name.lower().startswith("zh") else ENGLISH


class OneLanguageModel:
    """A ChatModel whose prompts are all in one language, independent of the question's language.

    Args:
        model: the wrapped model.
        language: of the prompts.
    """

    def __init__(self, model: "ChatModel", language: Language) -> None:
        self.model = model
        self.language = language

    @property
    def image_size(self) -> int:
        """Side of the model's square image input, pixels."""
        return self.model.image_size

    @property
    def description(self) -> Description:
        """The model's name and a sentence about its knowledge."""
        return self.model.description

    @property
    def facts(self) -> "ModelFacts":
        """Size and placement of the model."""
        from model.model_facts import ModelFacts

        return getattr(self.model, "facts", ModelFacts())

    @property
    def sampling(self) -> Mapping[str, Any]:
        """Sampling parameters from the model's directory."""
        return getattr(self.model, "sampling", {})

    def stream_answer(
        self, conversation: Conversation, question: str, config: GenerationConfig, **options: Any
    ) -> "Iterator[StreamChunk]":
        """Answer `question`; see `ChatModel`."""
        return self.model.stream_answer(replace(conversation, language=self.language), question, config, **options)

    def warm_up(self) -> None:
        """Warm up the model; see `ChatModel`."""
        self.model.warm_up()


@contextlib.contextmanager
def loading_bar() -> Iterator[Callable[[int, int], None]]:
    """Context manager: show the progress of loading on the standard error if it is a terminal.

    It yields a function that updates the bar from (loaded tensors, total tensors). The bar appears, and its clock
    starts, with the first tensor: after imports and any message about a download.
    """
    from tqdm import tqdm

    with contextlib.ExitStack() as stack:
        bars: list[Any] = []

        def update(done: int, total: int) -> None:
            if not bars:
                bars.append(stack.enter_context(tqdm(unit="tensor", desc="Loading", leave=False, disable=None)))
            (bar,) = bars
            bar.total = total
            bar.update(done - bar.n)

        yield update


def add_model_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags that choose the model and how to load it."""
    add = parser.add_argument
    names = "visualglm-tiny, visualglm-6b, a directory, or a hub id"
    add("--from_pretrained", default=DEFAULT_MODEL, metavar="NAME_OR_DIR", help=f"{names} (default %(default)s)")
    add(
        "--base",
        metavar="NAME_OR_DIR",
        help="base model of an adapter-only checkpoint, if it has moved since training",
    )
    add("--quant", type=int, choices=(8, 4), help="quantize the weights to this many bits")
    add("--quant_vision", action="store_true", help="with --quant, also quantize the image encoder")
    add("--quant_embeddings", action="store_true", help="with --quant, also quantize the token embeddings")
    add("--device", help="cpu, cuda, cuda:1, ... (default: a GPU if available)")
    add("--dtype", choices=DTYPE_NAMES, help="data type of the weights (default: chosen for the device and the size)")
    add("--hf", action="store_true", help="use the Hugging Face implementation instead of the SAT one")
    add_language_arguments(parser)


def add_language_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags --english and --chinese; without them, the option `language` is None."""
    add = parser.add_mutually_exclusive_group().add_argument
    for flag, language in (("--english", ENGLISH), ("--chinese", CHINESE)):
        help_ = f"use {flag.removeprefix('--').capitalize()} prompts (default: the language of each question)"
        add(flag, dest="language", action="store_const", const=language, help=help_)


def print_note(text: str) -> None:
    """Print a note to the standard error."""
    print_text(f"note: {text}", file=sys.stderr)


def choose_loader(
    hf: bool, load: "Callable[..., ChatModel] | None", note: Callable[[str], None] = print_note
) -> "Callable[..., ChatModel]":
    """Return `load` if given, else `load_hf` if `hf` is set or SAT is not installed, else `load_sat`.

    Args:
        note: called with a message if SAT is not installed.
    """
    if load is not None:
        return load
    from model import load_hf, load_sat

    if hf:
        return load_hf
    if find_spec("sat") is None:
        note(
            "SwissArmyTransformer is not installed, so the Hugging Face implementation is used, as with --hf. "
            f"To install it: {install_command('sat')}"
        )
        return load_hf
    return load_sat


def load_model(options: argparse.Namespace, load: "Callable[..., ChatModel]") -> "ChatModel":
    """Load the model that the flags of `add_model_arguments` name, with a progress bar."""
    names = ("base", "device", "dtype", "quant", "quant_vision", "quant_embeddings")
    settings = {name: getattr(options, name) for name in names}
    with loading_bar() as progress:
        model = load(options.from_pretrained, progress=progress, **settings)
    return model if options.language is None else OneLanguageModel(model, options.language)


def check_model(options: argparse.Namespace, load: "Callable[..., ChatModel]") -> None:
    """Check the model that the flags of `add_model_arguments` name, without reading its weights.

    Args:
        load: `load_sat` or `load_hf`.

    Raises:
        VisualGLMError: the model is not found, or cannot be loaded with these flags.
    """
    from model import load_hf
    from model.loading import check_loadable

    names = ("base", "device", "dtype", "quant", "quant_vision", "quant_embeddings")
    settings = {name: getattr(options, name) for name in names}
    check_loadable(options.from_pretrained, is_hf=load is load_hf, **settings)
