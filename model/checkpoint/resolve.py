"""Resolve a model's name to a directory or a file; download the model if it is not on this machine.

visualglm-tiny          the small model in this repository
a directory             that directory: a model in either format, a SAT run, one iteration of a run, or a PEFT adapter
a .pt file              that file: the weights of a SAT run
visualglm-6b            $SAT_HOME/visualglm-6b, ./visualglm-6b, ~/.sat_models/visualglm-6b, then the hub
organization/model      the hub cache, then the hub; if ./organization is a directory, it is a path instead

At a terminal, a download starts only after the user confirms it.
"""

import difflib
import os
import re
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from ..command_line import print_text
from ..environment import expand_home, read_integer, read_variable
from ..errors import CheckpointError, TokenizerError
from ..names import DEFAULT_MODEL, EMBEDDED, HUB_IDS, embedded_names
from . import hf, sat
from .adapters import BASE_KEY, MAX_BASES
from .files import check_disk_space, describe_damage, read_json, translate_os_errors
from .peft_adapter import BASE_KEY as ADAPTER_BASE_KEY, CONFIG_NAME as ADAPTER_NAME, weights_file
from .sat import CONFIG_NAME as SAT_CONFIG_NAME

# Model ids with an organization that the hub's client accepts.
HUB_ID = re.compile(r"(?=.{1,96}$)(?!.*(--|\.\.|\.git$))[A-Za-z0-9_]([\w.-]*\w)?/\w([\w.-]*\w)?", re.ASCII)
# Download size in bytes: 1,039 tensors in half precision, and the tokenizer.
HUB_SIZES = {"THUDM/visualglm-6b": 15_604_388_608 + 2_706_249}
RUNS_FOLDER = "checkpoints"  # the documented destination of fine-tuning
FILE_ENDINGS = (".pt", ".bin", ".safetensors", ".json")
WANTED_FILES = ["*.json", "*.safetensors", "*.bin", "*.model"]


def print_notice(text: str) -> None:
    """Print a message for the user to standard error, separate from the program's output."""
    print_text(text, file=sys.stderr)


def is_model(path: Path) -> bool:
    """Return whether `path` is a model directory in either format, a PEFT adapter, or a SAT weight file."""
    return sat.is_sat_checkpoint(path) or (path / hf.CONFIG_NAME).is_file() or is_adapter(path)


def is_adapter(path: Path) -> bool:
    """Return whether the directory `path` contains the configuration of a PEFT adapter."""
    return (path / ADAPTER_NAME).is_file()


def base_entry(run: Path) -> tuple[Path, str]:
    """Return the configuration file of a fine-tune or an adapter, and its entry that names the base model."""
    return (run / ADAPTER_NAME, ADAPTER_BASE_KEY) if is_adapter(run) else (run / SAT_CONFIG_NAME, BASE_KEY)


def read_base_name(run: Path) -> Any:
    """Read the name of the base model in the configuration of a fine-tune or an adapter; None if it has none."""
    file, key = base_entry(run)
    return read_json(file).get(key) if file.is_file() else None


def resolve(
    name: str | os.PathLike[str],
    *,
    home: str | os.PathLike[str] | None = None,
    notice: Callable[[str], None] = print_notice,
) -> Path:
    """Return the directory or file of the model called `name`; download it from the hub if necessary.

    Args:
        name: a known name, a directory, a .pt file, or a hub id.
        home: directory of models, instead of $SAT_HOME.
        notice: called with a message about a download: the model, its size and the destination.

    Raises:
        CheckpointError: the model is not found, or cannot be read; the message lists the searched paths, and how to
            download the model by hand.
    """
    with translate_os_errors():
        return find_model(os.fspath(name), home, notice)


def find_model(name: str, home: str | os.PathLike[str] | None, notice: Callable[[str], None]) -> Path:
    """Find a model as `resolve` does, without translating OSError."""
    if name in embedded_names():
        return EMBEDDED / name
    search_paths = local_search_paths(name, home)
    for directory in search_paths:
        if is_model(directory):
            return directory
    refuse_non_model(expand_home(name))
    hub_id = HUB_IDS.get(name, name)
    if not is_hub_id(hub_id) or is_local_path(hub_id, search_paths):
        raise CheckpointError(describe_not_found(name, search_paths))
    return find_cached_snapshot(hub_id) or download(name, hub_id, search_paths, notice)


def refuse_non_model(path: Path) -> None:
    """Raise CheckpointError if `path` exists but is not a model."""
    if path.is_dir():
        inside = [*path.glob("snapshots/*"), *path.glob("*")]  # the first as in the hub cache
        found = next((str(folder) for folder in inside if is_model(folder)), "")
        raise CheckpointError(
            f"{path} contains neither model_config.json (SAT format) nor config.json (Hugging Face format). "
            f"Give the directory that contains one of them{f', such as {found}' if found else ''}."
        )
    if path.is_file():
        reason = describe_damage(path) or "is a file. Give the directory of the model, or a .pt file of SAT."
        raise CheckpointError(f"{path} {reason}")


def local_search_paths(name: str, home: str | os.PathLike[str] | None) -> list[Path]:
    """List the local paths to search for a model called `name`, in order."""
    here = expand_home(name)
    if here.is_absolute() or name.startswith("."):
        return [here]
    sat_home = home or read_variable("SAT_HOME")
    first = [expand_home(sat_home) / name] if sat_home else []
    last = expand_home("~/.sat_models")
    return [*first, here, *([last / name] if last.is_absolute() else [])]


def is_hub_id(name: str) -> bool:
    """Return whether `name` has the form organization/model."""
    return HUB_ID.fullmatch(name) is not None


def is_local_path(name: str, search_paths: list[Path]) -> bool:
    """Return whether `name`, which has the form organization/model, is rather the path of a missing model."""
    if name in HUB_SIZES:
        return False
    folder = name.split("/")[0]
    return (
        folder == RUNS_FOLDER
        or name.endswith(FILE_ENDINGS)
        or any(directory.parent.is_dir() for directory in search_paths)
    )


def find_cached_snapshot(hub_id: str) -> Path | None:
    """Return the directory of a complete copy of `hub_id` in the hub cache; None if there is none."""
    if hub_cache() is None:
        return None
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        path = Path(snapshot_download(hub_id, allow_patterns=WANTED_FILES, local_files_only=True))
    except LocalEntryNotFoundError:
        return None
    return path if is_complete(path) else None


def is_complete(path: Path) -> bool:
    """Return whether an HF directory has its configuration and all weight files, unlike an interrupted download."""
    if is_adapter(path):
        return weights_file(path).is_file()
    try:
        return is_model(path) and bool(hf.weight_files(path))
    except CheckpointError:
        return False


def download(name: str, hub_id: str, search_paths: list[Path], notice: Callable[[str], None]) -> Path:
    """Download `hub_id` to the hub cache, after a notice; return its directory there.

    Raises:
        CheckpointError: downloads are disabled or declined, there is too little disk space, or the download fails.
    """
    from huggingface_hub import constants, snapshot_download

    if constants.HF_HUB_OFFLINE:
        raise CheckpointError(
            f"HF_HUB_OFFLINE is set, so nothing is downloaded.\n{describe_not_found(name, search_paths)}"
        )
    cache = hub_cache()
    if cache is None:
        raise CheckpointError(
            f"There is no home directory to download {hub_id} to. Set HF_HOME to a directory.\n"
            f"{describe_not_found(name, search_paths)}"
        )
    size = HUB_SIZES.get(hub_id)
    described = f"about {size / 1e9:.1f} GB" if size else "of unknown size"
    otherwise = (
        f"Free some space, or set HF_HOME to a directory on a larger disk.\n{describe_not_found(name, search_paths)}"
    )
    check_disk_space(cache, size, otherwise)
    if is_interactive() and not confirm_download(f"{name} is not on this machine. Download {hub_id}, {described}?"):
        raise CheckpointError(f"{hub_id} was not downloaded.\n{describe_not_found(name, search_paths)}")
    notice(f"{name} is not on this machine. Downloading {hub_id}, {described}, to {cache} ...")
    try:
        return Path(snapshot_download(hub_id, allow_patterns=WANTED_FILES))
    except Exception as error:  # the hub's client and its HTTP library raise many types
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise CheckpointError(
            f"Downloading {hub_id} failed: {reason}\n{describe_not_found(name, search_paths)}"
        ) from error


def is_interactive() -> bool:
    """Return whether standard input and standard error are terminals, so that the user can be asked."""
    return all(stream is not None and stream.isatty() for stream in (sys.stdin, sys.stderr))


def confirm_download(question: str) -> bool:
    """Ask the user a yes/no question at the terminal; return whether the answer is yes.

    With several processes, return False without asking: the weights must be downloaded beforehand.
    """
    if read_integer("WORLD_SIZE", 1) > 1:
        return False
    print_text(f"{question} [y/N] ", end="", file=sys.stderr)
    return sys.stdin.readline().strip().lower() in ("y", "yes")


def hub_cache() -> Path | None:
    """Return the directory of the hub cache; None if its path requires a home directory and there is none."""
    from huggingface_hub import constants

    path = expand_home(constants.HF_HUB_CACHE)
    return None if path.parts[:1] == ("~",) else path


def describe_not_found(name: str, search_paths: list[Path]) -> str:
    """Describe where a model was searched, and how to download it by hand."""
    looked = "\n".join(f"  {directory.absolute()}" for directory in search_paths)
    hub_id = HUB_IDS.get(name, name)
    is_on_hub = is_hub_id(hub_id) and not is_local_path(hub_id, search_paths)
    if is_on_hub and (cache := hub_cache()):
        looked += f"\nand for a complete copy in the hub cache,\n  {cache}"
    hub_id = hub_id if is_on_hub else HUB_IDS[DEFAULT_MODEL]
    folder = hub_id.split("/")[-1]
    return (
        f"There is no model called {name!r}. Searched for model_config.json or config.json in\n{looked}\n"
        f"{similar_names(name, search_paths)}"
        "To get the published model by hand: on a machine that reaches the hub, run\n"
        f"  hf download {hub_id} --local-dir {folder}\n"
        f"and copy the folder {folder} into the working directory or into $SAT_HOME: --from_pretrained {folder}\n"
        "To try the toolkit without any download: --from_pretrained visualglm-tiny"
    )


def similar_names(name: str, search_paths: list[Path]) -> str:
    """Return a line that suggests models with a similar name or path; "" if there are none."""
    known = [*embedded_names(), *HUB_IDS]
    found = dict.fromkeys([] if name in known else difflib.get_close_matches(name.lower(), known, n=1))
    for directory in search_paths:
        with suppress(OSError):  # a folder that does not exist, or is not readable
            similar = difflib.get_close_matches(directory.name, [path.name for path in directory.parent.iterdir()])
            paths = [directory.parent / near for near in similar]
            found |= dict.fromkeys(str(path) for path in paths if is_model(path))
    return f"Did you mean {' or '.join(found)}?\n" if found else ""


VOCABULARY_NAME, TOKENIZER_NAME = "ice_text.model", "tokenizer_config.json"
# Published repositories with the same vocabulary, under their old and new owners.
HUB_SOURCES = ("THUDM/visualglm-6b", "THUDM/chatglm-6b", "zai-org/visualglm-6b", "zai-org/chatglm-6b")


def find_vocabulary(name: str | os.PathLike[str]) -> Path:
    """Find the directory with `ice_text.model` for the model called `name`, or in directory `name`.

    Searches the bundled model's directory, directory `name`, its parent, the base model's directories, the model's own
    search paths, $SAT_HOME, the published model's paths and the hub cache, in that order: a fine-tune uses its base
    model's vocabulary, which SAT does not save with it.

    Raises:
        TokenizerError: the vocabulary is not found or invalid; the message describes how to download it.
    """
    with translate_os_errors():
        search_paths = vocabulary_search_paths(os.fspath(name))
        for directory in search_paths:
            if (directory / VOCABULARY_NAME).is_file():
                return check_vocabulary(directory)
    cached = find_cached_vocabulary(os.fspath(name))
    if cached is not None:
        return check_vocabulary(cached)
    looked = "\n".join(f"  {directory.absolute()}" for directory in search_paths)
    raise TokenizerError(
        f"There is no {VOCABULARY_NAME}, the tokenizer's vocabulary, for {os.fspath(name)!r}. Searched\n{looked}\n"
        f"and the hub cache. Download it on a machine that reaches the hub, with\n"
        f"  hf download {HUB_SOURCES[1]} {VOCABULARY_NAME} --local-dir DIRECTORY\n"
        "(2.7 MB) and copy it next to the model's weights."
    )


def check_vocabulary(directory: Path) -> Path:
    """Return `directory`; raise TokenizerError if its tokenizer files are damaged or something else."""
    reason = describe_damage(directory / VOCABULARY_NAME)
    if reason is not None:
        raise TokenizerError(f"{directory / VOCABULARY_NAME}, the tokenizer's vocabulary, {reason}")
    if (directory / TOKENIZER_NAME).is_file():
        try:
            read_json(directory / TOKENIZER_NAME)
        except CheckpointError as error:
            raise TokenizerError(str(error)) from error
    return directory


def vocabulary_search_paths(name: str, bases: int = MAX_BASES) -> list[Path]:
    """List the existing directories to search for the vocabulary, in order."""
    path = expand_home(name)
    if path.name == VOCABULARY_NAME:
        path = path.parent
    homes = local_search_paths(HUB_IDS.get(name, name).split("/")[-1], None)
    sat_home = read_variable("SAT_HOME")
    published = local_search_paths(DEFAULT_MODEL, None)
    base = base_search_paths(path, bases)
    candidates = [
        EMBEDDED / name,
        path,
        path.absolute().parent,
        *base,
        *homes,
        *([expand_home(sat_home)] if sat_home else []),
        *published,
    ]
    return list(dict.fromkeys(directory for directory in candidates if directory.is_dir()))


def base_search_paths(run: Path, bases: int) -> list[Path]:
    """List the directories to search for the vocabulary of a fine-tune's base model, if `run` names one.

    Args:
        run: directory of the fine-tune.
        bases: maximum length of the chain of base models to follow.
    """
    base = read_base_name(run) if bases else None
    return vocabulary_search_paths(str(base), bases - 1) if base else []


def find_cached_vocabulary(name: str) -> Path | None:
    """Return the directory in the hub cache that contains the vocabulary; None if there is none."""
    from huggingface_hub import try_to_load_from_cache

    wanted = HUB_IDS.get(name, name)
    for hub_id in dict.fromkeys((wanted, *HUB_SOURCES)):
        if len(hub_id.split("/")) != 2:
            continue
        try:
            file = try_to_load_from_cache(hub_id, VOCABULARY_NAME)
        except ValueError as error:  # not a valid model id
            raise CheckpointError(f"{name!r} is neither a directory nor a model's name: {error}") from error
        if isinstance(file, str):
            return Path(file).parent
    return None
