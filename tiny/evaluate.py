"""Evaluate a model on questions about unseen images, with greedy decoding through the public chat interface.

    python -m tiny.evaluate --from_pretrained visualglm-tiny --seed 1000 --count 480
    python -m tiny.evaluate --scenes DIR     # your own images and questions: see tiny/evaluation/external_dataset.py

Prints the accuracy by question kind and language, with 95 % confidence intervals. A control column shows the accuracy
when the image is swapped for one whose correct answer differs: a model whose accuracy hardly drops does not use the
image. The last line is the overall accuracy.
"""

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from model import SettingError, load_sat
from model.chat_model import NetworkChatModel
from model.command_line import ArgumentParser, run_program
from model.placement import DTYPES
from tiny.evaluation.external_dataset import read_questions
from tiny.evaluation.generated_dataset import generate_questions
from tiny.evaluation.graded_question import MEANING, GradedQuestion
from tiny.evaluation.report import describe_machine, format_overall, format_table, write_json
from tiny.evaluation.results import results_of
from visualglm.evaluation.answers import AnswerRow, match_answers
from visualglm.evaluation.loaded_model import answer_questions
from visualglm.evaluation.question_tasks import OWN, Images, QuestionTasks
from visualglm.evaluation.report import SWAPPED, Report, make_report
from visualglm.evaluation.report_page import write_report_page
from visualglm.scenes import MAX_THINGS

GREEDY = {"temperature": 0, "max_new_tokens": 200, "top_logprobs": 0}


def evaluate(
    model: NetworkChatModel,
    questions: Sequence[GradedQuestion],
    swap: bool = True,
    repetition_penalty: float | None = None,
    title: str = "",
) -> Report:
    """Ask every question, with `swap` also about its swapped image; return the report."""
    conditions: dict[str, Images] = {OWN: {question.key: question.image for question in questions}}
    if swap:
        swapped = {question.key: question.swapped_image for question in questions if question.swapped_image}
        conditions |= {SWAPPED: swapped} if swapped else {}
    tasks = QuestionTasks(Path(title), questions, conditions)
    sampling = {**GREEDY, "repetition_penalty": repetition_penalty}
    rows: dict[str, list[AnswerRow]] = {condition: [] for condition in conditions}
    for condition, row in tqdm(
        answer_questions(model, tasks, sampling), total=tasks.count, unit="question", disable=None
    ):
        rows[condition].append(row)
    own = match_answers(questions, rows.pop(OWN))
    return make_report(title, [MEANING], own, rows)


def parse_arguments() -> argparse.Namespace:
    """Parse the command line."""
    parser = ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--from_pretrained", default="visualglm-tiny", metavar="NAME_OR_DIR", help="the model (default %(default)s)")
    add("--seed", type=int, default=1000, help="seed of the images and questions (default %(default)s)")
    add("--count", type=int, default=480, help="number of questions (default %(default)s)")
    add(
        "--most_things", type=int, default=MAX_THINGS, help="maximum number of things in an image (default %(default)s)"
    )
    add(
        "--scenes",
        type=Path,
        metavar="DIR",
        help="ask the questions of this folder's .jsonl files instead of generated ones",
    )
    add("--repetition_penalty", type=float, help="1 disables it (default: from generation_config.json, else 1.2)")
    add("--quant", type=int, choices=(8, 4), help="quantize the weights to this many bits")
    add("--device", help="cpu, cuda, cuda:1, ... (default: a GPU if available)")
    add("--dtype", choices=DTYPES, help="dtype of the weights (default: chosen for the device and the size)")
    add("--json", type=Path, metavar="FILE", help="write scores, questions and answers to this file")
    add("--failures", type=Path, metavar="FILE", help="write the report with all wrong answers to this HTML file")
    add("--no_swap", dest="swap", action="store_false", help="skip the control with swapped images")
    options = parser.parse_args()
    if options.seed < 0 or options.count < 1 or not 1 <= options.most_things <= MAX_THINGS:
        parser.error(f"--seed must be 0 or more, --count 1 or more, --most_things from 1 to {MAX_THINGS}.")
    return options


def check_writable(path: Path) -> None:
    """Check that a file can be written, before the first question is asked.

    Raises:
        SettingError: the file cannot be written.
    """
    try:
        path.open("a").close()
    except OSError as error:
        raise SettingError(f"{path} cannot be written ({error.strerror}). Choose another file.") from error


def run(options: argparse.Namespace, load: Callable[..., Any]) -> None:
    """Ask the questions; print and write the results."""
    for path in (options.json, options.failures):
        if path is not None:
            check_writable(path)
    generated = generate_questions(options.seed, options.count, options.most_things)
    questions = read_questions(options.scenes) if options.scenes else list(generated)
    model = load(options.from_pretrained, device=options.device, dtype=options.dtype, quant=options.quant)
    title = f"{options.from_pretrained}: {options.scenes or f'questions of seed {options.seed}'}"
    report = evaluate(model, questions, options.swap, options.repetition_penalty, title)
    results = results_of(report)
    print(*format_table(results), sep="\n")
    if options.json is not None:
        settings = {name: str(value) if isinstance(value, Path) else value for name, value in vars(options).items()}
        machine = describe_machine(model.network.device, model.network.dtype)
        write_json(options.json, settings, machine, results)
    if options.failures is not None:
        write_report_page(options.failures, report, len(questions))
    print(format_overall(results))


def main(load: Callable[..., Any] = load_sat) -> int:
    """Evaluate the model named on the command line; `load` loads it."""
    return run_program(lambda: run(parse_arguments(), load))


if __name__ == "__main__":
    sys.exit(main())
