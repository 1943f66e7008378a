"""The sampling settings in a model directory's generation_config.json."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..engine import DEMO
from ..errors import CheckpointError, SettingError
from .files import read_json
from .save import GENERATION_NAME

# Lengths are not among them: the file's are those of transformers' `generate`, the programs have limits of their own.
SAMPLING_SETTINGS = ("temperature", "top_k", "top_p", "repetition_penalty")


def read_sampling(directory: Path) -> Mapping[str, Any]:
    """Return the sampling settings that a model's directory names, by their names in `GenerationConfig`.

    Raises:
        CheckpointError: generation_config.json cannot be read, or a setting makes no sense.
    """
    path = directory / GENERATION_NAME
    if not path.is_file():
        return {}
    written = read_json(path)
    try:
        settings = {name: written[name] for name in SAMPLING_SETTINGS if written.get(name) is not None}
        if written.get("do_sample") is False:
            settings["temperature"] = 0
        DEMO.replace(**settings)
    except SettingError as error:
        raise CheckpointError(f"{path} cannot be used: {error} Correct it, or remove it.") from error
    return settings
