"""Read MME's folders: one for each category, with images and a text file of two questions for each image."""

from collections.abc import Iterator
from pathlib import Path

from ..errors import QuestionFileError
from .question import ImageFile, Question
from .records import Record, read_text

IMAGE_SUFFIXES = (".jpg", ".png", ".jpeg")
QUESTIONS_FOLDER, IMAGES_FOLDER = "questions_answers_YN", "images"


def read_mme(path: Path) -> Iterator[Question]:
    """Yield MME's questions, sorted by category and file.

    A category is a folder with `0001.jpg` and `0001.txt`, or with these in `images` and `questions_answers_YN`. Each
    line of a text file is a question, a tab, and Yes or No. The kind is the category's name.

    Raises:
        QuestionFileError: the folder has no categories, a line has another format, or an image is missing.
    """
    categories = mme_categories(path)
    if not categories:
        raise QuestionFileError(path, None, "no folder in it has MME's text files of questions.")
    for category in categories:
        for file in question_files(category):
            image = find_mme_image(category, file)
            for number, line in enumerate(read_text(file).splitlines(), start=1):
                if line.strip():
                    yield parse_line(Record(file, number, {}), line, image, category.name)


def mme_categories(path: Path) -> list[Path]:
    """Return the folders of a directory that have MME's text files."""
    if not path.is_dir():
        return []
    return [folder for folder in sorted(path.iterdir()) if folder.is_dir() and question_files(folder)]


def question_files(category: Path) -> list[Path]:
    """Return the text files of a category, sorted by name."""
    folder = category / QUESTIONS_FOLDER
    return sorted((folder if folder.is_dir() else category).glob("*.txt"))


def find_mme_image(category: Path, file: Path) -> ImageFile:
    """Return the image of a text file of questions.

    Raises:
        QuestionFileError: there is none.
    """
    folder = category / IMAGES_FOLDER
    folder = folder if folder.is_dir() else category
    for suffix in IMAGE_SUFFIXES:
        image = folder / f"{file.stem}{suffix}"
        if image.is_file():
            return ImageFile(f"{category.name}/{image.name}", image)
    raise QuestionFileError(file, None, f"there is no image {file.stem}.jpg or .png in {folder}.")


def parse_line(record: Record, line: str, image: ImageFile, category: str) -> Question:
    """Return the question in a line of an MME file."""
    text, _, label = line.rpartition("\t")
    label = label.strip().lower()
    if not text.strip() or label not in ("yes", "no"):
        raise record.error("it should be a question, a tab, and Yes or No.")
    key = f"{category}/{record.path.stem}/{record.number}"
    return Question(key, image, text.strip(), (label,), kind=category, group=image.name)
