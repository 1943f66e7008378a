"""Recipes: YAML files with the settings of a training, whose keys are the names of its flags."""

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, get_args, get_type_hints

from model.command_line import normalize_option
from model.errors import SettingError
from model.settings_file import check_keys, key_name, read_yaml, write_yaml

from .config import METHODS, TrainingConfig

NOT_IN_RECIPES = ("help", "config", "print_config")
KINDS: dict[Any, str] = {int: "a whole number", float: "a number", bool: "true or false"}


def read_recipe(path: Path, parser: argparse.ArgumentParser) -> dict[str, Any]:
    """Read a recipe; return the values of its flags, by the names of the settings.

    Relative paths in a recipe are relative to the working directory, like those on the command line. A key without a
    value keeps the default.

    Raises:
        SettingError: the file cannot be read, is not YAML, has an unknown key, or a key with a wrong value.
    """
    data, place = read_yaml(path), f"the recipe {str(path)!r}"
    actions = actions_by_key(parser)
    check_keys(data, [*actions], place)
    values: dict[str, Any] = {}
    for key, value in data.items():
        action = actions[key_name(str(key))]
        if action.dest in values:
            raise SettingError(f"{key!r} is given twice in {place}. Remove one of the two.")
        if value is not None:
            values[action.dest] = convert(action, value, f"{key!r} in {place}")
    return values


def actions_by_key(parser: argparse.ArgumentParser) -> dict[str, argparse.Action]:
    """Return the flag of each key that a recipe may have."""
    return {
        key_name(normalize_option(option)[2:]): action
        for action in parser._actions
        for option in action.option_strings
        if action.dest not in NOT_IN_RECIPES and option.startswith("--") and not is_negation(action, option)
    }


def is_negation(action: argparse.Action, option: str) -> bool:
    """Return whether an option is the `--no-...` of a flag."""
    return isinstance(action, argparse.BooleanOptionalAction) and option.startswith("--no-")


def convert(action: argparse.Action, value: Any, place: str) -> Any:
    """Return the value of a flag, converted as on the command line.

    Args:
        place: names the key in the error message.

    Raises:
        SettingError: the flag cannot have this value.
    """
    if action.nargs == 0:
        return convert_single(bool, value, place)
    if action.nargs == "?" and value is True:
        return action.const
    if action.nargs not in ("+", "*"):
        return convert_single(action.type or str, value, place, action.choices)
    items = value if isinstance(value, list) else [value]
    if not items and action.nargs == "+" and action.default != ():
        raise SettingError(f"{place} is empty; it should have at least one value.")
    return [convert_single(action.type or str, item, place, action.choices) for item in items]


def convert_single(kind: Any, value: Any, place: str, choices: Any = None) -> Any:
    """Return a single value, converted to `kind` and one of the choices.

    Raises:
        SettingError: the value cannot be converted, or is none of the choices.
    """
    wanted = f"one of {', '.join(map(str, choices))}" if choices else KINDS.get(kind, "a text")
    is_wrong = isinstance(value, list | Mapping) or isinstance(value, bool) != (kind is bool)
    try:
        if is_wrong or (kind is int and isinstance(value, float)):
            raise ValueError
        converted = kind(value if kind in KINDS else str(value))  # PyYAML reads 1e-4 as a text
        if choices and converted not in choices:
            raise ValueError
    except (ValueError, TypeError):
        raise SettingError(f"{place} is {value!r}; it should be {wanted}.") from None
    return converted


def apply_recipe(parser: argparse.ArgumentParser, path: Path, given: argparse.Namespace) -> None:
    """Make the values of a recipe the defaults of a parser.

    Args:
        given: the flags of the command line. A method among them replaces that of the recipe.

    Raises:
        SettingError: the recipe is invalid.
    """
    values = read_recipe(path, parser)
    if any(getattr(given, method) for method in METHODS):
        values = {name: value for name, value in values.items() if name not in METHODS}
    parser.set_defaults(**values)
    for action in parser._actions:
        action.required = action.required and action.dest not in values


def plain_settings(config: TrainingConfig) -> dict[str, Any]:
    """Return the settings as plain values, which JSON and YAML can hold."""
    return {item.name: to_plain(getattr(config, item.name)) for item in fields(TrainingConfig)}


def to_plain(value: Any) -> Any:
    """Return a setting's value with paths as text and sequences as lists."""
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [to_plain(item) for item in value]
    return value


def from_plain(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments of `TrainingConfig` for plain settings; the reverse of `plain_settings`.

    Raises:
        SettingError: there is an unknown setting.
    """
    types = get_type_hints(TrainingConfig)
    unknown = [name for name in settings if name not in types]
    if unknown:
        raise SettingError(f"The setting {unknown[0]!r} is unknown to this version. Use the version that recorded it.")
    return {name: to_paths(value) if has_paths(types[name]) else value for name, value in settings.items()}


def has_paths(kind: Any) -> bool:
    """Return whether a setting's type contains Path."""
    return kind is Path or any(has_paths(part) for part in get_args(kind))


def to_paths(value: Any) -> Any:
    """Return a text as a path, and each text of a list."""
    if isinstance(value, list):
        return [Path(item) for item in value]
    return None if value is None else Path(value)


def format_recipe(config: TrainingConfig, parser: argparse.ArgumentParser, **more: Any) -> str:
    """Return the recipe of the settings: YAML that `read_recipe` reads, with the names of the flags as keys.

    Args:
        more: entries that are no settings of a single training.
    """
    names = {action.dest: action.option_strings[0][2:] for action in parser._actions if action.option_strings}
    return write_yaml({names[name]: value for name, value in {**plain_settings(config), **more}.items()})
