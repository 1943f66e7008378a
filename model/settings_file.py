"""Read a YAML file whose keys are the names of flags."""

import difflib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from .errors import SettingError


def read_yaml(path: Path) -> Any:
    """Return the content of a YAML file; lists, mappings and plain values only.

    Raises:
        SettingError: the file cannot be read, or is not YAML.
    """
    import yaml

    try:
        return yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeError) as error:
        raise SettingError(f"The file {str(path)!r} cannot be read: {error}.") from error
    except (yaml.YAMLError, RecursionError) as error:
        reason = " ".join(str(error).split())
        raise SettingError(f"The file {str(path)!r} is not YAML: {reason}.") from error


def write_yaml(settings: Mapping[str, Any]) -> str:
    """Return a mapping as YAML, in its order."""
    import yaml

    text: str = yaml.safe_dump(dict(settings), sort_keys=False, allow_unicode=True, default_flow_style=None, width=120)
    return text


def key_name(name: str) -> str:
    """Return the name of a key with hyphens; hyphens and underscores are alike."""
    return name.replace("_", "-")


def check_keys(data: object, known: Sequence[str], place: str) -> None:
    """Check that the keys of a mapping are known; hyphens and underscores are alike.

    Args:
        known: the keys, with hyphens.
        place: names the mapping in the error message.

    Raises:
        SettingError: there is an unknown key, or `data` is not a mapping.
    """
    if not isinstance(data, Mapping):
        raise SettingError(f"{place[:1].upper()}{place[1:]} should have keys with values, such as {known[0]}: ...")
    for key in data:
        if key_name(str(key)) not in known:
            close = difflib.get_close_matches(key_name(str(key)), known, 1)
            advice = f"Did you mean {close[0]!r}?" if close else f"The keys are: {', '.join(known)}."
            raise SettingError(f"{key!r} is not a key of {place}. {advice}")
