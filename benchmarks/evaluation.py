"""Time an evaluation on POPE-shaped questions, each about a JPEG of its own, from the files to the report.

python -m benchmarks.evaluation --device cpu --from_pretrained visualglm-tiny --count 40
python -m benchmarks.evaluation --max-batch 128                    full size, random weights, 3,000 questions

The time includes reading the questions, decoding and encoding the images, the answers of at most 8 tokens, the scores
and the report; loading the model and compiling its kernels are excluded. Images have 640 x 480 pixels with noise, so
that they take as long to decode as photos. The answers of random weights are random.
"""

import argparse
import json
import random
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

from benchmarks.full_size import FULL_SIZE, Source, add_model_arguments
from benchmarks.parts.machine import describe_machine, min_int, name_gpu
from benchmarks.parts.photos import draw_photos
from model import SatChatModel
from model.command_line import ArgumentParser, run_program
from visualglm.batch.run import Run
from visualglm.batch.tasks import Result, Settings, Task
from visualglm.batch.work import Answerer
from visualglm.evaluation.answers import match_answers
from visualglm.evaluation.data import open_questions
from visualglm.evaluation.metrics import DEFAULT_METRICS, METRICS
from visualglm.evaluation.program import GREEDY
from visualglm.evaluation.question_tasks import OWN, QuestionTasks, read_conditions
from visualglm.evaluation.report import make_report, write_json
from visualglm.evaluation.report_page import write_report_page

MAX_NEW_TOKENS = 8
TARGET_S = 20.0  # for 3,000 questions on one H200


def write_questions(folder: Path, count: int) -> Path:
    """Write images, and questions about them in POPE's format; return the path of the questions."""
    names = [path.name for path in draw_photos(folder, count)]
    things = random.Random(0).choices(["ball", "star", "ring", "cross"], k=count)
    lines = [
        {"question_id": number, "image": name, "text": f"Is there a {thing} in the image?", "label": "yes"}
        for number, (name, thing) in enumerate(zip(names, things, strict=True), start=1)
    ]
    path = folder / "pope.json"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return path


def evaluate(model: SatChatModel, path: Path, output: Path, max_batch: int) -> float:
    """Evaluate a model on a file of questions; return the seconds."""
    answerer = Answerer(settings := make_settings(max_batch), model=model)

    def answer(_: Settings, tasks: Iterable[Task]) -> Iterator[Result]:
        yield from answerer.answer(tasks)

    started = time.perf_counter()
    opened = open_questions(path, "pope", images=path.parent)
    questions = list(opened)
    conditions = {OWN: {question.key: question.image for question in questions}}
    Run(settings, QuestionTasks(path, questions, conditions), output / "answers.jsonl").finish(answer)
    answered = match_answers(questions, read_conditions(output / "answers.jsonl")[OWN])
    report = make_report("POPE", [METRICS[name] for name in DEFAULT_METRICS["pope"]], answered, {}, {})
    write_json(output / "report.json", report)
    write_report_page(output / "report.html", report)
    seconds = time.perf_counter() - started
    assert len(answered) == len(questions)
    return seconds


def make_settings(max_batch: int) -> Settings:
    """Return the settings of greedy answers of at most 8 tokens; the model's name is only recorded."""
    sampling = {**GREEDY, "max_new_tokens": MAX_NEW_TOKENS}
    return Settings("visualglm-tiny", sampling=sampling, language="en", max_batch_size=max_batch)


def parse_arguments() -> argparse.Namespace:
    """Parse the command line."""
    parser = ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_model_arguments(parser)
    parser.add_argument("--count", type=min_int(1), default=3000, help="number of questions (default %(default)s)")
    parser.add_argument("--max-batch", type=min_int(1), default=64, help="answers at a time (default %(default)s)")
    return parser.parse_args()


def main() -> None:
    """Measure, after a warm-up with some of the questions; print a table."""
    options = parse_arguments()
    source = Source(options)
    model = source.sat()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        path = write_questions(folder, options.count)
        some = folder / "some.json"
        lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
        some.write_text("".join(lines[: 2 * options.max_batch]), encoding="utf-8")
        seconds = []
        for number, questions in enumerate((some, path)):
            output = folder / str(number)
            output.mkdir()
            # With an empty image cache, and with the tokenizer of real text.
            fresh = SatChatModel(model.network, model.tokenizer.tokenizer)
            seconds.append(evaluate(fresh, questions, output, options.max_batch))
    model_name = options.from_pretrained or FULL_SIZE
    print(f"{describe_machine(name_gpu(source.device))}, {model_name}, at most {MAX_NEW_TOKENS} tokens\n")
    print("| questions | seconds | questions/s | target |\n|---|---|---|---|")
    target = f"at most {TARGET_S:g}" if options.count == 3000 and source.is_full_size else ""
    print(f"| {options.count:,} | {seconds[-1]:.1f} | {options.count / seconds[-1]:.0f} | {target} |")


if __name__ == "__main__":
    sys.exit(run_program(main))
