"""Environment variables: empty means unset, invalid values are named, and service addresses are ignored."""

import os
import sys
from dataclasses import fields
from typing import Any

import pytest

from finetune.batches import count_local_processes
from finetune.distributed import is_launched, read_world_size
from model import SettingError
from model.command_line import ArgumentParser
from tests.helpers.cli_program import environment
from tests.helpers.preloaded import run_preloaded
from visualglm.server import Settings, program as server
from visualglm.server.settings import variable_name
from visualglm.web import program as web

SERVICE = "tcp://10.43.0.7:8080"
EVERY_VARIABLE = [variable_name(item) for item in fields(Settings)]


def read_settings(*words: str, **variables: str) -> tuple[Settings, list[str]]:
    """Return the settings and the notes about ignored variables."""
    parser, notes = ArgumentParser(), []
    Settings.add_arguments(parser)
    return Settings.from_arguments(parser.parse_args(words), variables, notes.append), notes


@pytest.mark.parametrize("blank", ["", " "])
def test_an_empty_variable_counts_as_not_set(blank: str) -> None:
    assert read_settings(**dict.fromkeys(EVERY_VARIABLE, blank)) == (Settings(), [])


def test_a_services_address_is_ignored_with_a_note() -> None:
    settings, notes = read_settings(VISUALGLM_PORT=SERVICE, VISUALGLM_MAX_QUEUE="7")
    assert (settings.port, settings.max_queue) == (Settings().port, 7)
    assert len(notes) == 1
    assert "VISUALGLM_PORT" in notes[0]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("VISUALGLM_PORT", "web"),
        ("VISUALGLM_PORT", "-1"),
        ("VISUALGLM_MAX_BATCH", "0"),
        ("VISUALGLM_MAX_BATCH", "2.5"),
        ("VISUALGLM_BODY_TIMEOUT", "soon"),
        ("VISUALGLM_BODY_TIMEOUT", "nan"),
        ("VISUALGLM_LOG_TEXT", "yep"),
        ("VISUALGLM_ALLOW_IMAGE_URLS", "2"),
        ("VISUALGLM_API_KEY", "schlüssel"),
        ("VISUALGLM_TRUSTED_PROXY", "proxy.example"),
    ],
)
def test_a_wrong_value_is_reported_with_the_variables_name(name: str, value: str) -> None:
    with pytest.raises(SettingError, match=name):
        read_settings(**{name: value})


def test_a_flag_overrides_an_invalid_value() -> None:
    settings, _ = read_settings("--port", "9", "--log-text", VISUALGLM_PORT="web", VISUALGLM_LOG_TEXT="yep")
    assert (settings.port, settings.log_text) == (9, True)


@pytest.mark.parametrize(
    ("value", "expected"), [("1", True), ("Yes", True), (" on ", True), ("FALSE", False), ("0", False), ("off", False)]
)
def test_booleans(value: str, expected: bool) -> None:
    assert read_settings(VISUALGLM_LOG_TEXT=value)[0].log_text is expected


def test_the_server_reads_its_variables(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["api.py"])
    monkeypatch.setenv("VISUALGLM_PORT", SERVICE)
    options, settings = server.parse_arguments()
    assert settings.port == 8080
    assert len(options.notes) == 1
    monkeypatch.setenv("VISUALGLM_PORT", "web")
    with pytest.raises(SystemExit) as ended:
        server.parse_arguments()
    assert ended.value.code == 2
    assert "VISUALGLM_PORT" in capsys.readouterr().err


@pytest.mark.parametrize("value", ["", " ", SERVICE])
def test_the_page_ignores_empty_variables_and_addresses(
    value: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["web_demo.py"])
    monkeypatch.setenv("GRADIO_SERVER_PORT", value)
    for name in ("GRADIO_SERVER_NAME", "VISUALGLM_AUTH"):
        monkeypatch.setenv(name, "")
    options, _ = web.parse_arguments(80)
    assert (options.server_port, options.server_name, options.auth) == (80, "127.0.0.1", [])
    assert "GRADIO_SERVER_PORT" not in os.environ  # Gradio converts it during import
    assert ("GRADIO_SERVER_PORT" in capsys.readouterr().err) is (value == SERVICE)


@pytest.mark.parametrize(("name", "value"), [("GRADIO_SERVER_PORT", "70000"), ("VISUALGLM_AUTH", "me:ok,hunter2")])
def test_the_page_names_a_wrong_variable(
    name: str, value: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["web_demo.py"])
    monkeypatch.setenv(name, value)
    with pytest.raises(SystemExit) as ended:
        web.parse_arguments(80)
    assert ended.value.code == 2
    shown = capsys.readouterr().err
    assert name in shown
    assert "hunter2" not in shown


def test_the_page_reads_its_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["web_demo.py"])
    monkeypatch.setenv("GRADIO_SERVER_PORT", "99")
    assert web.parse_arguments(80)[0].server_port == 99
    monkeypatch.setattr(sys, "argv", ["web_demo.py", "--server_port", "98"])
    assert web.parse_arguments(80)[0].server_port == 98


@pytest.mark.parametrize("proxy", ["socks5://127.0.0.1:1", "socks://127.0.0.1:1", "nonsense://x", "http://127.0.0.1:1"])
@pytest.mark.parametrize("share", [False, True])
def test_gradio_bypasses_proxies_for_its_own_page(proxy: str, share: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    import httpx

    for name in ("ALL_PROXY", "HTTP_PROXY", "all_proxy", "http_proxy"):
        monkeypatch.setenv(name, proxy)
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.setenv(name, "")
    web.bypass_proxies("127.0.0.5", share)
    with httpx.Client() as client:
        for url in ("http://localhost:7860", "http://127.0.0.1:7860", "http://127.0.0.5:7860"):
            assert client._transport_for_url(httpx.URL(url)) is client._transport


def test_launchers_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("WORLD_SIZE", "LOCAL_SIZE", "LOCAL_WORLD_SIZE"):
        monkeypatch.setenv(name, "")
    assert (read_world_size(), is_launched(), count_local_processes()) == (1, False, 1)
    monkeypatch.setenv("WORLD_SIZE", "two")
    with pytest.raises(SettingError, match="WORLD_SIZE"):
        read_world_size()


LEVELS: list[Any] = [("", "", 30), ("debug", "", 10), ("", "error", 40), ("loud", "", 30)]


@pytest.mark.parametrize(("level", "sat_level", "expected"), LEVELS)
def test_the_package_can_be_imported_with_any_logging_level(level: str, sat_level: str, expected: int) -> None:
    code = "import logging; from model import VisualGLMModel; print(logging.getLogger('sat').level)"
    variables = environment(LOGLEVEL=level, SAT_LOGLEVEL=sat_level, WORLD_SIZE="")
    done = run_preloaded(code, variables=variables)
    assert done.stdout == f"{expected}\n", done.stderr
    assert ("LOGLEVEL is 'loud'" in done.stderr) is (level == "loud")
