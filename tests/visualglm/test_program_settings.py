"""The programs use the sampling parameters of the model's directory, unless flags or requests override them."""

import sys
from collections.abc import Iterator
from typing import Any

import pytest

from model import DEMO, ENGLISH, Conversation, GenerationConfig, StreamChunk
from visualglm.arguments import OneLanguageModel
from visualglm.server import Settings
from visualglm.server.service import Service
from visualglm.terminal import program as terminal
from visualglm.web import program as web

OWN = {"repetition_penalty": 1.0, "top_k": 7}


class OwnModel:
    """A model with sampling parameters from its directory; it records the settings of each question."""

    image_size = 8

    def __init__(self, **sampling: float) -> None:
        self.sampling = sampling
        self.configs: list[GenerationConfig] = []

    def stream_answer(
        self, conversation: Conversation, question: str, config: GenerationConfig, *, min_interval_s: float = 0.0
    ) -> Iterator[StreamChunk]:
        self.configs.append(config)
        yield StreamChunk("Yes.", "stop")

    def warm_up(self) -> None:
        pass


@pytest.mark.parametrize("language", [[], ["--english"]])
def test_the_terminal_asks_with_the_models_settings_and_the_flags(
    language: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = OwnModel(**OWN)
    monkeypatch.setattr(sys, "argv", ["cli_demo.py", "--query", "Is it?", "--top_k", "3", *language])
    terminal.main(lambda *_, **__: model)
    assert model.configs == [DEMO.replace(repetition_penalty=1.0, top_k=3)]


def test_the_page_begins_with_the_models_settings_and_the_flags(monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[GenerationConfig] = []
    monkeypatch.setattr(web, "check_address", lambda *_: None)
    monkeypatch.setattr(web, "serve_page", lambda model, config, *_: shown.append(config))
    monkeypatch.setattr(sys, "argv", ["web_demo.py", "--temperature", "0.1"])
    web.main(lambda *_, **__: OwnModel(**OWN))
    assert shown == [DEMO.replace(**OWN, temperature=0.1)]


def test_the_server_answers_with_the_models_settings_and_the_requests() -> None:
    model: Any = OneLanguageModel(OwnModel(**OWN), ENGLISH)
    config = Service(Settings(), model).choose_config(top_k=2, temperature=None)
    assert config == DEMO.replace(repetition_penalty=1.0, top_k=2)
    assert Service(Settings()).choose_config() == DEMO
