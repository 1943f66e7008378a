"""Save the image of an explained answer, for the flag --explain."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from model import Conversation, Language, SettingError
from model.command_line import print_text

from .texts import TEXTS

if TYPE_CHECKING:  # imports torch
    from model import ChatModel


def check_target(path: Path) -> None:
    """Check that an image can be saved at `path`.

    Raises:
        SettingError: its folder is missing, or its ending names no image format.
    """
    from PIL import Image  # takes a while, and most calls explain nothing

    if not path.parent.is_dir():
        raise SettingError(f"--explain {path}: there is no folder {path.parent}. Create it, or choose another one.")
    if Image.registered_extensions().get(path.suffix.lower()) not in Image.SAVE:
        raise SettingError(f"--explain {path}: no image format has this ending. Use .png or .jpg.")


def save_explanation(
    model: "ChatModel", conversation: Conversation, question: str, answer: str, path: Path, language: Language
) -> None:
    """Explain an answer, and save the image, which is dark where the answer does not rely on it.

    Nothing is saved if no part of the image decides the answer.

    Raises:
        SettingError: the file cannot be written.
        VisualGLMError: the answer cannot be explained.
    """
    from model.explain import explain_answer  # imports torch

    network_model: Any = model
    explanation = explain_answer(network_model, conversation, question, answer)
    if explanation.peak is None:
        print_text(TEXTS[language].no_map.format(path=path), file=sys.stderr)
        return
    try:
        explanation.overlay().save(path)
    except OSError as error:
        raise SettingError(f"--explain {path}: the file cannot be written: {error.strerror or error}.") from error
    print_text(TEXTS[language].saved.format(path=path), file=sys.stderr)
