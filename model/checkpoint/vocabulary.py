"""A model's name or directory -> the directory of its tokenizer, the one with ice_text.model."""

import os
from pathlib import Path

from ..environment import expand_home, read_variable
from ..errors import CheckpointError, TokenizerError
from .base import BASE_KEY, MAX_BASES
from .files import describe_damage, read_json, refusal_explained
from .resolve import DEFAULT_MODEL, EMBEDDED, HUB_IDS, local_places
from .sat import CONFIG_NAME as SAT_CONFIG_NAME

VOCABULARY_NAME, TOKENIZER_NAME = "ice_text.model", "tokenizer_config.json"
# Published repositories that hold the same vocabulary, under their old and new owners.
HUB_SOURCES = ("THUDM/visualglm-6b", "THUDM/chatglm-6b", "zai-org/visualglm-6b", "zai-org/chatglm-6b")


def find_vocabulary(name: str | os.PathLike[str]) -> Path:
    """Find the directory with `ice_text.model` for the model called `name`, or in directory `name`.

    Looks in the directory, its parent, $SAT_HOME, the published model's places and the hub's cache, in that order:
    a fine-tune keeps the vocabulary, and SAT does not write it.

    Raises:
        TokenizerError: it is nowhere, or no vocabulary; the message says where to get it.
    """
    with refusal_explained():
        places = vocabulary_places(os.fspath(name))
        for place in places:
            if (place / VOCABULARY_NAME).is_file():
                return undamaged(place)
    cached = find_cached(os.fspath(name))
    if cached is not None:
        return undamaged(cached)
    looked = "\n".join(f"  {place.absolute()}" for place in places)
    raise TokenizerError(
        f"There is no {VOCABULARY_NAME}, the tokenizer's vocabulary, for {os.fspath(name)!r}. Looked in\n{looked}\n"
        f"and in the hub's cache. Get it on a machine that reaches the hub, with\n"
        f"  hf download {HUB_SOURCES[1]} {VOCABULARY_NAME} --local-dir DIRECTORY\n"
        "(2.7 MB) and put it beside the model's weights."
    )


def undamaged(place: Path) -> Path:
    """Return a tokenizer's directory; raise TokenizerError if its files are plainly something else."""
    reason = describe_damage(place / VOCABULARY_NAME)
    if reason is not None:
        raise TokenizerError(f"{place / VOCABULARY_NAME}, the tokenizer's vocabulary, {reason}")
    if (place / TOKENIZER_NAME).is_file():
        try:
            read_json(place / TOKENIZER_NAME)
        except CheckpointError as error:
            raise TokenizerError(str(error)) from error
    return place


def vocabulary_places(name: str, bases: int = MAX_BASES) -> list[Path]:
    """List the directories to look in, in order."""
    path = expand_home(name)
    if path.name == VOCABULARY_NAME:
        path = path.parent
    homes = local_places(HUB_IDS.get(name, name).split("/")[-1], None)
    sat_home = read_variable("SAT_HOME")
    published = local_places(DEFAULT_MODEL, None)
    base = base_places(path, bases)
    candidates = [
        EMBEDDED / name,
        path,
        path.absolute().parent,
        *base,
        *homes,
        *([expand_home(sat_home)] if sat_home else []),
        *published,
    ]
    return list(dict.fromkeys(place for place in candidates if place.is_dir()))


def base_places(run: Path, bases: int) -> list[Path]:
    """List the directories of the model that the fine-tune in `run` began from, if it names one.

    Args:
        bases: most models to follow that began from one another.
    """
    file = run / SAT_CONFIG_NAME
    base = read_json(file).get(BASE_KEY) if bases and file.is_file() else None
    return vocabulary_places(str(base), bases - 1) if base else []


def find_cached(name: str) -> Path | None:
    """Return the directory in the hub's cache that holds the vocabulary, if any does."""
    from huggingface_hub import try_to_load_from_cache

    wanted = HUB_IDS.get(name, name)
    for hub_id in dict.fromkeys((wanted, *HUB_SOURCES)):
        if len(hub_id.split("/")) != 2:
            continue
        try:
            file = try_to_load_from_cache(hub_id, VOCABULARY_NAME)
        except ValueError as error:  # not a name that the hub could have
            raise CheckpointError(f"{name!r} is neither a directory nor a model's name: {error}") from error
        if isinstance(file, str):
            return Path(file).parent
    return None
