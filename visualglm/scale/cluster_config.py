"""The number and resources of replicas, from the command line or from a YAML file."""

import math
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from model import SettingError
from model.command_line import ArgumentParser
from model.settings_file import check_keys, key_name, read_yaml
from visualglm.arguments import add_model_arguments
from visualglm.server.settings import Settings, flag_name

LANGUAGE_NAMES = ("english", "chinese")


@dataclass(frozen=True, kw_only=True)
class ClusterSettings:
    """The number and resources of replicas.

    Attributes:
        replicas: number of model replicas; with autoscaling, the number at the start.
        min_replicas, max_replicas: limits of autoscaling; None for a fixed number of replicas.
        target_answers: running and waiting answers per replica that autoscaling aims at; None for the batch size.
        gpus, cpus: of each model replica.
        http_replicas: number of HTTP applications in front of the model replicas.
        update_percentage: share of the replicas that a rolling update replaces at the same time.

    Raises:
        SettingError: a value is invalid.
    """

    replicas: int = 1
    min_replicas: int | None = None
    max_replicas: int | None = None
    target_answers: float | None = None
    gpus: float = 0.0
    cpus: float = 1.0
    http_replicas: int = 1
    update_percentage: float = 20.0

    def __post_init__(self) -> None:
        for item in fields(self):
            value = getattr(self, item.name)
            minimum = 0 if item.name in ("gpus", "cpus") else 1
            if value is None:
                continue
            whole = item.name.endswith("replicas")
            if isinstance(value, bool) or not isinstance(value, int if whole else int | float) or value < minimum:
                kind = "a whole number" if whole else "a number"
                raise SettingError(f"{key_name(item.name)} is {value!r}; it should be {kind} of at least {minimum}.")
        if (self.min_replicas is None) != (self.max_replicas is None):
            raise SettingError("min-replicas and max-replicas belong together; give both, or replicas alone.")
        if self.min_replicas is not None and self.max_replicas is not None and self.min_replicas > self.max_replicas:
            raise SettingError(f"min-replicas is {self.min_replicas}, more than max-replicas ({self.max_replicas}).")

    @property
    def most_replicas(self) -> int:
        """Maximum number of model replicas."""
        return self.max_replicas or self.replicas

    def settings_of_each(self, settings: Settings) -> Settings:
        """Return the settings of each HTTP application, so that all together keep the server's limits.

        The batch size is that of a model replica; the queue and the limit of a key are those of the whole.
        """
        share = self.http_replicas
        return replace(
            settings,
            max_batch=math.ceil(settings.max_batch * self.most_replicas / share),
            max_queue=math.ceil(settings.max_queue / share),
            max_per_key=math.ceil(settings.max_per_key / share),
        )


def read_cluster_file(path: Path) -> tuple[list[str], dict[str, Any]]:
    """Read a YAML file; return its flags for the command line and its values for `ClusterSettings`.

    Raises:
        SettingError: the file cannot be read, is not YAML, or has an unknown key.
    """
    data = read_yaml(path)
    sections = {"model": model_flags(), "server": server_flags()}
    own = {key_name(item.name): item.name for item in fields(ClusterSettings)}
    check_keys(data, [*sections, *own], "the file")
    words: list[str] = []
    for section, flags in sections.items():
        given = data.get(section, {})
        check_keys(given, [*flags], f"the section {section!r}")
        for key, value in given.items():
            words += to_words(key, flags[key_name(key)], value)
    return words, {own[key_name(key)]: value for key, value in data.items() if key not in sections}


def model_flags() -> dict[str, str]:
    """Return the flag for each key of the section `model`."""
    parser = ArgumentParser()
    add_model_arguments(parser)
    names = [key_name(name) for name in vars(parser.parse_args([])) if name != "language"]
    return {name: f"--{name}" for name in (*names, *LANGUAGE_NAMES)}


def server_flags() -> dict[str, str]:
    """Return the flag for each key of the section `server`."""
    flags = [flag_name(item) for item in fields(Settings)]
    return {flag.removeprefix("--"): flag for flag in flags}


def to_words(key: str, flag: str, value: object) -> list[str]:
    """Return the words of the command line for a key with its value.

    Raises:
        SettingError: the value has no form on a command line.
    """
    if isinstance(value, bool):
        return [flag] if value else []
    if isinstance(value, list) and value:
        return [f"{flag}={item}" for item in value]
    if isinstance(value, str | int | float):
        return [f"{flag}={value}"]
    raise SettingError(f"The value of {key!r} should be a text, a number, true, false or a list.")
