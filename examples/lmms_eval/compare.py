"""Compare the answers and scores of lmms-eval and of `visualglm evaluate` on the questions of `questions.py`.

    python -m examples.lmms_eval.compare --lmms-eval out --visualglm evaluation

The exit code is 1 if an answer or the score differs.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any, NamedTuple

from model.command_line import FAILURE, SUCCESS, ArgumentParser, print_text, run_program
from visualglm.evaluation.errors import EvaluationError


class Scores(NamedTuple):
    """The answers of a program, in the order of the questions, and its exact match in percent."""

    answers: list[str]
    exact_match: float


def read_lmms_eval(folder: Path) -> Scores:
    """Read the newest results of lmms-eval, which were written with --log_samples and --output_path.

    Raises:
        EvaluationError: there are none.
    """
    paths = sorted(folder.rglob("*_results.json"))
    if not paths:
        raise EvaluationError(f"{folder} has no results of lmms-eval. Give the folder of --output_path.")
    results = json.loads(paths[-1].read_text(encoding="utf-8"))["results"]["tiny_scenes"]
    samples = paths[-1].with_name(paths[-1].name.replace("results.json", "samples_tiny_scenes.jsonl"))
    rows: list[dict[str, Any]] = [json.loads(line) for line in samples.read_text(encoding="utf-8").splitlines()]
    rows.sort(key=lambda row: int(row["doc_id"]))
    return Scores([str(row["filtered_resps"]) for row in rows], 100 * results["exact_match,none"])


def read_visualglm(folder: Path) -> Scores:
    """Read the report of `visualglm evaluate`.

    Raises:
        EvaluationError: there is none.
    """
    path = folder / "report.json"
    if not path.is_file():
        raise EvaluationError(f"{path} does not exist. Give the folder of --output.")
    report = json.loads(path.read_text(encoding="utf-8"))
    score = report["metrics"]["exact_match"]["scores"]["exact_match"]["value"]
    return Scores([answer["answer"] for answer in report["answers"]], score)


def parse_arguments() -> argparse.Namespace:
    """Parse the command line."""
    parser = ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--lmms-eval", type=Path, required=True, metavar="DIR", help="folder of the results of lmms-eval")
    add("--visualglm", type=Path, required=True, metavar="DIR", help="folder of the report of visualglm evaluate")
    return parser.parse_args()


def run() -> int:
    """Run the program; return the exit code."""
    options = parse_arguments()
    other, own = read_lmms_eval(options.lmms_eval), read_visualglm(options.visualglm)
    if len(other.answers) != len(own.answers):
        raise EvaluationError(
            f"The programs asked {len(other.answers)} and {len(own.answers)} questions. Ask the same."
        )
    same = sum(first.strip() == second.strip() for first, second in zip(other.answers, own.answers, strict=True))
    print_text(f"lmms-eval: exact match {other.exact_match:.4f} %")
    print_text(f"visualglm evaluate: exact match {own.exact_match:.4f} %")
    print_text(f"{same} of {len(own.answers)} answers are the same")
    is_equal = same == len(own.answers) and abs(other.exact_match - own.exact_match) < 1e-6
    return SUCCESS if is_equal else FAILURE


def main() -> int:
    """Run the program; return the exit code."""
    return run_program(run)


if __name__ == "__main__":
    sys.exit(main())
