"""Keys, body limits, timeouts, cross-site requests, server states, the request log and the metrics."""

import json
import logging
import re
import socket
import time
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from tests.helpers.api_server import SCENE_BASE64, SteppedModel, completion, serving, wait_until
from visualglm.server import Settings
from visualglm.server.request_log import JsonFormatter

PATH = "/v1/chat/completions"
NATIVE = {"text": "hello", "max_new_tokens": 1}


@pytest.fixture(scope="module")
def client():
    with serving(SteppedModel(free=True, length=3), max_body=100_000, body_timeout=0.5) as client:
        yield client


def test_a_key_is_required_if_keys_are_set():
    with serving(SteppedModel(free=True, length=3), api_keys=("first", "second")) as client:
        for authorization in ("", "Bearer", "Bearer firs", "Bearer first second", "Basic first", "first"):
            for path in ("/", PATH):
                response = client.post(path, json=NATIVE, headers={"Authorization": authorization})
                assert response.status_code == 401 and response.headers["WWW-Authenticate"] == "Bearer"
        assert response.json()["error"]["type"] == "authentication_error"
        assert client.get("/v1/models").status_code == client.get("/metrics").status_code == 401
        assert client.get("/nothing").status_code == 401
        for key in ("first", "second"):
            headers = {"Authorization": f"Bearer {key}"}
            assert client.post("/", json=NATIVE, headers=headers).status_code == 200
            assert client.get("/metrics", headers=headers).status_code == 200
        for path in ("/health", "/ready", "/docs", "/openapi.json"):
            assert client.get(path).status_code == 200


def test_a_key_that_is_not_ascii_is_a_wrong_key():
    with serving(SteppedModel(free=True), api_keys=("first",)) as client:
        for key in (b"\xff\xfe", "键".encode()):
            assert client.post("/", json=NATIVE, headers={b"Authorization": b"Bearer " + key}).status_code == 401


@pytest.mark.parametrize(("header", "status"), [("Authorization: Bearer other", b"401"), ("Origin: null", b"403")])
def test_a_rejected_client_gets_the_response_after_its_complete_body(header, status):
    keys = ("first",) if status == b"401" else ()
    with (
        serving(SteppedModel(), api_keys=keys) as client,
        socket.create_connection(("127.0.0.1", client.port)) as sock,
    ):
        sock.sendall(f"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 40\r\n{header}\r\n\r\n".encode())
        # On a closed connection, the first part would be answered by a reset, and sending the second would fail.
        for part in (b"x" * 20, b"y" * 20):
            time.sleep(0.2)
            sock.sendall(part)
        assert sock.recv(4096).split()[1] == status


def test_one_key_cannot_use_all_permits():
    model = SteppedModel()
    with serving(model, api_keys=("a", "b"), max_per_key=1) as client, ThreadPoolExecutor(1) as pool:
        one, two = ({"Authorization": f"Bearer {key}"} for key in "ab")
        waiting = pool.submit(client.post, "/", json=NATIVE, headers=one)
        wait_until(lambda: model.open == 1)
        assert client.post("/", json=NATIVE, headers=one).status_code == 429
        model.step(2)
        assert client.post("/", json=NATIVE, headers=two).status_code == 200
        assert waiting.result().status_code == 200


def test_a_body_that_is_too_large_is_413(client):
    large = b" " * 100_001
    assert client.post("/", content=large[:-4] + b"{}").status_code == 400
    for content in (large, (large[i : i + 999] for i in range(0, len(large), 999))):
        response = client.post("/", content=content)
        assert response.status_code == 413 and "100,000 bytes" in response.json()["error"]
    assert client.post("/", json=NATIVE).status_code == 200


def test_a_client_that_expects_100_continue_need_not_send_a_large_body(client):
    with socket.create_connection(("127.0.0.1", client.port), timeout=20) as sock:
        sock.sendall(b"POST / HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 999999\r\n\r\n")
        assert sock.recv(9999).startswith(b"HTTP/1.1 413")


@pytest.mark.parametrize(
    "sent",
    [
        b"Content-Length: 100\r\n\r\n",
        b'Content-Length: 100\r\n\r\n{"text":',
        b'Transfer-Encoding: chunked\r\n\r\n5\r\n{"tex\r\n',
    ],
)
def test_a_body_that_does_not_arrive_is_408(client, sent):
    with socket.create_connection(("127.0.0.1", client.port), timeout=20) as sock:
        sock.sendall(b"POST / HTTP/1.1\r\nHost: x\r\n" + sent)
        answer = b"".join(iter(lambda: sock.recv(9999), b""))
    assert answer.startswith(b"HTTP/1.1 408") and b"did not arrive" in answer


def test_a_body_that_arrives_slowly_is_408(client):
    with socket.create_connection(("127.0.0.1", client.port), timeout=20) as sock:
        sock.sendall(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 100000\r\n\r\n")
        sock.settimeout(0.05)
        answer, end = b"", time.monotonic() + 20
        while not answer and time.monotonic() < end:
            sock.sendall(b" ")
            try:
                answer = sock.recv(9999)
            except TimeoutError:
                continue
    assert answer.startswith(b"HTTP/1.1 408")


@pytest.mark.parametrize("sent", [b"", b"POST / HT", b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n{"])
def test_connections_that_are_closed_halfway_leave_nothing(client, sent):
    with socket.create_connection(("127.0.0.1", client.port), timeout=20) as sock:
        sock.sendall(sent)
        sock.shutdown(socket.SHUT_WR)
        assert sock.recv(9999) == b""
    wait_until(
        lambda: not any(c.cycle and not c.cycle.response_complete for c in client.server.server_state.connections)
    )
    assert client.post("/", json=NATIVE).status_code == 200


def test_a_silent_connection_is_closed(monkeypatch):
    monkeypatch.setattr("visualglm.connections.HEADER_TIMEOUT_S", 0.1)
    with serving(SteppedModel(free=True)) as client:
        for sent in (b"", b"POST / HTTP/1.1\r\nHost"):
            with socket.create_connection(("127.0.0.1", client.port), timeout=20) as sock:
                sock.sendall(sent)
                assert sock.recv(9999) == b""


def test_the_server_is_alive_and_not_ready_while_the_model_loads():
    with serving(None) as client:
        assert client.get("/health").json() == {"status": "ok"}
        assert (response := client.get("/ready")).status_code == 503 and response.json() == {"status": "loading"}
        for path in ("/", PATH):
            response = client.post(path, json=NATIVE)
            assert response.status_code == 503 and "Retry-After" in response.headers
        client.service.model = SteppedModel(free=True)
        assert client.get("/ready").json() == {"status": "ready"}
        assert client.post("/", json=NATIVE).status_code == 200


def test_scripts_of_other_sites_need_a_cors_origin():
    page = {"Origin": "https://page.example", "Access-Control-Request-Method": "POST"}
    with serving(SteppedModel(free=True)) as client:
        assert "access-control-allow-origin" not in client.post("/", json=NATIVE, headers=page).headers
        assert client.options("/", headers=page).status_code == 405
    with serving(SteppedModel(free=True), cors_origins=("https://page.example",), api_keys=("key",)) as client:
        headers = {**page, "Access-Control-Request-Headers": "authorization,content-type"}
        assert client.options(PATH, headers=headers).headers["access-control-allow-origin"] == "https://page.example"
        assert client.options(PATH, headers={**headers, "Origin": "https://other.example"}).status_code == 400
        for key, status in (("key", 200), ("other", 401)):
            answer = client.post("/", json=NATIVE, headers={**page, "Authorization": f"Bearer {key}"})
            assert answer.status_code == status
            assert answer.headers["access-control-allow-origin"] == "https://page.example"


@pytest.mark.parametrize(
    "kind", ["text/plain;charset=UTF-8", "application/x-www-form-urlencoded", "multipart/form-data", None]
)
@pytest.mark.parametrize("path", ["/", PATH])
def test_another_site_cannot_send_questions_through_a_browser(client, path, kind):
    body = json.dumps(NATIVE if path == "/" else completion("hello")).encode()
    unasked = {} if kind is None else {"Content-Type": kind}

    def ask(**headers: str) -> int:
        return client.post(path, content=body, headers={**unasked, **headers}).status_code

    assert ask(Origin="https://page.example") == ask(Origin="null") == 403
    assert ask(Origin=f"http://127.0.0.1:{client.port + 1}") == 403
    assert ask() == ask(Origin=f"http://127.0.0.1:{client.port}") == 200
    assert ask(Origin="https://page.example", **{"Content-Type": "application/json"}) == 200
    with serving(SteppedModel(free=True), cors_origins=("https://page.example",)) as allowing:
        for origin, status in (("https://page.example", 200), ("https://other.example", 403)):
            headers = {**unasked, "Origin": origin}
            assert allowing.post(path, content=body, headers=headers).status_code == status


@pytest.mark.parametrize("path", ["/", PATH])
def test_a_site_whose_name_resolves_to_this_machine_cannot_ask(client, path):
    body = NATIVE if path == "/" else completion("hello")

    def ask(client: httpx.Client, host: str) -> int:
        origin = f"http://{host}"
        return client.post(path, json=body, headers={"Host": host, "Origin": origin}).status_code

    port = client.port
    assert ask(client, f"page.example:{port}") == ask(client, "localhost.page.example") == 403
    for name in ("localhost", f"localhost:{port}", f"chat.localhost:{port}", f"127.0.0.1:{port}", f"[::1]:{port}"):
        assert ask(client, name) == 200
    assert client.post(path, json=body, headers={"Host": "page.example"}).status_code == 200  # not sent by a browser
    with serving(SteppedModel(free=True, length=1), cors_origins=("http://page.example",)) as allowing:
        assert ask(allowing, "page.example") == 200
        assert ask(allowing, "other.example") == 403
    with serving(SteppedModel(free=True, length=1), api_keys=("key",)) as protected:
        headers = {"Host": "page.example", "Origin": "http://page.example", "Authorization": "Bearer key"}
        assert protected.post(path, json=body, headers=headers).status_code == 200


def test_the_documentation_page_loads_nothing_from_other_sites(client):
    with serving(SteppedModel(), api_keys=("key",)) as protected:
        for server in (client, protected):
            page = server.get("/docs")
            needed = re.findall(r'(?:src|href)="([^"]*)"|url: \'([^\']*)\'', page.text)
            addresses = [page.url.join(one or other) for one, other in needed]
            assert len(addresses) == 4 and {address.host for address in addresses} == {"127.0.0.1"}
            assert all(len(server.get(address).content) > 1000 for address in addresses)
    assert client.get("/docs/other.js").status_code == 404


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/", 405),
        ("GET", PATH, 405),
        ("POST", "/v1/models", 405),
        ("GET", "/v1/nothing", 404),
        ("PUT", "/", 405),
    ],
)
def test_unknown_paths_and_methods(client, method, path, status):
    response = client.request(method, path)
    assert response.status_code == status
    assert ("error" if path == "/" else "message") in (response.json() if path == "/" else response.json()["error"])
    assert status != 405 or response.headers["allow"]


@pytest.mark.parametrize("path", ["/v1", "/v1/completions", "/v1/responses", "/v1/v1/chat/completions"])
def test_the_error_of_an_unknown_v1_path_lists_the_v1_routes(client, path):
    error = client.post(path, json={}).json()["error"]
    assert error["code"] == "unknown_route" and repr(path) in error["message"]
    for known in ("POST /v1/chat/completions", "GET /v1/models", "/docs"):
        assert known in error["message"]
    assert "/metrics" not in error["message"]


def test_the_error_of_any_other_unknown_path_lists_all_routes(client):
    message = client.post("/chat/completions", json={}).json()["error"]["message"]
    assert all(known in message for known in ("POST /,", "POST /v1/chat/completions", "GET /health", "/docs"))


def test_the_root_names_the_documentation_without_a_key():
    with serving(SteppedModel(free=True), api_keys=("key",)) as client:
        response = client.get("/")
        assert response.status_code == 405 and response.headers["allow"] == "POST"
        assert "POST" in response.json()["error"] and "/docs" in response.json()["error"]
        assert client.post("/", json=NATIVE).status_code == 401


def test_a_request_keeps_its_id_if_it_is_valid(client):
    assert client.get("/health", headers={"X-Request-Id": "my-1.a"}).headers["X-Request-Id"] == "my-1.a"
    for odd in ("a b", "x" * 65, '"\\', ""):
        given = client.post("/", json={}, headers={"X-Request-Id": odd})
        assert given.json()["request_id"] == given.headers["X-Request-Id"] != odd


@pytest.mark.parametrize("with_text", [False, True])
def test_the_log_has_a_line_of_json_for_each_request_and_no_text_unless_it_is_wanted(caplog, with_text):
    model = SteppedModel(free=True, length=3)
    caplog.set_level(logging.INFO, "visualglm.serving")
    body = {"text": "my secret", "image": SCENE_BASE64, "history": [["another secret", "told secret"]]}
    with serving(model, log_text=with_text, api_keys=("key-secret",)) as client:
        headers = {"Authorization": "Bearer key-secret"}
        client.post("/", json=body, headers=headers)
        client.post("/", json={**body, "top_p": "odd secret"}, headers=headers)
        model.error = ValueError("secret of the model")
        client.post("/", json=body, headers=headers)
        wait_until(lambda: sum(record.message == "request" for record in caplog.records) == 3)
    formatter = JsonFormatter(with_text)
    lines = [formatter.format(record) for record in caplog.records if record.name == "visualglm.serving"]
    assert any("secret" in line for line in lines) is with_text
    assert SCENE_BASE64[:40] not in "".join(lines) and "key-secret" not in "".join(lines)
    answered, refused, failed = (record for record in map(json.loads, lines) if record["event"] == "request")
    assert answered["status"] == 200 and answered["picture"] and answered["key"] == 1 and answered["answer_tokens"] == 3
    assert refused["status"] == 400 and refused["error"] == "float_type"
    assert failed["status"] == 500 and failed["error"] == "ValueError"
    (error,) = (record for record in map(json.loads, lines) if record["event"] == "error")
    assert error["id"] == failed["id"] and "stream_answer" in error["traceback"] and "ValueError" in error["traceback"]


def test_metrics_count_requests_tokens_and_times(client):
    def read() -> dict[str, float]:
        lines = [line for line in client.get("/metrics").text.splitlines() if not line.startswith("#")]
        return {name: float(value) for name, _, value in (line.rpartition(" ") for line in lines)}

    before = read()
    client.post(PATH, json=completion("hello", n=2))
    client.get("/made-up")
    wait_until(lambda: client.service.limiter.running == 0)
    after = read()

    def grown(name: str) -> float:
        return after[name] - before.get(name, 0)

    assert grown(f'visualglm_requests_total{{path="{PATH}",status="200"}}') == 1
    assert grown('visualglm_requests_total{path="other",status="404"}') == 1
    assert grown('visualglm_tokens_total{kind="prompt"}') == 14 and grown('visualglm_tokens_total{kind="answer"}') == 6
    assert grown("visualglm_time_to_first_token_seconds_count") == grown("visualglm_time_per_token_seconds_count") == 2
    assert after["visualglm_answers"] == after["visualglm_queue"] == after["visualglm_batch_size"] == 0
    assert not any("made-up" in name for name in after)


def test_metrics_show_waiting_and_running_answers():
    model = SteppedModel()
    with serving(model) as client, ThreadPoolExecutor(3) as pool:
        futures = [pool.submit(client.post, "/", json={"text": "hello", "max_new_tokens": 9}) for _ in range(3)]
        wait_until(lambda: model.open == 3)
        model.step(1)
        wait_until(lambda: "visualglm_queue 2.0" in client.get("/metrics").text)
        assert "visualglm_batch_size 1.0" in client.get("/metrics").text
        assert "visualglm_answers 3.0" in client.get("/metrics").text
        model.step(30)
        assert {future.result().status_code for future in futures} == {200}


def test_running_answers_end_and_new_questions_are_503_while_the_server_stops():
    model = SteppedModel()
    with serving(model) as client, ThreadPoolExecutor(1) as pool, httpx.Client(base_url=client.base_url) as other:
        assert other.get("/ready").status_code == 200  # opens its connection before the shutdown
        futures = pool.submit(client.post, "/", json={"text": "hello", "max_new_tokens": 4})
        wait_until(lambda: model.open == 1)
        client.server.handle_exit(2, None)
        assert other.get("/ready").json() == {"status": "stopping"} and other.get("/health").status_code == 200
        assert (response := other.post("/", json=NATIVE)).status_code == 503 and "Retry-After" in response.headers
        model.step(4)
        assert futures.result().json()["response"] == "a0 a1 a2 a3"
        wait_until(lambda: client.server.should_exit)


def test_an_answer_that_does_not_end_ends_with_the_server():
    model = SteppedModel()
    with serving(model, shutdown_timeout=0.1) as client, ThreadPoolExecutor(1) as pool:
        futures = pool.submit(client.post, "/", json={"text": "hello"})
        wait_until(lambda: model.open == 1)
        client.server.handle_exit(2, None)
        with pytest.raises(httpx.HTTPError):
            futures.result().raise_for_status()


def test_keys_and_limits_are_checked():
    from model import SettingError

    for odd in ({"max_batch": 0}, {"max_queue": -1}, {"api_keys": ("",)}, {"api_keys": ("a b",)}, {"port": -1}):
        with pytest.raises(SettingError):
            Settings(**odd)
    for needing in ({"allowed_image_domains": ("a.example",)}, {"allowed_image_ports": ("8080",)}):
        with pytest.raises(SettingError, match="--allow-image-urls"):
            Settings(**needing)
    for port in ("0", "-1", "65536", "http", "²", "9" * 5000):
        with pytest.raises(SettingError, match="--allowed-image-ports"):
            Settings(allow_image_urls=True, allowed_image_ports=(port,))
