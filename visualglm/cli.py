"""The console program: `visualglm COMMAND ...`, in any directory. A command's program is imported when it is called."""

import difflib
import shlex
import sys
from importlib import import_module
from importlib.metadata import PackageNotFoundError, distribution
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parents[1]  # the directory that holds our packages
PACKAGES = ("model", "finetune")
DONE, FAILED, MISUSED = 0, 1, 2  # exit codes, as in model.command_line, which needs torch


class Command(NamedTuple):
    """A subcommand.

    Attributes:
        module: its `main` runs the program on the arguments in `sys.argv` and returns the exit code.
        help: one line.
        extra: optional dependencies of this project that it needs, "" for none.
        needs: modules of these dependencies.
    """

    module: str
    help: str
    extra: str = ""
    needs: tuple[str, ...] = ()


COMMANDS = {
    "chat": Command("visualglm.terminal.program", "chat about a picture in the terminal"),
    "web": Command("visualglm.web.program", "chat on a web page", "web", ("gradio",)),
    "serve": Command(
        "visualglm.server.program",
        "serve the HTTP API",
        "serve",
        ("fastapi", "fastapi_offline", "uvicorn", "prometheus_client"),
    ),
    "finetune": Command("finetune.__main__", "fine-tune a model on your own pictures", "train", ("sat",)),
    "check-data": Command("finetune.check", "check a file of training data"),
    "merge": Command("finetune.merge", "merge a fine-tune into a whole model, or convert its LoRA", "train", ("sat",)),
    "compare": Command("finetune.compare", "compare the answers of two models side by side", "sat", ("sat",)),
    "convert": Command("model.checkpoint.convert", "convert a model between the SAT and the Hugging Face format"),
}


def main() -> int:
    """Run the command that the command line names; return the exit code."""
    name = sys.argv[1] if len(sys.argv) > 1 else ""
    if name in ("-h", "--help"):
        print(describe_commands())
        return DONE
    if name not in COMMANDS:
        return report_unknown_command(name)
    sys.argv[:2] = [f"visualglm {name}"]
    return start(name)


def start(name: str, **settings: Any) -> int:
    """Run the program of a command on the arguments in `sys.argv`; return the exit code.

    Args:
        settings: keyword arguments of the program's `main`.
    """
    command = COMMANDS[name]
    problem = find_shadowing_module() or find_missing_modules(command)
    if problem:
        print(f"error: {problem}", file=sys.stderr)
        return FAILED
    return int(import_module(command.module).main(**settings))


def describe_commands() -> str:
    """Return the text of --help."""
    width = max(map(len, COMMANDS))
    lines = [f"  {name:{width}}  {command.help}" for name, command in COMMANDS.items()]
    return "\n".join(
        [
            "usage: visualglm COMMAND ...",
            "",
            "Chat with VisualGLM about a picture, and what goes with it.",
            "",
            *lines,
            "",
            "visualglm COMMAND --help explains the options of a command.",
        ]
    )


def report_unknown_command(name: str) -> int:
    """Print what is wrong with the name of a command; return the exit code."""
    print("usage: visualglm COMMAND ...", file=sys.stderr)
    close = difflib.get_close_matches(name, COMMANDS, 1)
    advice = f"Did you mean {close[0]}?" if close else f"Give one of: {', '.join(COMMANDS)}."
    reason = f"There is no command {name!a}." if name else "A command is missing."
    print(f"error: {reason} {advice}", file=sys.stderr)
    return MISUSED


def find_shadowing_module() -> str:
    """Return what to do about a module of the user's that is found in place of a package of ours; "" if none is.

    `python -m visualglm` looks for modules in the working directory first, and all programs do so in PYTHONPATH.
    """
    for name in PACKAGES:
        spec = find_spec(name)
        if spec is None or spec.origin is None:
            return f"The package {name} is not in {str(ROOT)!a}. Install VisualGLM again."
        found = Path(spec.origin).resolve()
        if found.parent != ROOT / name:
            return (
                f"Python finds {str(found)!a} in place of VisualGLM's own package {name}. Rename that file, or "
                "start the program `visualglm` in place of `python -m visualglm`, without that directory in PYTHONPATH."
            )
    return ""


def find_missing_modules(command: Command) -> str:
    """Return how to install what a command needs and lacks; "" if it lacks nothing."""
    absent = [name for name in command.needs if find_spec(name) is None]
    if not absent:
        return ""
    return f"{', '.join(absent)} cannot be imported. Install what is needed: {install_command(command.extra)}"


def install_command(extra: str) -> str:
    """Return the command that installs this project with optional dependencies."""
    try:
        distribution("visualglm")
    except PackageNotFoundError:  # a checkout that was not installed
        return f"pip install {shlex.quote(f'{ROOT}[{extra}]')}"
    return f"pip install {shlex.quote(f'visualglm[{extra}]')}"
