"""An HTTP client of the page that can send requests that no browser sends."""

import json
import secrets
from typing import Any

import httpx

from tests.helpers.cli_program import PATIENCE

DEFAULTS = [2048, 0.4, 100, 0, 1.2, None]


class RawVisitor:
    """A visitor with one session of the page."""

    def __init__(self, url: str, **headers: str) -> None:
        self.http = httpx.Client(base_url=url, headers=headers, timeout=PATIENCE, trust_env=False)
        self.session = secrets.token_hex(6)

    def log_in(self, name: str, password: str) -> httpx.Response:
        return self.http.post("/login", data={"username": name, "password": password})

    def events(self) -> list[dict[str, Any]]:
        """Return the events in the page's configuration."""
        return self.http.get("/config").json()["dependencies"]

    def join(self, name: str | int, values: Any, event_data: Any = None) -> httpx.Response:
        """Start an event, given by its name or number."""
        if isinstance(name, str):
            name = next(event["id"] for event in self.events() if event["api_name"] == name)
        body = {"fn_index": name, "session_hash": self.session, "data": values, "event_data": event_data}
        kind = {"Content-Type": "application/json"}
        return self.http.post("/gradio_api/queue/join", content=json.dumps(body), headers=kind)

    def fetch(self) -> list[dict[str, Any]]:
        """Return the messages of all started events."""
        answer = self.http.get("/gradio_api/queue/data", params={"session_hash": self.session})
        return [json.loads(line.removeprefix("data: ")) for line in answer.text.splitlines() if line]

    def call(self, name: str | int, values: Any, event_data: Any = None) -> list[dict[str, Any]]:
        """Run an event; return its messages."""
        joined = self.join(name, values, event_data)
        assert joined.status_code == 200, joined.text
        return [
            message for message in self.fetch() if message["msg"] in ("log", "process_generating", "process_completed")
        ]

    def load(self) -> "RawVisitor":
        """Run the load event, as a browser does when it opens the page; it updates every component."""
        self.call("greet", [None])
        return self

    def upload(self, data: bytes, name: str) -> str:
        """Upload a file; return its path on the server."""
        answer = self.http.post("/gradio_api/upload", files={"files": (name, data)})
        assert answer.status_code == 200, answer.text
        return answer.json()[0]

    def saved(self) -> dict[str, Any]:
        """Return the JSON document of the saved conversation."""
        path = self.call("save_json", [None])[-1]["output"]["data"][0]["file"]
        return self.http.get(f"/gradio_api/file={path}").json()


def shown_messages(messages: list[dict[str, Any]]) -> str:
    """Return the warnings and errors that an event shows in a corner of the page."""
    logs = [message["log"] for message in messages if message["msg"] == "log"]
    errors = [message["output"].get("error") or "" for message in messages if "output" in message]
    return "\n".join(filter(None, [*logs, *errors]))
