"""An HTTP client of the page, which can also send requests that no browser sends."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

from tests.helpers.cli_program import PATIENCE

GREEDY = {"temperature": 0}
Event = dict[str, Any]


class PageClient:
    """A visitor of the page.

    Args:
        url: of the page.
        headers: of all requests.
    """

    def __init__(self, url: str, **headers: str) -> None:
        self.http = httpx.Client(base_url=url, headers=headers, timeout=PATIENCE, trust_env=False)

    def log_in(self, name: str, password: str, **headers: str) -> httpx.Response:
        return self.http.post("/login", data={"username": name, "password": password}, headers=headers)

    def info(self) -> dict[str, Any]:
        return self.http.get("/page/info").json()

    def send_image(self, image: bytes | str | Path) -> httpx.Response:
        data = image if isinstance(image, bytes) else Path(image).read_bytes()
        return self.http.post("/page/images", content=data)

    def add_image(self, image: bytes | str | Path) -> str:
        """Send an image; return its id."""
        answer = self.send_image(image)
        assert answer.status_code == 200, answer.text
        return str(answer.json()["id"])

    def post(self, path: str, body: Any, **parameters: str) -> httpx.Response:
        """Post JSON, also with numbers and characters that JSON does not allow."""
        return self.http.post(path, content=json.dumps(body), params=parameters)

    def ask(self, question: str, image: str | None = None, **values: Any) -> str:
        """Return the complete answer to a question."""
        events = self.events(question, image, **values)
        assert events[-1]["type"] == "done", events[-1]
        return text_of(events)

    def events(self, question: str, image: str | None = None, **values: Any) -> list[Event]:
        """Return the events of an answer."""
        with self.answering(question, image, **values) as events:
            return list(events)

    @contextmanager
    def answering(self, question: str, image: str | None = None, **values: Any) -> Iterator[Iterator[Event]]:
        """Context manager: ask a question; yield the events as they come; disconnect at the end."""
        body = {"question": question, "image": image, "settings": GREEDY, **values}
        with self.http.stream("POST", "/page/answers", json=body) as answer:
            assert answer.status_code == 200, answer.read()
            yield map(json.loads, answer.iter_lines())

    def close(self) -> None:
        self.http.close()


def text_of(events: list[Event]) -> str:
    """Return the text of an answer's events."""
    return "".join(event["text"] for event in events if event["type"] == "text")


def error_code(answer: httpx.Response) -> str:
    """Return the code of an error response."""
    error = answer.json()["error"]
    assert error["message"], error
    return str(error["code"])
