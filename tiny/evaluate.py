"""Ask a model questions about pictures that it has never seen, through the public chat, greedy.

    python -m tiny.evaluate --from_pretrained visualglm-tiny --seed 1000 --count 480
    python -m tiny.evaluate --scenes DIR     # pictures and questions made elsewhere: see
                                              tiny/evaluation/external_dataset.py

Prints the share of right answers by kind of question and language, with 95 % intervals, and beside each the share
when the picture is swapped for another scene's, in which the right answer differs: where it hardly falls, the model
does not look. The last line is the share over all.
"""

import argparse
import sys
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from tqdm import tqdm

from model import (
    ChatModel,
    Conversation,
    GenerationConfig,
    SatChatModel,
    SettingError,
    Turn,
    VisualGLMError,
    load_sat,
)
from model.chat_model import demo_config
from model.command_line import ArgumentParser, run_program
from model.loading import DTYPES
from tiny.evaluation.external_dataset import read_questions
from tiny.evaluation.generated_dataset import generate_questions
from tiny.evaluation.report import describe_machine, format_overall, format_table, write_failures, write_json
from tiny.evaluation.results import Question, Result
from tiny.scenes import MAX_THINGS
from tiny.training.encoding import PROMPT_LANGUAGES

MAX_ANSWER_TOKENS = 200  # tokens
BATCH_SIZE = 64  # questions handed over together


def to_conversation(question: Question, swapped: bool = False) -> Conversation:
    """Return what was said before the question, with its picture or the swapped one."""
    image = question.swapped_image if swapped else question.image
    turns = [Turn(earlier, answer) for earlier, answer in question.history]
    return Conversation(None if image is None else image.load(), turns, PROMPT_LANGUAGES[question.language])


def greedy_config(model: ChatModel, repetition_penalty: float | None = None) -> GenerationConfig:
    """Return the settings that the chat programs take from the model's directory, without sampling."""
    config = demo_config(model).replace(temperature=0, max_new_tokens=MAX_ANSWER_TOKENS)
    return config.replace(repetition_penalty=repetition_penalty)


def generate_answers(
    model: ChatModel, asked: Iterable[tuple[Conversation, str]], config: GenerationConfig
) -> Iterator[str]:
    """Yield the model's answer to each question, in their order; in batches where the model can."""
    if not isinstance(model, SatChatModel):
        for conversation, question in asked:
            yield "".join(chunk.text for chunk in model.stream_answer(conversation, question, config))
        return
    left = iter(asked)
    while some := list(islice(left, BATCH_SIZE)):
        for answer in model.answer_batch(some, config):
            if isinstance(answer, VisualGLMError):
                raise answer
            yield answer


def evaluate(
    model: ChatModel, questions: list[Question], swap: bool = True, repetition_penalty: float | None = None
) -> Iterator[Result]:
    """Ask every question, with `swap` each also about its swapped picture, and yield how they were answered."""
    asked = (
        (to_conversation(question, swapped), question.text)
        for question in questions
        for swapped in ([False, True] if swap and question.swapped_image else [False])
    )
    answers = generate_answers(model, asked, greedy_config(model, repetition_penalty))
    for question in questions:
        answer = next(answers)
        yield Result(question, answer, next(answers) if swap and question.swapped_image else None)


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--from_pretrained", default="visualglm-tiny", metavar="NAME_OR_DIR", help="the model (default %(default)s)")
    add("--seed", type=int, default=1000, help="of the pictures and questions (default %(default)s)")
    add("--count", type=int, default=480, help="questions (default %(default)s)")
    add("--most_things", type=int, default=MAX_THINGS, help="things in a picture, at most (default %(default)s)")
    add("--scenes", type=Path, metavar="DIR", help="ask all questions of this folder's .jsonl files instead")
    add("--repetition_penalty", type=float, help="1 for none (default: as generation_config.json says, else 1.2)")
    add("--quant", type=int, choices=(8, 4), help="bits of quantised weights")
    add("--device", help="cpu, cuda, cuda:1, ... (default: a GPU where there is one)")
    add("--dtype", choices=DTYPES, help="of the weights (default: what suits the device)")
    add("--json", type=Path, metavar="FILE", help="write scores, questions and answers to this file")
    add("--failures", type=Path, metavar="FILE", help="write the wrong answers to this file, an HTML page")
    add("--no_swap", dest="swap", action="store_false", help="do not ask about swapped pictures")
    options = parser.parse_args()
    if options.seed < 0 or options.count < 1 or not 1 <= options.most_things <= MAX_THINGS:
        parser.error(f"--seed must be 0 or more, --count 1 or more, --most_things from 1 to {MAX_THINGS}.")
    return options


def check_writable(path: Path) -> None:
    """Fail before the first question, and not after the last, where a file cannot be written.

    Raises:
        SettingError: it cannot.
    """
    try:
        path.open("a").close()
    except OSError as error:
        raise SettingError(f"{path} cannot be written ({error.strerror}). Choose another file.") from error


def run(options: argparse.Namespace, load: Callable[..., Any]) -> None:
    """Ask the questions, and print and write what came of them."""
    for path in (options.json, options.failures):
        if path is not None:
            check_writable(path)
    drawn = generate_questions(options.seed, options.count, options.most_things)
    questions = read_questions(options.scenes) if options.scenes else list(drawn)
    model = load(options.from_pretrained, device=options.device, dtype=options.dtype, quant=options.quant)
    answered = evaluate(model, questions, options.swap, options.repetition_penalty)
    results = list(tqdm(answered, total=len(questions), unit="question", disable=None))
    print(*format_table(results), sep="\n")
    if options.json is not None:
        settings = {name: str(value) if isinstance(value, Path) else value for name, value in vars(options).items()}
        machine = describe_machine(model.network.device, model.network.dtype)
        write_json(options.json, settings, machine, results)
    if options.failures is not None:
        write_failures(options.failures, results)
    print(format_overall(results))


def main(load: Callable[..., Any] = load_sat) -> int:
    """Evaluate the model that the command line names; `load` loads it."""
    return run_program(lambda: run(parse_arguments(), load))


if __name__ == "__main__":
    sys.exit(main())
