"""Provide the helpers that programs for the original import: load a model, build a request, save an image.

model, tokenizer = get_infer_setting(gpu_device=0, quant=None)
data = generate_input("描述这张图片。", base64_text, [], {"temperature": 0})
chat(None, model, tokenizer, data["input_query"], image=data["input_image"], **data["gen_kwargs"])
hf_model.chat(hf_tokenizer, process_image(base64_text), "描述这张图片。")
"""

import atexit
import functools
import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from .chat import AnyHistory, to_pairs
from .engine import DEMO
from .engine.config import ORIGINAL_SETTINGS
from .errors import ImageError
from .file_writing import unused_name
from .images.preprocess import decode_base64
from .loading import load_sat
from .names import DEFAULT_MODEL
from .prompt import Tokenizer, is_chinese, require_text, to_turns
from .visualglm import VisualGLMModel

__all__ = ["generate_input", "get_infer_setting", "is_chinese", "process_image"]


def get_infer_setting(  # public name
    gpu_device: int = 0, quant: int | None = None, name: str = DEFAULT_MODEL
) -> tuple[VisualGLMModel, Tokenizer]:
    """Load a model and its tokenizer for `chat`.

    Args:
        gpu_device: index of the GPU; without a GPU the CPU is used.
        quant: bits of the language model's weights, 8 or 4; None does not quantize.
        name: see `load_sat`; the original always loaded visualglm-6b.

    Raises:
        VisualGLMError: the model cannot be loaded.
    """
    device = f"cuda:{gpu_device}" if torch.cuda.is_available() else None
    model = load_sat(name, device=device, quant=quant)
    return model.network, model.tokenizer


def generate_input(  # public name
    input_text: str,
    input_image_prompt: str | bytes | Image.Image,
    history: AnyHistory = None,
    input_para: Mapping[str, Any] | None = None,
    image_is_encoded: bool = True,
) -> dict[str, Any]:
    """Build the arguments for one call of `chat`.

    Args:
        input_text: the question.
        input_image_prompt: the image as base64 text (str or bytes), unless `image_is_encoded` is False.
        history: earlier turns, in the formats of `stream_chat`.
        input_para: generation settings; missing ones have the values of the preset `DEMO`.
        image_is_encoded: whether the image is base64 text; otherwise it is returned unchanged.

    Returns:
        input_query, input_image, history as pairs, and gen_kwargs with the settings.

    Raises:
        ImageError: the text is not base64, or does not decode to an image.
        QuestionError: the question is not text, or the history has an unknown format.
    """
    given = dict(input_para or {})
    settings = {key: given.get(key, getattr(DEMO, key)) for key in ORIGINAL_SETTINGS}
    image = _decode(input_image_prompt) if image_is_encoded else input_image_prompt
    return {
        "input_query": require_text(input_text, "question"),
        "input_image": image,
        "history": to_pairs(to_turns(history)),
        "gen_kwargs": settings,
    }


def process_image(image_encoded: str | bytes) -> str:  # public name
    """Save a base64-encoded image to a temporary file, for functions that take an image path.

    The caller may remove the file; remaining files are removed when the program ends.

    Args:
        image_encoded: base64 text, as str or bytes.

    Returns:
        The absolute path of a PNG file that only this user can read.

    Raises:
        ImageError: the text is not base64, or does not decode to an image.
        OSError: the temporary directory cannot be written.
    """
    image = _decode(image_encoded)
    if not image_folder(os.getpid()).is_dir():  # the system may have cleaned it during a long run
        image_folder.cache_clear()
    path = unused_name(image_folder(os.getpid()), "image-").with_suffix(".png")
    image.save(path)
    return str(path)


@functools.cache
def image_folder(process: int) -> Path:
    """Create a private temporary directory, which is removed when the process with this id ends."""
    folder = Path(tempfile.mkdtemp(prefix="visualglm-"))
    atexit.register(remove_folder, folder, process)
    return folder


def remove_folder(folder: Path, process: int) -> None:
    """Remove a directory, except in a forked copy of the process that created it."""
    if os.getpid() == process:
        shutil.rmtree(folder, ignore_errors=True)


def _decode(encoded: Any) -> Image.Image:
    """Decode an image from base64 text or bytes."""
    if isinstance(encoded, bytes | bytearray):
        encoded = encoded.decode("latin-1")
    if not isinstance(encoded, str):
        raise ImageError("The image is not base64 text. Send the file's bytes encoded as base64.")
    return decode_base64(encoded)
