"""Conversations as plain text files; regenerates the model's answers in them.

    python -m tiny.dialogues examples/dialogues/*.txt       # writes the model's answers into the files

A file begins with `picture: NAME`, an image file in the same folder or its parent, or with `picture: none`. Each
question is a line that begins with 问： or Q:, and each answer a line that begins with 答： or A:, as in the prompt.
"""

import argparse
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from model import (
    CHINESE,
    ENGLISH,
    ChatModel,
    Conversation,
    GenerationConfig,
    Language,
    Turn,
    VisualGLMError,
    load_sat,
)
from model.command_line import ArgumentParser, run_program
from model.images.preprocess import load_image

GREEDY = GenerationConfig(temperature=0, repetition_penalty=1.0)
LANGUAGES = (CHINESE, ENGLISH)


@dataclass(frozen=True)
class Transcript:
    """A conversation about one image.

    Attributes:
        image: path of the image; None for a conversation without one.
        language: language of the prompt.
        turns: questions and answers; an answer is empty if the file has none.
    """

    image: Path | None
    language: Language
    turns: tuple[Turn, ...]


def read_transcript(file: Path) -> Transcript:
    """Read a file in the format of the module's docstring.

    Raises:
        VisualGLMError: a line has another format, or the image does not exist.
    """
    first, *lines = file.read_text(encoding="utf-8").splitlines()
    language = next((known for known in LANGUAGES if any(line.startswith(known.ask) for line in lines)), CHINESE)
    turns: list[Turn] = []
    for line in filter(None, lines):
        if line.startswith(language.ask):
            turns.append(Turn(line.removeprefix(language.ask).strip(), ""))
        elif line.startswith(language.answer) and turns:
            turns[-1] = replace(turns[-1], answer=line.removeprefix(language.answer).strip())
        else:
            raise VisualGLMError(
                f"{file}: {line!r} should begin with {language.ask}, or with {language.answer} after a question"
            )
    return Transcript(find_image(file, first), language, tuple(turns))


def find_image(file: Path, line: str) -> Path | None:
    """Return the path of the image named in the first line; None for `picture: none`.

    Raises:
        VisualGLMError: the line has another format, or there is no such file.
    """
    name = line.removeprefix("picture: ")
    if name == "none":
        return None
    candidates = [folder / name for folder in (file.parent, file.parent.parent) if (folder / name).is_file()]
    if not candidates or name == line:
        raise VisualGLMError(
            f"{file} should begin with 'picture: NAME', where NAME is an image in its folder or in the parent folder, "
            "or with 'picture: none'."
        )
    return candidates[0]


def replay(model: ChatModel, transcript: Transcript) -> Iterator[Turn]:
    """Generate an answer to each question in order, greedily; earlier turns hold the new answers."""
    image = None if transcript.image is None else load_image(transcript.image)
    conversation = Conversation(image, [], transcript.language)
    for turn in transcript.turns:
        chunks = model.stream_answer(conversation, turn.question, GREEDY)
        conversation.turns.append(Turn(turn.question, "".join(chunk.text for chunk in chunks)))
        yield conversation.turns[-1]


def write_transcript(file: Path, transcript: Transcript) -> None:
    """Write a transcript in the format of the module's docstring."""
    name = "none" if transcript.image is None else transcript.image.name
    language, blank = transcript.language, "" if transcript.language == CHINESE else " "
    blocks = [
        f"{language.ask}{blank}{turn.question}\n{language.answer}{blank}{turn.answer}\n" for turn in transcript.turns
    ]
    file.write_text("\n".join([f"picture: {name}\n", *blocks]), encoding="utf-8")


def main() -> None:
    """Regenerate the answers in the given files with the model named on the command line."""
    parser = ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", type=Path, nargs="+")
    parser.add_argument("--from_pretrained", default="visualglm-tiny", help="name or directory of the model")
    options = parser.parse_args()
    model = load_sat(options.from_pretrained)
    for file in options.files:
        transcript = read_transcript(file)
        write_transcript(file, replace(transcript, turns=tuple(replay(model, transcript))))
        print(file.read_text(encoding="utf-8"))


if __name__ == "__main__":
    sys.exit(run_program(main))
