"""The console program `visualglm COMMAND ...`. It imports a command's module only when the command runs."""

import difflib
import shlex
import sys
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parents[1]  # the directory of the project's packages
PACKAGES = ("model", "finetune")
DONE, FAILED, MISUSED = 0, 1, 2  # exit codes, as in model.command_line, whose import needs torch


class Command(NamedTuple):
    """A subcommand.

    Attributes:
        module: its function `main` runs the program with the arguments in `sys.argv` and returns the exit code.
        help: one line.
        extra: the project's extra (optional dependencies) that the command requires, "" for none.
        needs: modules of the extra that must be importable.
    """

    module: str
    help: str
    extra: str = ""
    needs: tuple[str, ...] = ()


COMMANDS = {
    "chat": Command("visualglm.terminal.program", "chat about images in the terminal"),
    "web": Command("visualglm.web.program", "chat about images on a web page", "web", ("gradio",)),
    "serve": Command(
        "visualglm.server.program",
        "serve the HTTP API",
        "serve",
        ("fastapi", "fastapi_offline", "uvicorn", "prometheus_client"),
    ),
    "batch": Command("visualglm.batch.program", "answer questions about many images"),
    "mcp": Command("visualglm.mcp.program", "offer the model as an MCP tool over stdio", "mcp", ("mcp",)),
    "evaluate": Command("visualglm.evaluation.program", "evaluate a model on questions about images"),
    "finetune": Command("finetune.__main__", "fine-tune a model on your own images", "train", ("sat",)),
    "again": Command("finetune.again", "repeat a fine-tuning with its recorded settings", "train", ("sat",)),
    "check-data": Command("finetune.check", "check a file of training data"),
    "plot": Command("finetune.plot", "draw the curves of one or more trainings"),
    "merge": Command(
        "finetune.merge", "merge a fine-tuned adapter into its base model, or convert its LoRA", "train", ("sat",)
    ),
    "compare": Command("finetune.compare", "compare the answers of two models", "sat", ("sat",)),
    "convert": Command("model.checkpoint.convert", "convert a model between the SAT and the Hugging Face format"),
}


def main() -> int:
    """Run the command that the command line names; return its exit code."""
    name = sys.argv[1] if len(sys.argv) > 1 else ""
    if name in ("-h", "--help"):
        print(describe_commands())
        return DONE
    if name not in COMMANDS:
        return report_unknown_command(name)
    sys.argv[:2] = [f"visualglm {name}"]
    return start(name)


def start(name: str, **settings: Any) -> int:
    """Run the program of a command with the arguments in `sys.argv`; return its exit code.

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
            "Chat with VisualGLM about images, serve it, fine-tune it, and convert models.",
            "",
            *lines,
            "",
            "Run `visualglm COMMAND --help` for the options of a command.",
        ]
    )


def report_unknown_command(name: str) -> int:
    """Print an error for a missing or unknown command; return the exit code."""
    print("usage: visualglm COMMAND ...", file=sys.stderr)
    close = difflib.get_close_matches(name, COMMANDS, 1)
    advice = f"Did you mean {close[0]}?" if close else f"Give one of: {', '.join(COMMANDS)}."
    reason = f"There is no command {name!a}." if name else "A command is missing."
    print(f"error: {reason} {advice}", file=sys.stderr)
    return MISUSED


def find_shadowing_module() -> str:
    """Return an error message if a user's module shadows a package of the project, else "".

    `python -m visualglm` searches the working directory first, and all programs search the folders in PYTHONPATH.
    """
    for name in PACKAGES:
        spec = find_spec(name)
        if spec is None or spec.origin is None:
            return f"The package {name} is missing from {str(ROOT)!a}. Install VisualGLM again."
        found = Path(spec.origin).resolve()
        if found.parent != ROOT / name:
            return (
                f"{str(found)!a} shadows VisualGLM's package {name}. Rename that file, or run `visualglm` instead of "
                "`python -m visualglm`, without that directory in PYTHONPATH."
            )
    return ""


def find_missing_modules(command: Command) -> str:
    """Return an error message that says how to install a command's missing modules, "" if none is missing."""
    absent = [name for name in command.needs if find_spec(name) is None]
    if not absent:
        return ""
    return f"{', '.join(absent)} cannot be imported. To install the missing packages: {install_command(command.extra)}"


def install_command(extra: str) -> str:
    """Return the shell command that installs the project with an extra."""
    from importlib.metadata import PackageNotFoundError, distribution  # slow to import

    try:
        distribution("visualglm")
    except PackageNotFoundError:  # the project runs from a checkout
        return f"pip install {shlex.quote(f'{ROOT}[{extra}]')}"
    return f"pip install {shlex.quote(f'visualglm[{extra}]')}"
