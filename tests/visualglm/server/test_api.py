"""The server program: its settings, its start and its shutdown."""

import argparse
import json
import platform
import signal
import socket
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import httpx
import pytest

from model import SettingError
from tests.helpers.api_server import DESCRIBE, DESCRIPTION, SCENE_BASE64, SteppedModel, wait_until
from tests.helpers.preloaded import PROGRAMS, ForkedProgram, run_preloaded
from visualglm.server import Settings, create_app
from visualglm.server.http_server import MALLOC_ARENAS, Server, load_into

ROOT = Path(__file__).parents[3]
TINY = ["--from_pretrained", "visualglm-tiny", "--device", "cpu"]


def parse(*words: str, **environment: str) -> Settings:
    parser = argparse.ArgumentParser()
    Settings.add_arguments(parser)
    return Settings.from_arguments(parser.parse_args(words), environment)


def test_settings_come_from_flags_then_from_the_environment_then_from_their_defaults():
    environment = {"VISUALGLM_MAX_QUEUE": "7", "VISUALGLM_PORT": "9000", "VISUALGLM_API_KEY": "a,b"}
    settings = parse("--port", "9001", **environment)
    assert (settings.port, settings.max_queue, settings.api_keys) == (9001, 7, ("a", "b"))
    assert settings.max_batch == Settings().max_batch
    assert parse("--api-key", "c", "--api-key", "d", **environment).api_keys == ("c", "d")
    domains = ["--allow-image-urls", "--allowed-image-domains", "a.example", "b.example"]
    assert parse(*domains).allowed_image_domains == ("a.example", "b.example")
    listed = parse(VISUALGLM_ALLOW_IMAGE_URLS="yes", VISUALGLM_ALLOWED_IMAGE_PORTS="8080,8443")
    assert listed.image_limits.ports == (8080, 8443)
    assert parse(VISUALGLM_ALLOW_IMAGE_URLS="yes").allow_image_urls
    assert not parse(VISUALGLM_ALLOW_IMAGE_URLS="no").allow_image_urls
    assert parse() == Settings()


@pytest.mark.parametrize(
    "words", [["--max-batch", "0"], ["--api-key", "a b"], ["--body-timeout", "nan"], ["--port", "65536"]]
)
def test_invalid_settings_are_rejected(words):
    with pytest.raises(SettingError):
        parse(*words)


def start(program: str, *words: str) -> subprocess.Popen[str]:
    command = [program, "--port", "0", *words]
    return ForkedProgram(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@contextmanager
def started(program: str, *words: str) -> Iterator[tuple[subprocess.Popen[str], httpx.Client]]:
    process = start(program, *words)
    try:
        lines = map(json.loads, process.stderr)
        port = next(line["port"] for line in lines if line["event"] == "listening")
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60, trust_env=False) as client:
            yield process, client
    finally:
        process.kill()
        process.communicate()


@pytest.mark.parametrize("program", ["api.py", pytest.param("api_hf.py", marks=pytest.mark.slow)])
def test_it_loads_the_model_answers_and_stops_at_sigterm(program):
    with started(program, *TINY) as (process, client):
        assert client.get("/health").status_code == 200  # even while the model loads
        wait_until(lambda: client.get("/ready").status_code == 200, 60)
        answer = client.post("/", json={"image": SCENE_BASE64, "text": DESCRIBE, "temperature": 0})
        assert answer.json()["response"] == DESCRIPTION
        assert client.get("/v1/models").json()["data"][0]["id"] == "visualglm-tiny"
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0
        assert json.loads(process.stderr.read().splitlines()[-1])["event"] == "stopping"


def test_a_model_that_cannot_be_loaded_ends_the_program_with_the_reason(tmp_path):
    process = start("api.py", "--from_pretrained", str(tmp_path))
    assert str(tmp_path) in process.communicate(timeout=60)[1].splitlines()[-1]
    assert process.returncode == 1


def test_a_port_in_use_is_reported():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        process = start("api.py", *TINY, "--port", str(taken.getsockname()[1]))
        assert "Choose another --host or --port" in process.communicate(timeout=60)[1]
        assert process.returncode == 2


@pytest.mark.parametrize(
    ("host", "keys", "warned"), [("0.0.0.0", (), True), ("0.0.0.0", ("k",), False), ("localhost", (), False)]
)
def test_a_public_address_without_a_key_is_logged_as_a_warning(host, keys, warned, caplog):
    from visualglm.server.listening import warn_if_unauthenticated

    warn_if_unauthenticated(Settings(host=host, api_keys=keys))
    assert bool(caplog.records) is warned


COUNT_ARENAS = """
import ctypes, threading
from visualglm.server.http_server import limit_malloc_arenas

limit_malloc_arenas()
libc = ctypes.CDLL(None)
libc.malloc.restype = libc.fopen.restype = ctypes.c_void_p
together = threading.Barrier(12)


def allocate():
    libc.malloc(1000)
    together.wait()


threads = [threading.Thread(target=allocate) for _ in range(12)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
file = ctypes.c_void_p(libc.fopen(b"/dev/stdout", b"w"))
libc.malloc_info(0, file)
libc.fclose(file)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="a setting of glibc")
def test_questions_are_rejected_until_the_model_is_warmed_up() -> None:
    settings, has_begun, may_end = Settings(port=0), threading.Event(), threading.Event()
    server = Server(create_app(None, settings), settings)

    class Model(SteppedModel):
        def warm_up(self) -> None:
            has_begun.set()
            assert may_end.wait(20)

    server.prepare(partial(load_into, server.service, Model))
    assert has_begun.wait(20)
    assert server.service.model is None
    may_end.set()
    wait_until(lambda: server.service.model is not None)


def test_threads_share_few_arenas() -> None:
    done = run_preloaded(COUNT_ARENAS, modules=PROGRAMS)
    assert done.returncode == 0, done.stderr
    assert 1 <= done.stdout.count("<heap nr=") <= MALLOC_ARENAS
