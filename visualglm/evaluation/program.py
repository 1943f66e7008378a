"""Evaluate a model on questions about images, and on the same questions about swapped images and about none.

visualglm evaluate visualglm-tiny --data scenes:100
visualglm evaluate MODEL --data coco_pope_popular.json --images val2014 --output pope
visualglm evaluate MODEL --data captions_val2014.json --objects objects.txt --seeds 3

The answers, a report as JSON and an HTML page are written into a folder. A stopped or killed run goes on with the same
command. Formats: POPE, MME, VQAv2, COCO captions, VLMEvalKit's TSV, LLaVA-Bench, fine-tuning data, drawn scenes.
"""

import argparse
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from importlib import import_module
from itertools import islice
from pathlib import Path
from typing import Any, NoReturn

from model import DEMO, SettingError
from model.command_line import ArgumentParser, print_text, run_program
from visualglm.arguments import add_model_arguments
from visualglm.batch.program import choose_backend, find_gpus, make_settings
from visualglm.batch.tasks import Backend, Settings
from visualglm.scale.batch_arguments import add_ray_arguments, check_ray_arguments

from .answers import Answered, match_answers
from .comparison import compare_answers, format_comparison
from .data import FORMATS, Question, draw_questions, open_questions
from .errors import EvaluationError
from .metrics import DEFAULT_METRICS, METRICS, Metric, chair, read_objects
from .question_tasks import OWN, QuestionTasks, choose_conditions, keep_answered, read_conditions
from .reliance import PLAIN, plain_images, to_reliances
from .report import Report, make_report, write_json
from .report_page import write_report_page
from .report_table import format_report

SCENES = "scenes"  # "scenes:100" draws 100 scenes
ANSWERS, REPORT, PAGE = "answers.jsonl", "report.json", "report.html"
RELIANCE = "reliance.jsonl"
SAMPLED = "answers-seed-{}.jsonl"
CAPTION_TASKS = ("captions", "llava-bench", "training", "questions")  # their accepted answers may describe images
# The most likely answer, as benchmarks ask for it, with its log-probability.
GREEDY = {"temperature": 0, "repetition_penalty": 1.0, "top_logprobs": 0}
SHORT, LONG = 16, 256
MAX_NEW_TOKENS = {"captions": 64, "llava-bench": LONG, "training": LONG, SCENES: 64, "questions": 64}


def parse_arguments() -> argparse.Namespace:
    """Parse the command line."""
    parser = ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?", metavar="MODEL", help="short for --from_pretrained MODEL")
    add_model_arguments(parser)
    add_data_arguments(parser)
    add_work_arguments(parser)
    add_ray_arguments(parser)
    options = parser.parse_args()
    options.from_pretrained = options.model or (options.from_pretrained if options.server is None else "")
    check_arguments(options, parser.error)
    return options


def add_data_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of the questions, the metrics and the output."""
    add = parser.add_argument_group("questions and metrics").add_argument
    add("--data", required=True, metavar="PATH", help="file or folder of questions, or scenes:N for N drawn scenes")
    add("--task", choices=FORMATS, help="format of --data (default: recognized)")
    add("--images", metavar="DIR", help="folder of the images (default: beside the questions)")
    add("--annotations", metavar="FILE", help="VQAv2's annotations, or LLaVA-Bench's reference answers")
    add("--metric", nargs="+", choices=METRICS, metavar="NAME", help=f"of {', '.join(METRICS)} (default: of the task)")
    add(
        "--objects", metavar="FILE", help="add CHAIR for captions; a line is an object: its name, synonyms, with commas"
    )
    add("--no-controls", action="store_true", help="do not ask about swapped images and without an image")
    add("--output", metavar="DIR", help="folder of answers and report (default: evaluation-MODEL-DATA)")
    add("--against", metavar="DIR", help="compare with the answers of an earlier evaluation on the same questions")


def add_work_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags that say how much is answered, and where."""
    add = parser.add_argument_group("work").add_argument
    add("--limit", type=int, metavar="N", help="ask the first N questions only")
    add("--reliance", action="store_true", help="also score each answer about a plain image, and group answers by that")
    add("--seeds", type=int, metavar="N", help="also sample N answers to each question, with seeds 1 to N")
    add("--temperature", type=float, help="of --seeds (default: the model's own, as the other sampling parameters)")
    add("--top_p", type=float, help="of --seeds (default: the model's own)")
    add("--skip-bad", action="store_true", help="leave out questions whose images cannot be read, and list them")
    add("--max_new_tokens", type=int, help="maximum tokens of an answer (default: for the task)")
    add("--max-batch", type=int, metavar="N", help="answers generated at once per process (default: for the device)")
    add("--gpus", metavar="WHICH", help="one process per GPU: all, a number of GPUs, or their indices such as 0,2")
    add("--server", metavar="URL", help="ask a server of OpenAI's protocol, whose model MODEL is (default: its first)")
    add("--api-key", metavar="KEY", help="with --server: its key")


def check_arguments(options: argparse.Namespace, fail: Callable[[str], NoReturn]) -> None:
    """Check the values of the flags that argparse does not check; call `fail` with the reason if one is invalid."""
    for name in ("limit", "seeds", "max_new_tokens", "max_batch"):
        if getattr(options, name) is not None and getattr(options, name) < 1:
            fail(f"--{name.replace('_', '-')} should be at least 1.")
    if options.gpus is not None and options.device is not None:
        fail("Give either --gpus or --device.")
    if options.seeds is None and (options.temperature is not None or options.top_p is not None):
        fail("--temperature and --top_p need --seeds N. Without it, answers are the most likely ones.")
    try:
        DEMO.from_arguments(options)
    except SettingError as error:
        fail(str(error))
    check_ray_arguments(options, fail)
    places = [name for name in ("server", "ray", "gpus") if getattr(options, name) is not None]
    if "server" in places and len(places) > 1:
        fail(f"Give either --server or --{places[1]}.")
    if options.reliance and options.server is not None:
        fail("--reliance scores answers, which the protocol of --server does not offer. Evaluate the model itself.")
    if options.api_key is not None and options.server is None:
        fail("--api-key needs --server URL.")


def read_questions(options: argparse.Namespace) -> tuple[str, list[Question]]:
    """Return the task of the questions, and the questions.

    Raises:
        EvaluationError: they cannot be read, or there are none.
    """
    task, questions = open_data(options)
    listed = list(islice(questions, options.limit))
    if not listed:
        raise EvaluationError(f"{options.data} holds no questions. Check --data.")
    return task, listed


def open_data(options: argparse.Namespace) -> tuple[str, Iterator[Question]]:
    """Return the task of --data and an iterator over its questions."""
    name, _, count = options.data.partition(":")
    if name == SCENES and not Path(options.data).exists():
        if not count.isdecimal() or not int(count):
            raise EvaluationError(f"--data {options.data}: give the number of scenes, such as {SCENES}:100.")
        return SCENES, draw_questions(int(count))
    opened = open_questions(options.data, options.task, images=options.images, annotations=options.annotations)
    if opened.task == "training":  # the only format whose reader belongs to another package
        opened = replace(opened, read_rows=import_module("finetune.rows").read_rows)
    return opened.task, iter(opened)


def evaluation_settings(options: argparse.Namespace, task: str) -> Settings:
    """Return the settings of the most likely answers.

    Raises:
        VisualGLMError: the model is not found, or cannot be loaded with these flags.
    """
    settings = make_settings(options) if options.server is None else Settings(options.from_pretrained)
    length = options.max_new_tokens or MAX_NEW_TOKENS.get(task, SHORT)
    return replace(settings, sampling={**GREEDY, "max_new_tokens": length})


def sampled_settings(options: argparse.Namespace, settings: Settings, seed: int) -> Settings:
    """Return the settings of answers that are sampled with a seed, from the settings of the most likely ones."""
    given = {"temperature": options.temperature, "top_p": options.top_p}
    sampling = {name: value for name, value in given.items() if value is not None}
    return replace(settings, sampling={**sampling, "max_new_tokens": settings.sampling["max_new_tokens"], "seed": seed})


def choose_answering(
    options: argparse.Namespace, settings: Settings, tasks: QuestionTasks
) -> tuple[Backend, Mapping[str, Any] | None]:
    """Return the backend for the flags, and the record of a run on a server; the record is None for a local model.

    Raises:
        VisualGLMError: the server, the cluster or the GPUs cannot be used.
    """
    if options.server is None:
        devices = find_gpus(options.gpus) if options.gpus is not None and options.ray is None else []
        return choose_backend(options, devices), None
    from .server_backend import ServerBackend

    server = ServerBackend(options.server, settings.model or None, options.api_key, options.max_batch)
    return server, server.make_record(settings, tasks.questions)


def answer_all(options: argparse.Namespace, settings: Settings, tasks: QuestionTasks, output: Path) -> None:
    """Answer the questions that have no answer in the output yet, in all conditions.

    Raises:
        VisualGLMError: the model cannot be loaded, an image cannot be read, or the output is that of another run.
    """
    from visualglm.batch.run import Run  # imports torch

    backend, record = choose_answering(options, settings, tasks)
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise EvaluationError(
            f"--output: {output.parent} cannot be created ({error.strerror}). Give another folder."
        ) from error
    run = Run(settings, tasks, output, skip_bad=options.skip_bad, record=record)
    run.finish(backend)
    print_text(run.describe(), file=sys.stderr)


def score_answers(options: argparse.Namespace, settings: Settings, questions: Sequence[Question], folder: Path) -> None:
    """Score the answers in the folder, about their own images and about plain ones."""
    rows = {row.key: row for row in read_conditions(folder / ANSWERS).get(OWN, []) if row.answer}
    asked = [question for question in questions if question.key in rows and question.image is not None]
    images = {OWN: {question.key: question.image for question in asked}, PLAIN: plain_images(asked)}
    scored = {question.key: rows[question.key].answer for question in asked}
    one_token = replace(settings, sampling={**settings.sampling, "max_new_tokens": 1})  # generated beside the score
    answer_all(options, one_token, QuestionTasks(Path(options.data), asked, images, scored), folder / RELIANCE)


def read_reliances(output: Path) -> dict[str, float]:
    """Return the reliance of answers by key, from their scores."""
    rows = read_conditions(output)
    return to_reliances(rows.get(OWN, []), rows.get(PLAIN, []))


def seed_outputs(options: argparse.Namespace, folder: Path) -> dict[int, Path]:
    """Return the file of the answers of each sampling seed."""
    return {seed: folder / SAMPLED.format(seed) for seed in range(1, (options.seeds or 0) + 1)}


def choose_metrics(options: argparse.Namespace, task: str, questions: Sequence[Question]) -> list[Metric]:
    """Return the metrics of the flags, or else of the task; with --objects CHAIR, too.

    Raises:
        EvaluationError: the list of objects is unusable, or the data has no captions that name an object of it.
    """
    metrics = [METRICS[name] for name in options.metric or DEFAULT_METRICS[task]]
    if options.objects is None:
        return metrics
    if task not in CAPTION_TASKS:
        raise EvaluationError(
            f"--objects: CHAIR needs captions, but the task of {options.data} is {task}. Omit it, or give captions."
        )
    objects = read_objects(Path(options.objects).expanduser())
    if not any(objects.mentions(text) for question in questions for text in question.answers):
        raise EvaluationError(
            f"--objects: no accepted answer of {options.data} names an object of {options.objects}. Give names in the "
            "language of the captions."
        )
    return [*metrics, chair(objects)]


def write_report(
    options: argparse.Namespace,
    metrics: Sequence[Metric],
    questions: Sequence[Question],
    folder: Path,
    facts: Mapping[str, Any],
) -> Report:
    """Compute the scores of the answers in the folder, and write the report there."""
    conditions = read_conditions(folder / ANSWERS)
    own = conditions.pop(OWN, [])
    answered = match_answers(keep_answered(questions, own), own)
    settings = {
        "model": options.from_pretrained,
        "data": options.data,
        "left_out": len(questions) - len(answered),
        **facts,
    }
    sampled = [read_conditions(output)[OWN] for output in seed_outputs(options, folder).values()]
    reliances = read_reliances(folder / RELIANCE) if options.reliance else None
    title = f"{options.from_pretrained or options.server} on {options.data}"
    report = make_report(title, metrics, answered, conditions, settings, sampled=sampled, reliances=reliances)
    write_json(folder / REPORT, report)
    write_report_page(folder / PAGE, report)
    return report


def compare_with(folder: Path, report: Report) -> Iterator[str]:
    """Yield the lines of a comparison with the answers of another evaluation, on the questions that both have answered.

    Raises:
        EvaluationError: they have no question in common.
    """
    rows = {row.key: row for row in read_conditions(folder / ANSWERS).get(OWN, [])}
    own = [answer for answer in report.answered if answer.question.key in rows]
    if not own:
        raise EvaluationError(f"--against {folder}: it has answers to none of these questions. Use the same --data.")
    other = [Answered(answer.question, rows[answer.question.key]) for answer in own]
    comparison = compare_answers(report.results[0].metric, own, other)
    yield f"Comparison on {len(own):,} questions:"
    yield from format_comparison(comparison, ("this", folder.name))


def run() -> None:
    """Run the program."""
    options = parse_arguments()
    task, questions = read_questions(options)
    metrics = choose_metrics(options, task, questions)
    model = Path(options.from_pretrained).name or "server"
    folder = Path(options.output or f"evaluation-{model}-{Path(options.data).stem.replace(':', '-')}").expanduser()
    conditions, swapped = choose_conditions(questions, with_controls=not options.no_controls)
    settings = evaluation_settings(options, task)
    answer_all(options, settings, QuestionTasks(Path(options.data), questions, conditions), folder / ANSWERS)
    own = QuestionTasks(Path(options.data), questions, {OWN: conditions[OWN]})
    for seed, output in seed_outputs(options, folder).items():
        answer_all(options, sampled_settings(options, settings, seed), own, output)
    if options.reliance:
        score_answers(options, settings, questions, folder)
    facts = {
        "task": task,
        "swapped_pairs": swapped.count,
        "swapped_pairs_with_the_same_question": swapped.same_question,
    }
    report = write_report(options, metrics, questions, folder, facts)
    for line in format_report(report):
        print_text(line)
    if options.against is not None:
        for line in compare_with(Path(options.against).expanduser(), report):
            print_text(line)
    print_text(f"\nReport: {folder / PAGE}, {folder / REPORT}")


def main() -> int:
    """Run the program; return the exit code."""
    return run_program(run)
