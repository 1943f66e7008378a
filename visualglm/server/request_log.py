"""The request log, in JSON lines, and the metrics for Prometheus."""

import json
import logging
import re
import sys
import time
import traceback
import uuid
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from model.command_line import escape_unprintable

# These loggers write a line for each broken connection, and whenever a connection cannot be accepted.
NOISY_LOGGERS = ("uvicorn", "uvicorn.error", "asyncio")
LOGGER = logging.getLogger("visualglm.serving")
REQUEST_ID_PATTERN = re.compile(r"[A-Za-z0-9._-]{1,64}")


@dataclass
class RequestRecord:
    """The log record of a request; its fields are the fields of the log line.

    It never holds the image, and holds the text only with --log-text.

    Attributes:
        id: also in the header X-Request-Id, in error messages and in other log lines about the request.
        status: of the response; 499 if the client disconnected before it.
        key: number of the API key, counted from 1; never the key itself.
        picture: whether the request has an image.
        prompt_tokens, answer_tokens: sums over all answers of the request.
        explanation_s: seconds that the explanation took, with its time in the queue; None without one.
    """

    id: str
    method: str
    path: str
    client: str | None = None
    status: int = 499
    seconds: float = 0.0
    key: int | None = None
    streamed: bool = False
    picture: bool = False
    answers: int = 0
    prompt_tokens: int = 0
    answer_tokens: int = 0
    dropped_turns: int = 0
    first_token_s: float | None = None
    explanation_s: float | None = None
    finish_reasons: list[str] = field(default_factory=list)
    error: str | None = None
    text: dict[str, Any] | None = None


def choose_request_id(given: str | None) -> str:
    """Return the id that the client gave if it is valid, else a new one."""
    return given if given and REQUEST_ID_PATTERN.fullmatch(given) else uuid.uuid4().hex


class JsonFormatter(logging.Formatter):
    """Formats each log record as one line of JSON.

    Args:
        with_text: whether to write the messages of unexpected exceptions, which may quote a request.
    """

    def __init__(self, with_text: bool) -> None:
        super().__init__()
        self.with_text = with_text

    def format(self, record: logging.LogRecord) -> str:
        """Return the JSON line of a record: time, level, event, and the fields of its `details`."""
        moment = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        line = {
            "time": f"{moment}.{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "event": record.getMessage(),
            **getattr(record, "details", {}),
        }
        if record.exc_info and record.exc_info[1] is not None:
            line["traceback"] = self._describe(record.exc_info[1])
        return escape_unprintable(json.dumps(line, ensure_ascii=False))

    def _describe(self, error: BaseException) -> str:
        frames = "".join(traceback.format_tb(error.__traceback__))
        return f"{frames}{type(error).__name__}" + (f": {error}" if self.with_text else "")


class RateLimitFilter(logging.Filter):
    """Limits the rate of a logger's records.

    The first record of a period has the number of records that were left out in the period before.

    Args:
        max_records: per period.
        seconds: length of a period.
    """

    def __init__(self, max_records: int = 10, seconds: float = 10.0) -> None:
        super().__init__()
        self.max_records = max_records
        self.seconds = seconds
        self.started = -seconds
        self.count = 0

    def filter(self, record: logging.LogRecord) -> bool:
        """Return whether to write the record."""
        if time.monotonic() - self.started >= self.seconds:
            if self.count > self.max_records:
                record.details = {"left_out": self.count - self.max_records}
            self.started, self.count = time.monotonic(), 0
        self.count += 1
        return self.count <= self.max_records


def set_up_logging(with_text: bool) -> None:
    """Write the log records of the server, uvicorn and asyncio to the standard error as JSON lines."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter(with_text))
    for name in (LOGGER.name, *NOISY_LOGGERS):
        logger = logging.getLogger(name)
        logger.handlers, logger.propagate = [handler], False
        logger.setLevel(logging.INFO if name == LOGGER.name else logging.WARNING)
    for name in NOISY_LOGGERS:
        logging.getLogger(name).filters = [RateLimitFilter()]


def log(event: str, level: int = logging.INFO, raised: BaseException | None = None, **details: Any) -> None:
    """Write a log line with the fields `details` and the traceback of `raised`."""
    LOGGER.log(level, event, extra={"details": details}, exc_info=raised)


def log_request(record: RequestRecord) -> None:
    """Write the log line of a finished request, without fields that are empty or 0."""
    details = {name: value for name, value in asdict(record).items() if value}
    log("request", **details)


TIME_BUCKETS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 60, 120, 300)
TOKEN_TIME_BUCKETS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1)
ROUTES = ("/", "/v1/chat/completions", "/v1/models", "/health", "/ready", "/metrics", "/docs", "/openapi.json")


class Metrics:
    """The Prometheus metrics of one server.

    Args:
        running: returns the number of admitted answers.
        waiting: returns the number of admitted answers that have no token yet.
        generating: returns the number of admitted answers that have a token.
    """

    def __init__(
        self, running: Callable[[], float], waiting: Callable[[], float], generating: Callable[[], float]
    ) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter("visualglm_requests", "Finished requests", ["path", "status"], registry=self.registry)
        self.tokens = Counter("visualglm_tokens", "Tokens of prompts and answers", ["kind"], registry=self.registry)
        self.seconds = self._histogram("visualglm_request_seconds", "Time of a request", TIME_BUCKETS)
        self.first = self._histogram(
            "visualglm_time_to_first_token_seconds", "From question to first token", TIME_BUCKETS
        )
        self.token = self._histogram(
            "visualglm_time_per_token_seconds", "Mean of an answer's tokens", TOKEN_TIME_BUCKETS
        )
        self.explanation = self._histogram(
            "visualglm_explanation_seconds", "Time of an explanation, queueing included", TIME_BUCKETS
        )
        for name, text, count in (
            ("visualglm_answers", "Admitted answers", running),
            ("visualglm_queue", "Answers that wait for their first token", waiting),
            ("visualglm_batch_size", "Answers that are being generated", generating),
        ):
            Gauge(name, text, registry=self.registry).set_function(count)

    def _histogram(self, name: str, text: str, buckets: tuple[float, ...]) -> Histogram:
        return Histogram(name, text, buckets=buckets, registry=self.registry)

    def observe_request(self, record: RequestRecord) -> None:
        """Count a finished request."""
        path = record.path if record.path in ROUTES else "other"  # arbitrary paths must not become labels
        self.requests.labels(path, str(record.status)).inc()
        if record.answers:
            self.seconds.observe(record.seconds)

    def count_tokens(self, prompt_tokens: int, answer_tokens: int) -> None:
        """Count the tokens of a finished request."""
        self.tokens.labels("prompt").inc(prompt_tokens)
        self.tokens.labels("answer").inc(answer_tokens)

    def observe_times(self, first_s: float, token_s: float | None) -> None:
        """Record the time to the first token of an answer, and the mean time of each later token."""
        self.first.observe(first_s)
        if token_s is not None:
            self.token.observe(token_s)

    def observe_explanation(self, seconds: float) -> None:
        """Count an explanation, and record its duration."""
        self.explanation.observe(seconds)

    def export(self) -> bytes:
        """Return the metrics in Prometheus' text format."""
        return generate_latest(self.registry)
