"""Writes questions about drawn scenes in the formats of TRL's trainers, as folders that `datasets` loads.

    python -m examples.trl.scenes --out scenes

This makes `scenes/sft` (prompt and completion), `scenes/dpo` (chosen and rejected answers) and `scenes/grpo` (prompts).
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from model.command_line import ArgumentParser, run_program
from model.errors import SettingError
from visualglm.scenes import draw_scene

FIRST_SEED = 50_000
SIDE = 224  # pixels


def message(role: str, text: str) -> list[dict[str, str]]:
    """Return a conversation of one message."""
    return [{"role": role, "content": text}]


def make_row(kind: str, question: str, answer: str) -> dict[str, Any]:
    """Return a row for the trainer `kind`: answers should begin with "In short:"; GRPO only gets a prompt."""
    wanted = message("assistant", f"In short: {answer}")
    if kind == "grpo":
        return {"prompt": message("user", "Describe the image.")}
    if kind == "dpo":
        return {"prompt": message("user", question), "chosen": wanted, "rejected": message("assistant", answer)}
    return {"prompt": message("user", question), "completion": wanted}


def write_scenes(folder: Path, count: int) -> None:
    """Write the rows and images of `count` scenes for each trainer.

    Raises:
        SettingError: the folder exists.
    """
    if folder.exists():
        raise SettingError(f"{folder} exists. Give --out another name.")
    scenes = [draw_scene(FIRST_SEED + index) for index in range(count)]
    for kind in ("sft", "dpo", "grpo"):
        part = folder / kind / "train"
        part.mkdir(parents=True)
        with (part / "metadata.jsonl").open("w", encoding="utf-8") as file:
            for index, scene in enumerate(scenes):
                asked = scene.questions[1]
                scene.image.resize((SIDE, SIDE)).save(part / f"{index}.png")
                row = make_row(kind, asked.question["en"], asked.answer["en"])
                # `datasets` makes the column `images` of the files in `images_file_names`.
                file.write(json.dumps({"images_file_names": [f"{index}.png"], **row}) + "\n")


def main() -> None:
    """Run the command line."""
    parser = ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder to create")
    parser.add_argument("--count", type=int, default=12, help="number of scenes (default: 12)")
    arguments = parser.parse_args()
    write_scenes(arguments.out, arguments.count)


if __name__ == "__main__":
    sys.exit(run_program(main))
