"""Write questions about drawn scenes for lmms-eval and for `visualglm evaluate`.

    python -m examples.lmms_eval.questions --out scenes --scenes 20

The folder gets the images, questions.jsonl, which both programs read, and the task of lmms-eval.
"""

import argparse
import json
import shutil
import sys
from pathlib import Path

from model.command_line import ArgumentParser, print_text, run_program
from visualglm.evaluation.data import Question, draw_questions

SCENES = 20
TASK = Path(__file__).parent / "task"


def write_questions(folder: Path, scenes: int) -> int:
    """Write the questions and images of scenes into a folder; return the number of questions."""
    (folder / "images").mkdir(parents=True, exist_ok=True)
    questions = list(draw_questions(scenes))
    lines = [json.dumps(to_row(folder, question), ensure_ascii=False) + "\n" for question in questions]
    (folder / "questions.jsonl").write_text("".join(lines), encoding="utf-8")
    for path in TASK.iterdir():
        if path.is_file():
            shutil.copy(path, folder)
    return len(questions)


def to_row(folder: Path, question: Question) -> dict[str, object]:
    """Return the row of a question, and write its image if it is not there yet."""
    assert question.image is not None
    name = f"{question.group.replace(' ', '-')}.png"
    path = folder / "images" / name
    if not path.exists():
        question.image.load().save(path)
    return {
        "id": question.key,
        "image": name,
        "question": question.text,
        "accepted": list(question.answers),
        "kind": question.kind,
        "language": question.language,
    }


def parse_arguments() -> argparse.Namespace:
    """Parse the command line."""
    parser = ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder of the questions and images")
    parser.add_argument("--scenes", type=int, default=SCENES, metavar="N", help="number (default %(default)s)")
    return parser.parse_args()


def run() -> None:
    """Run the program."""
    options = parse_arguments()
    count = write_questions(options.out, options.scenes)
    print_text(f"{count:,} questions about {options.scenes:,} scenes: {options.out}")


def main() -> int:
    """Run the program; return the exit code."""
    return run_program(run)


if __name__ == "__main__":
    sys.exit(main())
