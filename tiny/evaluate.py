"""Evaluate a model on questions about unseen images, with greedy decoding through the public chat interface.

    python -m tiny.evaluate --from_pretrained visualglm-tiny --seed 1000 --count 480
    python -m tiny.evaluate --scenes DIR     # your own images and questions: see tiny/evaluation/external_dataset.py

Prints the accuracy by question kind and language, with 95 % confidence intervals. A control column shows the accuracy
when the image is swapped for one whose correct answer differs: a model whose accuracy hardly drops does not use the
image. The last line is the overall accuracy.
"""

import argparse
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from tqdm import tqdm

from model import ChatModel, Conversation, SettingError, Turn, VisualGLMError, load_sat
from model.answers import answer_all, greedy_config
from model.command_line import ArgumentParser, run_program
from model.placement import DTYPES
from tiny.evaluation.external_dataset import read_questions
from tiny.evaluation.generated_dataset import generate_questions
from tiny.evaluation.report import describe_machine, format_overall, format_table, write_failures, write_json
from tiny.evaluation.results import Question, Result
from tiny.training.encoding import PROMPT_LANGUAGES
from visualglm.scenes import MAX_THINGS

MAX_ANSWER_TOKENS = 200


def to_conversation(question: Question, swapped: bool = False) -> Conversation:
    """Return the conversation before the question, with the question's image or the swapped one."""
    image = question.swapped_image if swapped else question.image
    turns = [Turn(earlier, answer) for earlier, answer in question.history]
    return Conversation(None if image is None else image.load(), turns, PROMPT_LANGUAGES[question.language])


def evaluate(
    model: ChatModel, questions: list[Question], swap: bool = True, repetition_penalty: float | None = None
) -> Iterator[Result]:
    """Ask every question, with `swap` also about its swapped image; yield the results in order."""
    prompts = (
        (to_conversation(question, swapped), question.text)
        for question in questions
        for swapped in ([False, True] if swap and question.swapped_image else [False])
    )
    config = greedy_config(model, MAX_ANSWER_TOKENS).replace(repetition_penalty=repetition_penalty)
    answers = map(raise_error, answer_all(model, prompts, config))
    for question in questions:
        answer = next(answers)
        yield Result(question, answer, next(answers) if swap and question.swapped_image else None)


def raise_error(answer: str | VisualGLMError) -> str:
    """Return an answer; raise it if it is an error."""
    if isinstance(answer, VisualGLMError):
        raise answer
    return answer


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
    add("--failures", type=Path, metavar="FILE", help="write the wrong answers to this HTML file")
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
    evaluation = evaluate(model, questions, options.swap, options.repetition_penalty)
    results = list(tqdm(evaluation, total=len(questions), unit="question", disable=None))
    print(*format_table(results), sep="\n")
    if options.json is not None:
        settings = {name: str(value) if isinstance(value, Path) else value for name, value in vars(options).items()}
        machine = describe_machine(model.network.device, model.network.dtype)
        write_json(options.json, settings, machine, results)
    if options.failures is not None:
        write_failures(options.failures, results)
    print(format_overall(results))


def main(load: Callable[..., Any] = load_sat) -> int:
    """Evaluate the model named on the command line; `load` loads it."""
    return run_program(lambda: run(parse_arguments(), load))


if __name__ == "__main__":
    sys.exit(main())
