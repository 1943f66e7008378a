"""Export the code that lets transformers load a model's directory with `trust_remote_code=True`.

One directory holds the modules of this package and the modules that they share with other packages.
"""

import json
import os
import re
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from ..errors import CheckpointError
from ..file_writing import write_text_atomically
from ..images.preprocess import CLIP_MEAN, CLIP_STD
from .model_card import CARD

HF_MODULES = (
    "chat_chatglm",
    "configuration_chatglm",
    "generation_chatglm",
    "layers_chatglm",
    "modeling_chatglm",
    "tokenization_chatglm",
)
SHARED_FILES = (  # of other packages, by their paths in `model`
    "attribution.py",
    "errors.py",
    "explanation.py",
    "images/decode.py",
    "images/preprocess.py",
    "images/url_fetch.py",
    "kernels/torch_ops.py",
    "prompt.py",
)
# Shared modules that an export has in one file, because it has at most twelve. Each may import those before it.
COMMON_MODULES = ("errors", "attribution", "explanation")
COMMON_NAME = "common"
SHARED_MODULES = (
    *(stem for file in SHARED_FILES if (stem := Path(file).stem) not in COMMON_MODULES),
    COMMON_NAME,
)
TOKENIZER_MODULE = "tokenization_chatglm"  # not needed by the model
TOKENIZER_FILES = {f"{TOKENIZER_MODULE}.py", "configuration_chatglm.py"}
# Modules of earlier exports, which no module imports any more.
FORMER_MODULES = (
    *("cache_chatglm", "graph_chatglm", "prefix_chatglm", "room_chatglm", "saving_chatglm", "text_chatglm"),
    *("vision_chatglm", "quantization", "kernels", "recording", "file_mode", "history", "image", "image_file"),
    *(
        "errors",
        "image_bounds",
        "image_metadata",
        "data_url",
        "fetch",
        "address",
        "cuda_graph",
        "low_bit",
        "dialogue_chatglm",
    ),
)
ENTRY_MODULES = ("chat_chatglm", "modeling_chatglm")  # transformers imports them by the auto_map
MODEL_CLASS = "modeling_chatglm.ChatGLMForConditionalGenerationWithImage"
PROCESSOR_MAP = {
    "AutoProcessor": "chat_chatglm.ChatGLMProcessor",
    "AutoImageProcessor": "modeling_chatglm.ChatGLMImageProcessor",
}
CONFIG_MAP: dict[str, Any] = {
    "AutoConfig": "configuration_chatglm.ChatGLMConfig",
    "AutoModel": MODEL_CLASS,
    "AutoModelForCausalLM": MODEL_CLASS,
    "AutoModelForSeq2SeqLM": MODEL_CLASS,
    "AutoModelForImageTextToText": MODEL_CLASS,
    "AutoModelForMultimodalLM": MODEL_CLASS,
    "AutoModelForVision2Seq": MODEL_CLASS,  # the name in transformers 4
    "AutoTokenizer": ["tokenization_chatglm.ChatGLMTokenizer", None],
    **PROCESSOR_MAP,
}
TOKENIZER_MAP = {"AutoTokenizer": ["tokenization_chatglm.ChatGLMTokenizer", None]}
CONFIG_NAME, TOKENIZER_CONFIG_NAME = "config.json", "tokenizer_config.json"
IMAGE_CONFIG_NAME, CARD_NAME = "preprocessor_config.json", "README.md"
# Files of the published code and of our earlier exports that the current code does not need.
FORMER_FILES = ("visual.py", *(f"{module}.py" for module in FORMER_MODULES))
BACKUP_NAME = "code-backup"


def export_code(directory: str | os.PathLike[str]) -> None:
    """Write the code into a model's `directory`, and the auto_map of its classes into the configurations.

    Each file is replaced atomically; a missing configuration is skipped.

    Raises:
        CheckpointError: a configuration is not a JSON object.
        OSError: the directory cannot be written.
    """
    directory = Path(directory)
    for name, text in code_files():
        write_text_atomically(directory / name, text)
    add_entries(directory / CONFIG_NAME, {"auto_map": CONFIG_MAP})
    write_tokenizer_map(directory)
    write_image_config(directory)
    write_card(directory)


def export_tokenizer(directory: str | os.PathLike[str]) -> None:
    """Write only the tokenizer's code into `directory`; see `export_code`."""
    for name, text in code_files():
        if name in TOKENIZER_FILES:
            write_text_atomically(Path(directory) / name, text)
    write_tokenizer_map(Path(directory))


def export_processor(directory: str | os.PathLike[str]) -> None:
    """Write the code into `directory`, in which a processor was saved; see `export_code`."""
    export_code(directory)
    path = Path(directory) / "processor_config.json"
    add_entries(path, {"auto_map": PROCESSOR_MAP})


def write_image_config(directory: Path) -> None:
    """Write the size of the images and the processor's classes to preprocessor_config.json, if there is config.json."""
    path, config_path = directory / IMAGE_CONFIG_NAME, directory / CONFIG_NAME
    config = read_object(config_path) if config_path.is_file() else {}
    if not config.get("eva_config"):
        return
    height, width = config["eva_config"]["image_size"]
    entries = {
        "image_processor_type": "ChatGLMImageProcessor",
        "processor_class": "ChatGLMProcessor",
        "auto_map": PROCESSOR_MAP,
        "size": {"height": height, "width": width},
        "image_mean": list(CLIP_MEAN),
        "image_std": list(CLIP_STD),
    }
    write_text_atomically(path, json.dumps(entries, indent=2) + "\n")


def write_card(directory: Path) -> None:
    """Write the model card of a model's directory, unless it has a README.md."""
    path, config_path = directory / CARD_NAME, directory / CONFIG_NAME
    if not path.exists() and config_path.is_file() and read_object(config_path).get("eva_config"):
        write_text_atomically(path, CARD)


def write_tokenizer_map(directory: Path) -> None:
    """Add the tokenizer's auto_map to its configuration in `directory`, if that exists."""
    entries: dict[str, Any] = {"auto_map": TOKENIZER_MAP, "tokenizer_class": "ChatGLMTokenizer"}
    config = read_object(directory / CONFIG_NAME) if (directory / CONFIG_NAME).is_file() else {}
    if config.get("prompt_language"):
        entries["prompt_language"] = config["prompt_language"]
    add_entries(directory / TOKENIZER_CONFIG_NAME, entries)


def refresh_code(directory: str | os.PathLike[str]) -> Path:
    """Replace the remote code in a model's `directory`, such as the published model's, with ours.

    Returns:
        the new backup folder in `directory`, with every changed file in its former version.

    Raises:
        CheckpointError: the directory contains no VisualGLM model in the Hugging Face format.
        OSError: the directory cannot be written.
    """
    directory = Path(directory)
    config = read_object(directory / CONFIG_NAME) if (directory / CONFIG_NAME).is_file() else {}
    if not {"eva_config", "qformer_config"} <= config.keys():
        raise CheckpointError(
            f"{directory} contains no VisualGLM model in the Hugging Face format: there is no {CONFIG_NAME} with "
            "eva_config and qformer_config. Give the directory of the model."
        )
    backup = new_folder(directory)
    replaced = [name for name, _ in code_files()]
    for name in (*replaced, *FORMER_FILES, CONFIG_NAME, TOKENIZER_CONFIG_NAME, IMAGE_CONFIG_NAME):
        if (directory / name).is_file():
            shutil.copy2(directory / name, backup / name)
    export_code(directory)
    for name in FORMER_FILES:
        (directory / name).unlink(missing_ok=True)
    return backup


def code_files() -> Iterator[tuple[str, str]]:
    """Yield (name, text) for every file to write."""
    package = Path(__file__).parent
    for module in HF_MODULES:
        text = flatten_imports((package / f"{module}.py").read_text(encoding="utf-8"))
        yield f"{module}.py", text + name_modules(module, text) if module in ENTRY_MODULES else text
    sources = {Path(file).stem: (package.parent / file).read_text(encoding="utf-8") for file in SHARED_FILES}
    common = [sources.pop(module) for module in COMMON_MODULES]
    for module, text in sources.items():
        yield f"{module}.py", flatten_imports(text)
    yield f"{COMMON_NAME}.py", join_modules(common)


def flatten_imports(text: str) -> str:
    """Rewrite a module's relative imports for a directory that contains all modules."""

    def flatten(found: re.Match[str]) -> str:
        return f"{found[1]}from .{COMMON_NAME if found[2] in COMMON_MODULES else found[2]} import"

    return re.sub(r"^(\s*)from \.+(?:\w+\.)*(\w+) import", flatten, text, flags=re.MULTILINE)


def join_modules(texts: Sequence[str]) -> str:
    """Join modules in one text, without their imports of each other. A module may import earlier ones only."""
    own_import = rf"^from \.{COMMON_NAME} import (\(.*?\)|[^(\n]*)\n"
    joined = "\n\n".join(flatten_imports(text) for text in texts)
    return re.sub(own_import, "", joined, flags=re.MULTILINE | re.DOTALL)


def name_modules(module: str, text: str) -> str:
    """Return import lines for every module that the file `text` of a `module` needs indirectly only."""
    named = set(re.findall(r"^from \.(\w+) import", text, flags=re.MULTILINE))
    needed = {*HF_MODULES, *SHARED_MODULES} - named - {"modeling_chatglm", module}
    lines = (f"from .{module} import __name__ as _{module}\n" for module in sorted(needed))
    return "\n# transformers 4 copies only modules that this file imports, not their own imports.\n" + "".join(lines)


def new_folder(directory: Path) -> Path:
    """Create the first of code-backup, code-backup-2, ... that does not exist yet."""
    number = 1
    while True:
        folder = directory / (BACKUP_NAME if number == 1 else f"{BACKUP_NAME}-{number}")
        try:
            folder.mkdir()
        except FileExistsError:
            number += 1
        else:
            return folder


def add_entries(path: Path, entries: dict[str, Any]) -> None:
    """Set `entries` in the JSON object in file `path`, if the file exists."""
    if path.is_file():
        text = json.dumps({**read_object(path), **entries}, indent=2, ensure_ascii=False)
        write_text_atomically(path, text + "\n")


def read_object(path: Path) -> dict[str, Any]:
    """Read a JSON object from a file.

    Raises:
        CheckpointError: the file does not contain a JSON object.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except RecursionError as error:
        raise CheckpointError(f"{path} cannot be read as JSON: it is nested too deeply.") from error
    except ValueError as error:
        raise CheckpointError(f"{path} cannot be read as JSON: {error}") from error
    if not isinstance(value, dict):
        raise CheckpointError(f"{path} should contain a JSON object, not {type(value).__name__}.")
    return value
