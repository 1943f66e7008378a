"""The server on a real Ray. Two tests start it once each and check all properties, because a start takes long."""

import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from model import SatChatModel
from tests.helpers.api_server import DESCRIBE, SCENE_BASE64, SCENE_URL, completion, events, serving, wait_until
from tests.helpers.ray_server import MODEL_PROCESS, START_S, RayServer, Stream, cpu_ticks, deployed_server, ray_server

pytest.importorskip("ray")
PATH = "/v1/chat/completions"
EXPLAINED: dict[str, Any] = {"text": "What colour is the star?", "image": SCENE_BASE64, "temperature": 0}
CLUSTER = """
model: {from_pretrained: visualglm-tiny, device: cpu}
server: {port: PORT, api-key: KEY, max-batch: 4, allow-explain: true}
replicas: 2
http-replicas: 2
cpus: 0.5
"""


@pytest.mark.slow
def test_a_server_on_ray_serves_survives_and_stops(tmp_path: Path, tiny_model: SatChatModel) -> None:
    flags = ("--from_pretrained", "visualglm-tiny", "--replicas", "2", "--allow-explain")
    with ray_server(tmp_path, *flags) as server:
        both_protocols_answer_about_an_image(server)
        answers_are_streamed(server)
        requests_without_a_key_are_rejected(server)
        errors_have_the_form_of_their_protocol(server)
        explanations_equal_those_of_one_process(server, tiny_model)
        what_cannot_be_explained_is_rejected(server)
        a_disconnected_client_stops_its_answer(server)
        a_lost_replica_costs_its_running_answers_alone(server)
        a_question_that_waits_in_a_lost_replica_is_answered_by_another(server)
        an_explanation_of_a_lost_replica_is_computed_by_another(server)
        a_stopped_server_finishes_its_answers(server)


@pytest.mark.slow
def test_a_server_on_a_cluster_serves_and_is_updated(tmp_path: Path, tiny_model: SatChatModel) -> None:
    with deployed_server(tmp_path, CLUSTER) as (server, deploy):
        both_protocols_answer_about_an_image(server)
        answers_are_streamed(server)
        requests_without_a_key_are_rejected(server)
        errors_have_the_form_of_their_protocol(server)
        explanations_equal_those_of_one_process(server, tiny_model)
        a_disconnected_client_stops_its_answer(server)
        an_update_loses_no_answer_and_no_count(server, lambda: deploy(CLUSTER.replace("max-batch: 4", "max-batch: 8")))


def both_protocols_answer_about_an_image(server: RayServer) -> None:
    native = server.ask(text=DESCRIBE, image=SCENE_BASE64, max_new_tokens=8, temperature=0)
    openai = server.client.post("/v1/chat/completions", json=completion(DESCRIBE, image=SCENE_URL, max_tokens=8))
    assert (native.status_code, openai.status_code) == (200, 200)
    assert native.json()["response"] == openai.json()["choices"][0]["message"]["content"] != ""


def answers_are_streamed(server: RayServer) -> None:
    stream = Stream(server, max_new_tokens=40)
    stream.join()
    assert stream.is_complete
    assert len(stream.events) > 2
    body = completion("Hello", stream=True, max_tokens=20, min_length=2000, stop=["zzz"])
    parts = events(server.client.post("/v1/chat/completions", json=body))
    assert parts[-1]["choices"][0]["finish_reason"] == "length"


def requests_without_a_key_are_rejected(server: RayServer) -> None:
    for path in ("/", "/v1/chat/completions"):
        response = server.client.post(path, json={}, headers={"Authorization": ""})
        assert response.status_code == 401
    assert server.client.get("/health", headers={"Authorization": ""}).status_code == 200


def errors_have_the_form_of_their_protocol(server: RayServer) -> None:
    too_long = server.ask(text="你" * 3000)
    assert (too_long.status_code, too_long.json()["status"]) == (400, 400)
    too_long = server.client.post("/v1/chat/completions", json=completion("你" * 3000))
    assert too_long.json()["error"]["code"] == "context_length_exceeded"
    assert server.client.get("/nothing").json()["error"]["code"] == "unknown_route"


def explanations_equal_those_of_one_process(server: RayServer, tiny_model: SatChatModel) -> None:
    before = server.metric("visualglm_explanation_seconds_count")
    with serving(tiny_model, allow_explain=True) as single:
        expected = [ask_for_explanation(single, explain) for explain in (True, "tokens")]
    for explain, wanted in zip((True, "tokens"), expected, strict=True):
        assert "map" in wanted
        assert is_alike(ask_for_explanation(server.client, explain), wanted)
        native = server.client.post("/", json={**EXPLAINED, "explain": explain, "stream": True})
        assert is_alike(events(native)[-1]["explanation"], wanted)
        body = completion(EXPLAINED["text"], image=SCENE_URL, temperature=0, explain=explain)
        (choice,) = server.client.post(PATH, json=body).json()["choices"]
        assert is_alike(choice["explanation"], wanted)
        streamed = events(server.client.post(PATH, json={**body, "stream": True}))
        assert is_alike(streamed[-1]["choices"][0]["explanation"], wanted)
    wait_until(lambda: server.metric("visualglm_explanation_seconds_count") == before + 8, 60)


def ask_for_explanation(client: httpx.Client, explain: bool | str) -> Any:
    return client.post("/", json={**EXPLAINED, "explain": explain}).json()["explanation"]


def is_alike(found: Any, expected: Any) -> bool:
    """Return whether JSON values are equal, apart from the last digit of numbers: threads add up in another order."""
    if isinstance(expected, dict):
        return found.keys() == expected.keys() and all(is_alike(found[key], expected[key]) for key in expected)
    if isinstance(expected, list):
        return len(found) == len(expected) and all(map(is_alike, found, expected))
    return found == pytest.approx(expected, abs=2e-3) if isinstance(expected, float) else bool(found == expected)


def what_cannot_be_explained_is_rejected(server: RayServer) -> None:
    native = server.ask(explain=True)
    openai = server.client.post(PATH, json=completion(DESCRIBE, explain=True))
    assert (native.status_code, openai.status_code) == (400, 400)
    assert openai.json()["error"]["param"] == "explain"


def a_disconnected_client_stops_its_answer(server: RayServer) -> None:
    with server.client.stream("POST", "/", json={"text": "你好", "stream": True, "min_length": 2000}) as response:
        next(response.iter_lines())
    wait_until(lambda: server.metric("visualglm_answers") == 0, 60)
    wait_until(lambda: not is_computing(server), 60)


def is_computing(server: RayServer) -> bool:
    """Return whether a model replica uses a fifth of a core or more."""
    seconds = 0.5
    before = {pid: cpu_ticks(pid) for pid in server.processes(MODEL_PROCESS)}
    time.sleep(seconds)
    limit = 0.2 * seconds * os.sysconf("SC_CLK_TCK")
    return any(cpu_ticks(pid) - ticks > limit for pid, ticks in before.items())


def a_lost_replica_costs_its_running_answers_alone(server: RayServer) -> None:
    streams = [Stream(server) for _ in range(6)]
    wait_until(lambda: all(len(stream.events) > 1 for stream in streams), 60)
    killed = server.processes(MODEL_PROCESS)[0]
    os.kill(killed, signal.SIGKILL)
    for stream in streams:
        stream.join()
    lost = [stream for stream in streams if not stream.is_complete]
    assert 0 < len(lost) < len(streams)
    assert all(stream.events[-1]["status"] == 500 and "Ask again" in stream.events[-1]["error"] for stream in lost)
    wait_for_another(server, killed)


def wait_for_another(server: RayServer, killed: int) -> None:
    """Wait until another process has replaced a killed one of two; the metric alone may still count the killed one."""

    def is_replaced() -> bool:
        processes = server.processes(MODEL_PROCESS)
        return len(processes) == 2 and killed not in processes

    wait_until(is_replaced, START_S)
    wait_until(lambda: server.metric("visualglm_replicas") == 2 and server.is_ready, START_S)


def a_question_that_waits_in_a_lost_replica_is_answered_by_another(server: RayServer) -> None:
    stopped = server.processes(MODEL_PROCESS)[0]
    os.kill(stopped, signal.SIGSTOP)  # questions that it receives wait for their first token
    streams = [Stream(server, max_new_tokens=8) for _ in range(6)]
    wait_until(lambda: any(stream.is_complete for stream in streams), 60)
    os.kill(stopped, signal.SIGKILL)
    for stream in streams:
        stream.join()
    assert all(stream.is_complete for stream in streams)
    wait_for_another(server, stopped)


def an_update_loses_no_answer_and_no_count(server: RayServer, update: Callable[[], None]) -> None:
    before = server.metric("visualglm_requests_total", '{path="/",status="200"}')
    old = {*server.processes(MODEL_PROCESS)}
    statuses: list[int] = []
    updated = threading.Event()

    def keep_asking() -> None:
        while not updated.is_set():
            statuses.append(server.ask().status_code)

    asking = [threading.Thread(target=keep_asking) for _ in range(2)]
    for thread in asking:
        thread.start()
    try:
        update()
        wait_until(lambda: old.isdisjoint(server.processes(MODEL_PROCESS)), START_S)
    finally:
        updated.set()
        for thread in asking:
            thread.join()
    assert {*statuses} == {200}
    count = before + len(statuses)
    wait_until(lambda: server.metric("visualglm_requests_total", '{path="/",status="200"}') == count, 60)


def an_explanation_of_a_lost_replica_is_computed_by_another(server: RayServer) -> None:
    expected = ask_for_explanation(server.client, True)
    before = {pid: cpu_ticks(pid) for pid in server.processes(MODEL_PROCESS)}
    streams = [Stream(server, **EXPLAINED, explain=True, max_new_tokens=8, min_length=0) for _ in range(8)]
    wait_until(lambda: all("red." in "".join(map(str, stream.events)) for stream in streams), 60)
    busier = max(before, key=lambda pid: cpu_ticks(pid) - before[pid])
    os.kill(busier, signal.SIGKILL)
    for stream in streams:
        stream.join()
    assert all(is_alike(stream.events[-1].get("explanation"), expected) for stream in streams)
    wait_for_another(server, busier)


def a_stopped_server_finishes_its_answers(server: RayServer) -> None:
    stream = Stream(server)
    wait_until(lambda: len(stream.events) > 1, 60)
    server.process.terminate()
    wait_until(lambda: server.client.get("/ready").json()["status"] == "stopping", 60)
    rejected = server.ask()
    assert (rejected.status_code, rejected.json()["status"]) == (503, 503)
    stream.join()
    assert stream.is_complete
    assert server.process.wait(START_S) == 0
    wait_until(lambda: not server.processes(), 60)
