"""A server of OpenAI's protocol answers an evaluation as the local model does; its refusals are handled."""

import json
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.helpers.ports import free_port
from visualglm.batch.tasks import Settings, Task
from visualglm.evaluation import program
from visualglm.evaluation.errors import EvaluationError
from visualglm.evaluation.server_backend import ServerBackend, find_choices, to_data_url

SETTINGS = Settings("m", sampling={"temperature": 0, "max_new_tokens": 5})
Reply = Callable[[dict[str, Any], int], tuple[int, dict[str, Any]]]


def completion(text: str, logprobs: dict[str, Any] | None = None) -> dict[str, Any]:
    choice = {"message": {"content": text}, "finish_reason": "stop", "logprobs": logprobs}
    return {"choices": [choice], "usage": {"prompt_tokens": 3, "completion_tokens": 2}}


@pytest.fixture
def scripted() -> Iterator[Callable[[Reply], str]]:
    """A function that starts a server, which replies by a function of the request and of its number."""
    servers: list[ThreadingHTTPServer] = []

    def start(reply: Reply) -> str:
        numbers = iter(range(1000))

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                status, content = reply(body, next(numbers))
                data = json.dumps(content).encode()
                self.send_response(status)
                self.send_header("Content-Length", str(len(data)))
                self.send_header("Retry-After", "0")
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *args: Any) -> None:
                pass

        servers.append(ThreadingHTTPServer(("127.0.0.1", 0), Handler))
        threading.Thread(target=servers[-1].serve_forever, daemon=True).start()
        return f"http://127.0.0.1:{servers[-1].server_port}/v1/"

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def answer(url: str, **more: Any) -> Any:
    task = Task("1", 1, None, {1: "Which?"}, **more)
    (result,) = ServerBackend(url, "m", "key", 2)(SETTINGS, [task])
    return result


def test_a_server_answers_as_the_local_model_does(
    tiny_server: httpx.Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers = {}
    for name, words in (("server", ["--server", str(tiny_server.base_url)]), ("local", ["--device", "cpu"])):
        words += ["--data", "scenes:1", "--output", str(tmp_path / name)]
        model = [] if name == "server" else ["visualglm-tiny"]
        monkeypatch.setattr(sys, "argv", ["visualglm evaluate", *model, *words])
        assert program.main() == 0
        lines = (tmp_path / name / "answers.jsonl").read_text(encoding="utf-8").splitlines()
        answers[name] = {
            row["key"]: (row["answer"], pytest.approx(row["logprob"], abs=1e-3)) for row in map(json.loads, lines)
        }
    # The server chooses the language by the question alone, as it does for the scenes' questions.
    assert answers["server"] == answers["local"]


def test_a_server_without_log_probabilities_is_asked_without(scripted: Callable[[Reply], str]) -> None:
    bodies = []

    def reply(body: dict[str, Any], number: int) -> tuple[int, dict[str, Any]]:
        bodies.append(body)
        return (400, {"error": {"message": "no logprobs"}}) if "logprobs" in body else (200, completion("A"))

    backend = ServerBackend(scripted(reply), "m", None, 1)
    results = list(backend(SETTINGS, [Task(key, 1, None, {1: "Which?"}) for key in "ab"]))
    assert [(one.answer, one.logprob) for one in results] == [("A", None)] * 2
    assert ["logprobs" in body for body in bodies] == [True, False, False]


def test_a_busy_server_is_asked_again(scripted: Callable[[Reply], str]) -> None:
    url = scripted(lambda body, number: (200, completion("A")) if number > 2 else (429 if number else 503, {}))
    assert answer(url).answer == "A"


def test_a_refusal_is_the_error_of_its_question(scripted: Callable[[Reply], str]) -> None:
    url = scripted(lambda body, number: (413, {"error": {"message": "too large"}}))
    assert "too large" in answer(url).error


def test_letters_are_scored_by_the_first_token(scripted: Callable[[Reply], str]) -> None:
    def reply(body: dict[str, Any], number: int) -> tuple[int, dict[str, Any]]:
        assert [message["role"] for message in body["messages"]] == ["user", "assistant", "user"]
        top = [{"token": token, "logprob": value} for token, value in ((" B", -0.1), ("A.", -2.0), ("b", -3.0))]
        return 200, completion("B", {"content": [{"token": " B", "logprob": -0.1, "top_logprobs": top}]})

    url = scripted(reply)
    result = answer(url, choices=["A", "B"], history=[("Hi", "Hello")])
    assert (result.choice_logprobs, result.logprob) == ([-2.0, -0.1], -0.1)
    assert answer(url, choices=["A", "C"], history=[("Hi", "Hello")]).choice_logprobs == []


def test_only_the_sampling_parameters_that_are_set_are_sent(scripted: Callable[[Reply], str]) -> None:
    bodies: list[dict[str, Any]] = []

    def reply(body: dict[str, Any], number: int) -> tuple[int, dict[str, Any]]:
        bodies.append(body)
        return 200, completion("red")

    backend = ServerBackend(scripted(reply), "m", None, 1)
    for sampling in ({"temperature": 0}, {"seed": 2}, {"top_p": 0.5, "temperature": 0.8, "seed": 1}):
        settings = Settings("m", sampling={"max_new_tokens": 5, "repetition_penalty": 1.0, **sampling})
        list(backend(settings, [Task("1", 1, None, {1: "What?"})]))
        assert {name: bodies[-1][name] for name in ("temperature", "top_p", "seed") if name in bodies[-1]} == sampling


def test_a_server_that_is_not_there_is_told() -> None:
    with pytest.raises(EvaluationError, match="does not answer"):
        ServerBackend(f"http://127.0.0.1:{free_port()}", None, None, None)


def test_images_become_data_urls(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"\x89PNG...")
    assert to_data_url(str(tmp_path / "a.png")).startswith("data:image/png;base64,")
    assert to_data_url(b"\xff\xd8...").startswith("data:image/jpeg;base64,")
    assert to_data_url("https://example.org/a.png") == "https://example.org/a.png"


def test_no_choices_are_found_without_their_tokens() -> None:
    assert find_choices({"top_logprobs": []}, ["A"]) == []
