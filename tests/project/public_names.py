"""The public interface: names, keywords and flags, as listed in tests/project/public_names.json.

    python -m tests.project.public_names        # adds new entries; never removes any

This writes `modules`, `signatures` and `programs`; the other entries are edited by hand. `moved` maps a module that
cannot be imported by its former path to its current path. `gone` maps a removed module (`a.b`) or name (`a.b:name`) to
the reason.
"""

import argparse
import ast
import importlib
import inspect
import io
import json
import runpy
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest import mock

from model.aliases import FormerAttribute

ROOT = Path(__file__).parents[2]
LIST = Path(__file__).with_name("public_names.json")
PACKAGES = ("model", "finetune", "terminal", "web", "serving", "visualglm")
SCRIPTS = ("cli_demo", "cli_demo_hf", "web_demo", "web_demo_hf", "api", "api_hf")
COMMANDS = (
    "model.checkpoint.convert",
    "finetune.again",
    "finetune.compare",
    "finetune.data",
    "finetune.merge",
    "finetune.plot",
    "tiny.dialogues",
    "tiny.evaluate",
    "tiny.fewshot",
    "tiny.probe",
    "tiny.train",
)
PROGRAMS = (*(f"{name}.py" for name in SCRIPTS), "finetune/finetune_visualglm.py", *(f"-m {name}" for name in COMMANDS))
# Modules whose signatures are listed, and names; None for all in `__all__`.
ENTRY_POINTS: dict[str, tuple[str, ...] | None] = {
    "model": None,
    "model.checkpoint": None,
    "model.checkpoint.convert": ("convert", "main"),
    "model.generation": ("Scheduler", "generate", "generate_all"),
    "model.hf": None,
    "model.hf.export": ("export_code", "refresh_code"),
    "model.image": ("ImageLimits", "load_image", "preprocess"),
    "model.quantization.quantize": ("quantize",),
    "model.quantization.saving": ("save_quantized",),
    "finetune.finetune_visualglm": ("main",),
    "finetune.data": ("ChatDataset",),
    "finetune.merge": ("main", "merge"),
    "finetune.compare": ("main",),
    "finetune.check": ("main",),
    "serving": None,
    "cli_demo": ("main",),
    "web_demo": ("main",),
    "api": ("main",),
}


class NotInstalledError(Exception):
    """A module needs a library that is not installed."""


class ParserFoundError(BaseException):
    """Ends a program when it is about to print its help."""

    def __init__(self, parser: argparse.ArgumentParser) -> None:
        super().__init__()
        self.parser = parser


def read_list() -> dict[str, Any]:
    """Read the listed names."""
    content: dict[str, Any] = json.loads(LIST.read_text(encoding="utf-8"))
    return content


def current_path(name: str, moved: dict[str, str]) -> str:
    """Return the current path of a module, if `moved` lists it or its package."""
    package, _, rest = name.rpartition(".")
    return moved[name] if name in moved else f"{current_path(package, moved)}.{rest}" if package else name


def import_former(name: str, moved: dict[str, str]) -> ModuleType:
    """Import a module by its listed path, or by its current one.

    Raises:
        ModuleNotFoundError: the module does not exist.
        NotInstalledError: it needs a library that is not installed.
    """
    current = current_path(name, moved)
    for path in dict.fromkeys((name, current)):
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                return importlib.import_module(path)
        except ModuleNotFoundError as error:
            missing = str(error.name)
            if missing.split(".")[0] not in (*PACKAGES, *SCRIPTS):
                raise NotInstalledError(missing) from error
            if path == current:
                raise
    raise AssertionError("unreachable")


def find_current(name: str, moved: dict[str, str]) -> str | None:
    """Return the current path of a listed module; None if it does not exist or cannot be imported."""
    try:
        return import_former(name, moved).__name__
    except (ModuleNotFoundError, NotInstalledError):
        return None


def list_modules() -> Iterator[str]:
    """Yield the path of every module of the packages."""
    for package in PACKAGES:
        for file in sorted((ROOT / package).rglob("*.py")):
            parts = file.relative_to(ROOT).with_suffix("").parts
            yield ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def list_names(module: str) -> list[str]:
    """Return the public names that a module defines, or that a package's `__all__` lists."""
    file = ROOT.joinpath(*module.split("."))
    source = file / "__init__.py" if file.is_dir() else file.with_suffix(".py")
    names: set[str] = set()
    for node in ast.parse(source.read_text(encoding="utf-8")).body:
        match node:
            case ast.ClassDef() | ast.FunctionDef() | ast.AsyncFunctionDef():
                names.add(node.name)
            case ast.Assign():
                names.update(
                    part.id for target in node.targets for part in ast.walk(target) if isinstance(part, ast.Name)
                )
            case ast.AnnAssign(target=ast.Name(id=name)):
                names.add(name)
    with_all = "__all__" in names
    return sorted({name for name in names if not name.startswith("_")} | set(_read_all(module) if with_all else ()))


def _read_all(module: str) -> list[str]:
    return list(import_former(module, {}).__all__)


def describe_signature(function: Any, is_method: bool = False) -> list[str]:
    """Return a function's parameter names, with `*` before keyword-only ones; former names as `new/former`."""
    source = function.__init__ if inspect.isclass(function) else function
    parameters = list(inspect.signature(function).parameters.values())[is_method:]
    former = {new: old for old, new in getattr(source, "former_keywords", {}).items()}
    words: list[str] = []
    for parameter in parameters:
        if parameter.kind is parameter.KEYWORD_ONLY and not any(word.startswith("*") for word in words):
            words.append("*")
        stars = {parameter.VAR_POSITIONAL: "*", parameter.VAR_KEYWORD: "**"}.get(parameter.kind, "")
        words.append("/".join([stars + parameter.name, *filter(None, [former.get(parameter.name)])]))
    return words


def list_members(cls: type) -> Iterator[tuple[str, Any]]:
    """Yield the public attributes of `cls` that our classes define, by name."""
    ours = [base for base in cls.__mro__ if base.__module__.split(".")[0] in PACKAGES]
    for name in sorted({name for base in ours for name in vars(base) if not name.startswith("_")}):
        yield name, inspect.getattr_static(cls, name)


def describe(name: str, value: Any) -> Iterator[tuple[str, list[str] | None]]:
    """Yield (name, signature) of a function, or of a class and its members; the signature is None if not callable."""
    if inspect.isclass(value):
        words = None if issubclass(value, BaseException) else describe_signature(value)
        yield name, words
        for member, found in list_members(value):
            if member in (words or ()):  # a field of a dataclass
                continue
            yield from _describe_member(f"{name}.{member}", value, member, found)
    else:
        yield name, describe_signature(value) if inspect.isroutine(value) else None


def _describe_member(name: str, cls: type, member: str, found: Any) -> Iterator[tuple[str, list[str] | None]]:
    if isinstance(found, FormerAttribute):
        found = inspect.getattr_static(cls, member := found.current, None)  # None: set in __init__
    if isinstance(found, classmethod | staticmethod):
        yield name, describe_signature(getattr(cls, member))
    else:
        yield name, describe_signature(found, is_method=True) if inspect.isroutine(found) else None


def describe_entry_point(entry_point: str, moved: dict[str, str], names: Any = None) -> dict[str, list[str] | None]:
    """Return the signatures of the names that can be imported from a module."""
    module = import_former(entry_point, moved)
    return {
        key: words for name in names or module.__all__ for key, words in describe(str(name), getattr(module, str(name)))
    }


@contextmanager
def command_line(*words: str) -> Iterator[None]:
    """Set the command line and the import path of a program."""
    with (
        mock.patch.object(sys, "argv", list(words)),
        mock.patch.object(sys, "path", [str(ROOT), *sys.path]),
        warnings.catch_warnings(),
    ):
        warnings.simplefilter("ignore")  # the module is imported already
        yield


def find_parser(program: str) -> argparse.ArgumentParser:
    """Return a program's argument parser."""

    def print_help(parser: argparse.ArgumentParser, file: Any = None) -> None:
        raise ParserFoundError(parser)

    name = program.removeprefix("-m ")
    with (
        mock.patch.object(argparse.ArgumentParser, "print_help", print_help),
        command_line(name, "--help"),
        redirect_stdout(io.StringIO()),
        redirect_stderr(io.StringIO()),
    ):
        try:
            if program.startswith("-m "):
                runpy.run_module(name, run_name="__main__")
            else:
                runpy.run_path(str(ROOT / name), run_name="__main__")
        except ParserFoundError as found:
            return found.parser
    raise AssertionError(f"{program} printed no help")


def describe_parser(parser: argparse.ArgumentParser) -> dict[str, list[Any]]:
    """Return the choices of every flag, by its spellings, and of every argument, in angle brackets."""
    described: dict[str, list[Any]] = {}
    for action in parser._actions:
        for spelling in action.option_strings or [f"<{action.dest}>"]:
            described[spelling] = [] if action.choices is None else list(action.choices)
    return described


def update(listed: dict[str, Any]) -> None:
    """Add new names to the list."""
    moved = listed.setdefault("moved", {})
    listed.setdefault("gone", {})
    former = {find_current(name, moved): name for name in listed.setdefault("modules", {})}
    for name in list_modules():
        if former.get(name, name) == name:  # a moved module stays listed under its former path only
            listed["modules"][name] = sorted({*listed["modules"].get(name, []), *list_names(name)})
    for entry_point, names in ENTRY_POINTS.items():
        known = listed.setdefault("signatures", {}).setdefault(entry_point, {})
        known.update(
            {key: words for key, words in describe_entry_point(entry_point, moved, names).items() if key not in known}
        )
    for program in PROGRAMS:
        flags = listed.setdefault("programs", {}).setdefault(program, {})
        flags.update(
            {flag: choices for flag, choices in describe_parser(find_parser(program)).items() if flag not in flags}
        )


def main() -> None:
    """Update the list."""
    listed = read_list() if LIST.is_file() else {}
    update(listed)
    LIST.write_text(to_lines(listed), encoding="utf-8")


def to_lines(value: Any, depth: int = 0) -> str:
    """Return JSON with one line per entry of the outer three levels."""
    if depth == 3 or not isinstance(value, dict) or not value:
        return json.dumps(value, ensure_ascii=False)
    blank = " " * (depth + 1)
    inner = [
        f"{blank}{json.dumps(key, ensure_ascii=False)}: {to_lines(item, depth + 1)}" for key, item in value.items()
    ]
    return "{\n" + ",\n".join(inner) + "\n" + " " * depth + "}" + ("" if depth else "\n")


if __name__ == "__main__":
    main()
