"""Answer questions about many images: a folder, or the rows of a file.

visualglm batch --from_pretrained visualglm-tiny --input images/ --output answers.jsonl --question "What is this?"

Each answer is a line of JSON in the output. A stopped or killed run goes on with the same command: no row is answered
twice, none is left out.
"""

import argparse
import sys
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from model import DEMO, SettingError
from model.command_line import FAILURE, SUCCESS, ArgumentParser, print_text, run_program
from visualglm.arguments import add_model_arguments, check_model, choose_loader, loading_bar
from visualglm.scale.batch_arguments import add_ray_arguments, check_ray_arguments, choose_cluster

from .rows import Columns, Input
from .tasks import Backend, Result, Settings, Task

if TYPE_CHECKING:  # imports torch
    from .work import Answerer

LOADING = ("base", "device", "dtype", "quant", "quant_vision", "quant_embeddings")


def parse_arguments() -> argparse.Namespace:
    """Parse the command line."""
    parser = ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_model_arguments(parser)
    add_input_arguments(parser)
    add_work_arguments(parser)
    add_ray_arguments(parser)
    DEMO.add_arguments(parser)
    parser.add_argument("--max_new_tokens", type=int, help="maximum tokens of the answer (default: max_length alone)")
    options = parser.parse_args()
    check_arguments(options, parser.error)
    return options


def add_input_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of the input and the output."""
    group = parser.add_argument_group("input and output")
    add = group.add_argument
    add("--input", required=True, metavar="PATH", help="folder, or .jsonl, .json, .csv, .tsv or .parquet file")
    add("--output", metavar="FILE", help="file of JSON lines; it is continued if it holds answers")
    add("--question", action="append", default=[], help="asked about each image; may be given several times")
    add("--image-column", metavar="NAME", help="column of paths or URLs of images (default: image or img)")
    add(
        "--question-column",
        metavar="NAME",
        help="column of each row's own question (default without --question: question or prompt)",
    )
    add("--id-column", metavar="NAME", help="column that identifies a row (default: id, else the row's number)")


def add_work_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags for the number of rows, bad rows, the batch size and the devices."""
    group = parser.add_argument_group("work")
    add = group.add_argument
    add("--limit", type=int, metavar="N", help="answer the first N rows only")
    add("--skip-bad", action="store_true", help="leave out rows that cannot be answered, and list them in a file")
    add("--dry-run", action="store_true", help="check the rows, answer a few, and estimate the time; write nothing")
    add("--max-batch", type=int, metavar="N", help="answers generated at once per process (default: for the device)")
    add("--gpus", metavar="WHICH", help="one process per GPU: all, a number of GPUs, or their indices such as 0,2")


def check_arguments(options: argparse.Namespace, fail: Callable[[str], NoReturn]) -> None:
    """Check the values of the flags that argparse does not check; call `fail` with the reason if one is invalid."""
    if any(not question.strip() for question in options.question):
        fail("--question is empty. Give a question.")
    for name in ("limit", "max_batch"):
        if getattr(options, name) is not None and getattr(options, name) < 1:
            fail(f"--{name.replace('_', '-')} should be at least 1.")
    if options.output is None and not options.dry_run:
        fail("--output is missing. Give the file for the answers, such as answers.jsonl, or --dry-run.")
    if options.gpus is not None and options.device is not None:
        fail("Give either --gpus or --device.")
    check_ray_arguments(options, fail)
    try:
        DEMO.from_arguments(options)
    except SettingError as error:
        fail(str(error))


def make_settings(options: argparse.Namespace) -> Settings:
    """Return the settings of the command line.

    Raises:
        VisualGLMError: the model is not found, or cannot be loaded with these flags.
    """
    loader = choose_loader(options.hf, None)
    check_model(options, loader)
    sampling = {name: getattr(options, name, None) for name in (*sampling_flags(), "max_new_tokens")}
    return Settings(
        model=options.from_pretrained,
        loading={name: getattr(options, name) for name in LOADING},
        hf=loader.__name__ == "load_hf",
        language=None if options.language is None else options.language.code,
        sampling={name: value for name, value in sampling.items() if value is not None},
        max_batch_size=options.max_batch,
    )


def sampling_flags() -> tuple[str, ...]:
    """Return the names of the flags of the sampling parameters."""
    from model.engine.config import FLAGS

    return tuple(FLAGS)


def load_answerer(settings: Settings, device: str | None = None) -> "Answerer":
    """Load the model with a progress bar, and warm it up."""
    from .work import Answerer

    with loading_bar() as progress:
        answerer = Answerer(settings, device, progress=progress)
    answerer.warm_up()
    return answerer


def answer_here(settings: Settings, tasks: Iterable[Task]) -> Iterator[Result]:
    """Answer tasks in this process."""
    yield from load_answerer(settings).answer(tasks)


def choose_backend(options: argparse.Namespace, devices: list[str]) -> Backend:
    """Return the backend that the command line names.

    Args:
        devices: of --gpus; if there are none, this process answers.

    Raises:
        VisualGLMError: Ray is not installed, or its address cannot be used.
    """
    if options.ray is not None:
        return choose_cluster(options)
    if not devices:
        return answer_here
    from .processes import answer_in_processes

    return partial(answer_in_processes, devices=devices)


def find_gpus(wanted: str) -> list[str]:
    """Return the devices that --gpus names: "all", a number of GPUs, or their indices with commas between them.

    Raises:
        SettingError: the value is none of these, or there are not so many GPUs.
    """
    import torch

    count = torch.cuda.device_count()
    try:
        numbers = [int(number) for number in wanted.split(",")] if wanted != "all" else list(range(count))
    except ValueError as error:
        raise SettingError(f"--gpus is {wanted!r}; it should be all, a number, or indices such as 0,2.") from error
    if "," not in wanted and wanted != "all":
        numbers = list(range(numbers[0]))
    if not numbers or min(numbers) < 0 or max(numbers) >= count or len(set(numbers)) < len(numbers):
        found = f"{count} GPU{'' if count == 1 else 's'}" if count else "no GPU that PyTorch can use"
        raise SettingError(f"--gpus {wanted}: this machine has {found}. Name some of them, or omit --gpus.")
    return [f"cuda:{number}" for number in numbers]


def rehearse(settings: Settings, rows: Input, options: argparse.Namespace, devices: list[str]) -> int:
    """Check the rows and estimate the time; return the exit code."""
    from .estimate import check_rows, print_estimate

    checked = check_rows(rows, options.limit)
    for line in checked.describe():
        print_text(line)
    if checked.sample:
        print_estimate(checked, load_answerer(settings, next(iter(devices), None)), max(1, len(devices)))
    return FAILURE if checked.bad and not options.skip_bad else SUCCESS


def run() -> int:
    """Run the program; return the exit code."""
    options = parse_arguments()
    columns = Columns(options.image_column, options.question_column, options.id_column)
    rows = Input(Path(options.input).expanduser(), options.question, columns)
    devices = [] if options.gpus is None or options.ray is not None else find_gpus(options.gpus)
    backend = choose_backend(options, devices)
    settings = make_settings(options)
    if options.dry_run:
        return rehearse(settings, rows, options, devices)
    from .run import Run

    output = Path(options.output).expanduser()
    started = Run(settings, rows, output, limit=options.limit, skip_bad=options.skip_bad)
    started.finish(backend)
    print_text(started.describe(), file=sys.stderr)
    return SUCCESS


def main() -> int:
    """Run the program; return the exit code."""
    return run_program(run)
