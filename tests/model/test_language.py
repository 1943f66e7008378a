"""The prompt language follows the question if configured; the default is Chinese, as in the original."""

import argparse
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from model import (
    CHINESE,
    DEMO,
    ENGLISH,
    Conversation,
    GenerationConfig,
    Language,
    SatChatModel,
    SettingError,
    StreamChunk,
    Turn,
    chat,
    chat_batch,
    is_chinese,
    load_sat,
)
from model.checkpoint import open_checkpoint
from model.checkpoint.convert import convert
from model.prompt import choose_language, question_language
from tests.helpers.api_server import SteppedModel, serving
from tests.helpers.hf_models import TINY, load_tiny, tiny_model as hf_model, tiny_tokenizer
from visualglm.arguments import add_model_arguments, load_model, locale_language

SCENE = str(Path(__file__).parents[2] / "examples" / "scene.png")
STAR = "What colour is the star?"
GREEDY: dict[str, Any] = {"temperature": 0, "repetition_penalty": 1.0}
HF_GREEDY: dict[str, Any] = {"do_sample": False, "repetition_penalty": 1, "min_length": 0}


@pytest.mark.parametrize(
    ("question", "language"),
    [
        ("图里有什么？", CHINESE),
        ("这是 cat 吗", CHINESE),
        ("What is this?", ENGLISH),
        ("Où?", ENGLISH),
        ("Что это?", ENGLISH),
        ("π", ENGLISH),
    ],
)
def test_a_question_with_letters_has_a_language(question: str, language: Language) -> None:
    for other in (CHINESE, ENGLISH):
        assert question_language(question, other, [Turn("什么", "a"), Turn("What?", "b")]) is language


@pytest.mark.parametrize("question", ["3+4?", "🦊", "？", "", "  ", "12:30", "①"])
def test_a_question_without_letters_keeps_the_previous_language(question: str) -> None:
    for language, said in ((CHINESE, "什么"), (ENGLISH, "What?")):
        assert question_language(question, language) is language
        other = Turn("Other", "a") if language is CHINESE else Turn("别的", "a")
        for default in (CHINESE, ENGLISH):
            assert question_language(question, default, [other, Turn(said, "a"), Turn("1", "one 一")]) is language


def test_the_argument_overrides_the_configuration() -> None:
    for configured in (None, "zh", "en", "auto"):
        assert choose_language(True, configured, "什么", []) is ENGLISH
        assert choose_language(False, configured, "What?", []) is CHINESE
        assert choose_language(None, configured, "What?", []) is ENGLISH
    chosen = [choose_language("as_configured", configured, "What?", []) for configured in (None, "zh", "en", "auto")]
    assert chosen == [CHINESE, CHINESE, ENGLISH, ENGLISH]
    assert choose_language("as_configured", "en", "什么", []) is ENGLISH
    for english, configured in (("no", None), ("as_configured", "fr")):
        with pytest.raises(SettingError, match=r"english|prompt_language"):
            choose_language(english, configured, "What?", [])


class PromptRecorder:
    """Records the text of every prompt that a tokenizer encodes."""

    def __init__(self, tokenizer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        self.texts: list[str] = []
        encode = tokenizer.encode_text

        def recorded(text: str) -> list[int]:
            self.texts.append(text.removeprefix("</img>"))
            return encode(text)  # type: ignore[no-any-return]

        monkeypatch.setattr(tokenizer, "encode_text", recorded)


@pytest.fixture(scope="module")
def unconfigured(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """visualglm-tiny without `prompt_language` in its configuration, like the published model."""
    directory = tmp_path_factory.mktemp("models") / "silent"
    shutil.copytree(TINY, directory)
    config = json.loads((directory / "config.json").read_text())
    del config["prompt_language"]
    (directory / "config.json").write_text(json.dumps(config))
    return directory


def test_the_embedded_model_follows_the_question_on_both_sides(tiny_model: SatChatModel) -> None:
    history = None
    for question, expected in ((STAR, "The star is red."), ("星星在哪里？", "星星在左下角。")):
        answer, history, _ = chat(SCENE, tiny_model.network, tiny_model.tokenizer, question, history=history, **GREEDY)
        hf_answer, _ = hf_model().chat(tiny_tokenizer(), SCENE, question, history=history[:-1], **HF_GREEDY)
        assert answer == hf_answer == expected
    ((answer, _),) = chat_batch([SCENE], tiny_model.network, tiny_model.tokenizer, STAR, **GREEDY)
    assert answer == "The star is red."


def test_an_unconfigured_model_uses_the_original_s_markers(unconfigured: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sat, hf = load_sat(unconfigured, device="cpu"), load_tiny(unconfigured)
    prompts, hf_prompts = PromptRecorder(sat.tokenizer, monkeypatch), PromptRecorder(tiny_tokenizer(), monkeypatch)
    for given, mark in (
        ({}, "问："),
        ({"english": False}, "问："),
        ({"english": True}, "Q:"),
        ({"english": None}, "Q:"),
    ):
        for recorder in (prompts, hf_prompts):
            recorder.texts.clear()
        chat(None, sat.network, sat.tokenizer, STAR, **given, **GREEDY)
        chat_batch([None], sat.network, sat.tokenizer, [STAR], **given, **GREEDY)
        hf.chat(tiny_tokenizer(), None, STAR, **given, **HF_GREEDY)
        list(hf.stream_chat(tiny_tokenizer(), None, STAR, **given, **HF_GREEDY))
        assert [text[: len(mark)] for text in prompts.texts + hf_prompts.texts] == [mark] * 4


def test_a_question_without_letters_follows_the_history(tiny_model: SatChatModel, monkeypatch: Any) -> None:
    prompts = PromptRecorder(tiny_model.tokenizer, monkeypatch)
    for said, mark in (("What?", "Q:"), ("什么", "问：")):
        prompts.texts.clear()
        chat(None, tiny_model.network, tiny_model.tokenizer, "3+4?", history=[(said, "a")], **GREEDY)
        assert prompts.texts[0].startswith(mark)


def test_library_calls_forbid_only_the_given_ids(tiny_model: SatChatModel) -> None:
    """Randomly sampled tokens may be Chinese: the original's `chat` forbids none in English."""
    network, tokenizer = tiny_model.network, tiny_model.tokenizer
    wild: dict[str, Any] = {"english": True, "temperature": 100.0, "top_k": 0, "top_p": 1.0, "max_length": 60}
    answer, _, _ = chat(None, network, tokenizer, STAR, seed=1, **wild)
    ((same, _),) = chat_batch([None], network, tokenizer, STAR, seed=1, **wild)
    torch.manual_seed(1)
    hf_answer, _ = hf_model().chat(tiny_tokenizer(), None, STAR, **wild)
    assert answer == same
    assert is_chinese(answer) and is_chinese(hf_answer)
    wild["invalid_slices"] = [slice(*ENGLISH.forbidden_ids(tokenizer)[0])]
    answer, _, _ = chat(None, network, tokenizer, STAR, seed=1, **wild)
    ((same, _),) = chat_batch([None], network, tokenizer, STAR, seed=1, **wild)
    assert answer == same
    assert not is_chinese(answer)


def test_conversion_keeps_the_prompt_language(unconfigured: Path, tmp_path: Path) -> None:
    for source, expected in ((TINY, "auto"), (unconfigured, None)):
        sat, hf = tmp_path / f"sat-{expected}", tmp_path / f"hf-{expected}"
        convert(str(source), sat, "sat")
        convert(str(sat), hf, "hf")
        for directory in (sat, hf):
            assert open_checkpoint(directory).config.get("prompt_language") == expected
        assert json.loads((hf / "config.json").read_text()).get("prompt_language") == expected
        assert load_tiny(hf).config.prompt_language == expected


@pytest.mark.parametrize(
    ("variables", "language"),
    [
        ({}, ENGLISH),
        ({"LANG": "zh_CN.UTF-8"}, CHINESE),
        ({"LANG": "zh_TW"}, CHINESE),
        ({"LANG": "fr_FR.UTF-8"}, ENGLISH),
        ({"LANG": "C.UTF-8"}, ENGLISH),
        ({"LANG": "zh_CN.UTF-8", "LC_ALL": "C"}, ENGLISH),
        ({"LANG": "zh_CN.UTF-8", "LC_ALL": ""}, CHINESE),
        ({"LANG": "en_US.UTF-8", "LC_MESSAGES": "zh_CN.UTF-8"}, CHINESE),
        ({"LANG": "zh_CN.UTF-8", "LC_CTYPE": "en_US.UTF-8"}, CHINESE),
    ],
)
def test_the_interface_follows_the_locale(variables: dict[str, str], language: Language) -> None:
    assert locale_language(variables) is language


class LanguageRecorder:
    """A model that records the language of each question."""

    def __init__(self) -> None:
        self.languages: list[Language] = []

    def stream_answer(
        self, conversation: Conversation, question: str, config: GenerationConfig, *, min_interval_s: float = 0.0
    ) -> Iterator[StreamChunk]:
        self.languages.append(conversation.language)
        yield StreamChunk("", "stop")

    def warm_up(self) -> None: ...


@pytest.mark.parametrize(
    ("flags", "languages"),
    [([], [CHINESE, ENGLISH]), (["--english"], [ENGLISH] * 2), (["--chinese"], [CHINESE] * 2)],
    ids=str,
)
def test_the_flags_force_the_language_of_every_program(flags: list[str], languages: list[Language]) -> None:
    parser = argparse.ArgumentParser()
    add_model_arguments(parser)
    recorder = LanguageRecorder()
    model = load_model(parser.parse_args(flags), lambda *_, **__: recorder)
    conversations = [Conversation(language=language) for language in (CHINESE, ENGLISH)]
    for conversation in conversations:
        list(model.stream_answer(conversation, "3+4?", DEMO))
    assert recorder.languages == languages
    assert [conversation.language for conversation in conversations] == [CHINESE, ENGLISH]


def test_the_flags_exclude_each_other(capsys: pytest.CaptureFixture[str]) -> None:
    parser = argparse.ArgumentParser()
    add_model_arguments(parser)
    with pytest.raises(SystemExit):
        parser.parse_args(["--english", "--chinese"])
    assert "not allowed with" in capsys.readouterr().err


def test_the_server_keeps_the_language_of_the_previous_turn() -> None:
    model = SteppedModel(free=True, length=1)
    with serving(model) as client:
        for said in ("What?", "什么"):
            client.post("/", json={"text": "3+4?", "history": [[said, "a"]]}).raise_for_status()
            spoken = [{"role": "user", "content": said}, {"role": "assistant", "content": "a"}]
            spoken.append({"role": "user", "content": "🦊"})
            body = {"model": "visualglm-tiny", "messages": spoken}
            client.post("/v1/chat/completions", json=body).raise_for_status()
    assert [conversation.language for conversation, _, _ in model.requests] == [ENGLISH] * 2 + [CHINESE] * 2
