"""Read environment variables and the home directory, which a container or a service manager may leave out."""

import os
import re
from collections.abc import Mapping
from pathlib import Path

from .errors import SettingError

# What Kubernetes and Docker set for a linked service: VISUALGLM_PORT=tcp://10.0.0.7:8080.
SERVICE_LINK = re.compile(r"(tcp|udp|sctp)://\S*", re.IGNORECASE)
YES, NO = ("1", "true", "yes", "on"), ("0", "false", "no", "off")


def read_variable(name: str, environment: Mapping[str, str] = os.environ) -> str | None:
    """Return the value of a variable; None if it is not set, or empty."""
    value = environment.get(name, "")
    return value if value.strip() else None


def read_integer(name: str, default: int, environment: Mapping[str, str] = os.environ) -> int:
    """Return the whole number that a variable holds, or `default` if it is not set.

    Raises:
        SettingError: the value is no whole number.
    """
    value = read_variable(name, environment)
    return default if value is None else to_integer(value, name)


def to_integer(text: str, name: str) -> int:
    """Convert the value of the variable `name`; raise SettingError if it is no whole number."""
    try:
        return int(text)
    except ValueError as error:
        raise SettingError(f"The environment variable {name} is {text!r}; it should be a whole number.") from error


def to_number(text: str, name: str) -> float:
    """Convert the value of the variable `name`; raise SettingError if it is no number."""
    try:
        return float(text)
    except ValueError as error:
        raise SettingError(f"The environment variable {name} is {text!r}; it should be a number.") from error


def to_boolean(text: str, name: str) -> bool:
    """Convert the value of the variable `name`; raise SettingError unless it is a word of `YES` or `NO`."""
    word = text.strip().lower()
    if word not in YES + NO:
        allowed = ", ".join(f"{yes} or {no}" for yes, no in zip(YES, NO, strict=True))
        raise SettingError(f"The environment variable {name} is {text!r}; it should be {allowed}.")
    return word in YES


def is_service_link(value: str) -> bool:
    """Return whether a value is the address that Kubernetes or Docker set for a service, not a setting of ours."""
    return SERVICE_LINK.fullmatch(value.strip()) is not None


def service_link_note(name: str, value: str) -> str:
    """Return the note that `value`, an address of a service, is ignored."""
    return f"The environment variable {name} is ignored: {value} is a service's address, set by Kubernetes or Docker."


def expand_home(path: str | os.PathLike[str]) -> Path:
    """Expand a leading ~; return the path unchanged if the home directory is unknown."""
    try:
        return Path(path).expanduser()
    except RuntimeError:  # neither HOME nor an entry in the password file
        return Path(path)
