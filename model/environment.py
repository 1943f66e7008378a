"""Read environment variables and the home directory, which containers and service managers may not set."""

import os
import re
from collections.abc import Mapping
from pathlib import Path

from .errors import SettingError

# Kubernetes and Docker set such variables for a linked service: VISUALGLM_PORT=tcp://10.0.0.7:8080.
SERVICE_LINK = re.compile(r"(tcp|udp|sctp)://\S*", re.IGNORECASE)
YES, NO = ("1", "true", "yes", "on"), ("0", "false", "no", "off")


def read_variable(name: str, environment: Mapping[str, str] = os.environ) -> str | None:
    """Return the value of an environment variable; None if it is unset or blank."""
    value = environment.get(name, "")
    return value if value.strip() else None


def read_integer(name: str, default: int, environment: Mapping[str, str] = os.environ) -> int:
    """Return the integer value of an environment variable, or `default` if it is unset.

    Raises:
        SettingError: the value is not an integer.
    """
    value = read_variable(name, environment)
    return default if value is None else to_integer(value, name)


def to_integer(text: str, name: str) -> int:
    """Convert the value of variable `name` to int; raise SettingError if it is not an integer."""
    try:
        return int(text)
    except ValueError as error:
        raise SettingError(f"The environment variable {name} is {text!r}; it should be an integer.") from error


def to_number(text: str, name: str) -> float:
    """Convert the value of variable `name` to float; raise SettingError if it is not a number."""
    try:
        return float(text)
    except ValueError as error:
        raise SettingError(f"The environment variable {name} is {text!r}; it should be a number.") from error


def to_boolean(text: str, name: str) -> bool:
    """Convert the value of variable `name` to bool; raise SettingError unless it is in `YES` or `NO`."""
    word = text.strip().lower()
    if word not in YES + NO:
        allowed = ", ".join(f"{yes} or {no}" for yes, no in zip(YES, NO, strict=True))
        raise SettingError(f"The environment variable {name} is {text!r}; it should be {allowed}.")
    return word in YES


def is_service_link(value: str) -> bool:
    """Return whether a value is a service address set by Kubernetes or Docker, not a setting."""
    return SERVICE_LINK.fullmatch(value.strip()) is not None


def service_link_note(name: str, value: str) -> str:
    """Return the note that variable `name` is ignored because `value` is a service address."""
    return f"The environment variable {name} is ignored: {value} is a service address set by Kubernetes or Docker."


def expand_home(path: str | os.PathLike[str]) -> Path:
    """Expand a leading ~; return the path unchanged if the home directory is unknown."""
    try:
        return Path(path).expanduser()
    except RuntimeError:  # neither HOME nor an entry in the password file
        return Path(path)
