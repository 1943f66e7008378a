"""The call path from `chat()` to the vision encoder is short, and `model/__init__.py` documents it."""

import sys
from pathlib import Path
from typing import Any

import pytest
import torch

import model
from model import SatChatModel, chat
from model.blip2 import BLIP2

PACKAGE = Path(model.__file__).parent
SCENE = PACKAGE.parent / "examples" / "scene.png"
MOST_FRAMES, MOST_FILES = 9, 5


def own_frames() -> list[tuple[str, str]]:
    """Return file and function of each stack frame in the package, outermost first, without the caller."""
    found, frame = [], sys._getframe(1)
    while frame := frame.f_back:
        path = Path(frame.f_code.co_filename)
        if path.is_relative_to(PACKAGE):
            found.append((path.relative_to(PACKAGE).as_posix(), frame.f_code.co_name))
    return found[::-1]


@pytest.fixture
def path_to_the_encoder(tiny_model: SatChatModel, monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    """The stack frames from `chat` to the vision encoder, which is the last."""
    calls: list[list[tuple[str, str]]] = []
    original = BLIP2.forward

    def forward(self: BLIP2, image: torch.Tensor) -> torch.Tensor:
        calls.append([*own_frames(), ("blip2.py", "forward")])
        return original(self, image)

    monkeypatch.setattr(BLIP2, "forward", forward)
    chat(str(SCENE), tiny_model.network, tiny_model.tokenizer, "描述这张图片。", max_length=200, temperature=0)
    [frames] = calls
    return frames


def test_few_frames_and_files_lead_to_the_encoder(path_to_the_encoder: list[tuple[str, str]]) -> None:
    assert path_to_the_encoder[0] == ("chat.py", "drain")
    assert len(path_to_the_encoder) <= MOST_FRAMES, path_to_the_encoder
    assert len({file for file, _ in path_to_the_encoder}) <= MOST_FILES, path_to_the_encoder


def test_the_map_names_the_files_in_their_order(path_to_the_encoder: list[tuple[str, str]]) -> None:
    assert model.__doc__ is not None
    positions: list[Any] = [model.__doc__.find(file) for file in dict.fromkeys(file for file, _ in path_to_the_encoder)]
    assert -1 not in positions
    assert positions == sorted(positions)
