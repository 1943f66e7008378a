"""Draw the curves of one or more trainings: losses, learning rate and metrics by step.

python -m finetune.plot checkpoints/RUN checkpoints/OTHER --output curves.html
"""

import argparse
import html
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from model.command_line import ArgumentParser, print_text, run_program
from model.errors import SettingError
from model.file_writing import write_text_atomically
from model.html_page import format_page, format_table

from .curves import Panel, draw_figure, draw_separately
from .run_curves import curves_of_run, curves_of_runs, drawn_keys, number_lines
from .run_log import LOG_NAME, RunLog, find_run, read_run_log

DEFAULT_OUTPUT = Path("curves.svg")
SVG, HTML = ".svg", ".html"  # formats by the end of the file's name


def parse_arguments(arguments: Sequence[str] | None = None) -> dict[str, Any]:
    """Parse the command line."""
    parser = ArgumentParser(
        prog="python -m finetune.plot", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="directory of a fine-tuning run")
    help_ = f"file to write, an image ({SVG}) or a page ({HTML}) (default %(default)s)"
    parser.add_argument("--output", type=Path, default=DEFAULT_OUTPUT, metavar="FILE", help=help_)
    return vars(parser.parse_args(arguments))


def run(runs: Sequence[Path], output: Path) -> None:
    """Draw the curves of the runs, write them, and print the file's name.

    Raises:
        SettingError: a path is no run, a run has no numbers yet, or the file cannot be written.
    """
    if output.suffix.lower() not in (SVG, HTML):
        raise SettingError(f"--output {output} should end with {SVG} or {HTML}, which chooses the format.")
    found = {run.resolve(): run for run in map(find_run, runs)}  # each run once
    logs = [read_run_log(run) for run in found.values()]
    for log in logs:
        if not drawn_keys([log]):
            raise SettingError(f"{log.run / LOG_NAME} has no numbers yet. Train for at least --log-interval steps.")
    names = name_runs([log.run for log in logs])
    legend, panels = curves_of_run(logs[0]) if len(logs) == 1 else curves_of_runs(logs, names)
    if output.suffix.lower() == SVG:
        content = draw_figure(f"Curves of {', '.join(names)}", legend, panels)
    else:
        content = format_runs(logs, names, legend, panels)
    try:
        write_text_atomically(output, content)
    except OSError as error:
        raise SettingError(f"--output {output} cannot be written: {error.strerror}. Choose another file.") from error
    print_text(f"Curves: {output}")


def name_runs(runs: Sequence[Path]) -> list[str]:
    """Return the directory's name for each run, or its path if several directories have this name."""
    names = [run.resolve().name for run in runs]
    return [name if names.count(name) == 1 else str(run) for name, run in zip(names, runs, strict=True)]


def format_runs(logs: Sequence[RunLog], names: Sequence[str], legend: Sequence[str], panels: Sequence[Panel]) -> str:
    """Return a page with the curves, and the last and the best numbers of each run."""
    figures = [draw_separately(legend, panels)]
    for log, name in zip(logs, names, strict=True):
        figures += [f"<h2>{html.escape(name)}</h2>", format_table(number_lines(log))]
    return format_page("Curves of trainings", figures=figures, language="en")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return its exit code."""
    return run_program(lambda: run(**parse_arguments(arguments)))


if __name__ == "__main__":
    sys.exit(main())
