"""A model's name and the description in its configuration are shown by every program."""

import json
import shutil
from pathlib import Path

import httpx
import pytest

from model import ENGLISH, load_hf, load_sat
from model.checkpoint import open_checkpoint
from model.checkpoint.convert import convert
from model.description import MAX_LENGTH, Description, read_description
from model.loading import describe_model
from tests.helpers.checkpoints import TINY
from tests.visualglm.terminal.test_cli_demo import ScriptedModel, talk
from visualglm.arguments import OneLanguageModel
from visualglm.web.page_info import model_info

KNOWLEDGE = json.loads((TINY / "config.json").read_text(encoding="utf-8"))["description"]


def test_both_networks_have_a_name_and_a_description() -> None:
    for load in (load_sat, load_hf):
        model = load("visualglm-tiny", device="cpu")
        assert model.description == Description("visualglm-tiny", KNOWLEDGE)
        assert OneLanguageModel(model, ENGLISH).description == model.description
    assert "photographs" in KNOWLEDGE["en"]
    assert "照片" in KNOWLEDGE["zh"]


def test_conversion_keeps_the_description_and_a_path_gives_the_directory_name(tmp_path: Path) -> None:
    convert("visualglm-tiny", tmp_path / "sat", "sat")
    convert(tmp_path / "sat", tmp_path / "hf", "hf")
    for name in ("sat", "hf"):
        checkpoint = open_checkpoint(tmp_path / name)
        assert describe_model(f"{tmp_path / name}/", checkpoint) == Description(name, KNOWLEDGE)


def test_a_model_without_description_has_only_a_name(tmp_path: Path) -> None:
    shutil.copytree(TINY, tmp_path / "silent")
    config = json.loads((TINY / "config.json").read_text(encoding="utf-8"))
    del config["description"]
    (tmp_path / "silent" / "config.json").write_text(json.dumps(config))
    description = load_sat(tmp_path / "silent", device="cpu").description
    assert description.in_language(ENGLISH) == "silent"


@pytest.mark.parametrize("given", [None, "text", ["en"], {"en": 5}, {"en": None}])
def test_other_formats_give_no_description(given: object) -> None:
    assert read_description({"description": given}) == {}


def test_a_text_is_one_line_of_bounded_length() -> None:
    assert read_description({"description": {"en": "a\n b " + "c" * 10_000}}) == {"en": "a b " + "c" * (MAX_LENGTH - 4)}


def test_the_terminal_shows_it_below_the_welcome(capsys: pytest.CaptureFixture[str]) -> None:
    talk(ScriptedModel())
    assert capsys.readouterr().out.splitlines()[1] == "Model: scripted: words only"


def test_the_page_shows_it() -> None:
    described = model_info(load_sat("visualglm-tiny", device="cpu"))
    assert (described["name"], described["description"]) == ("visualglm-tiny", KNOWLEDGE)


def test_the_page_shows_no_control_characters() -> None:
    model = ScriptedModel()
    model.description = Description("a\x1bb", {"en": "\x1b[31m"})
    described = model_info(model)
    assert (described["name"], described["description"]["en"]) == ("a\ufffdb", "\ufffd[31m")


def test_the_server_lists_it(tiny_server: httpx.Client) -> None:
    (listed,) = tiny_server.get("/v1/models").json()["data"]
    assert listed["description"] == KNOWLEDGE["en"]
    assert tiny_server.get("/v1/models/visualglm-tiny").json() == listed
