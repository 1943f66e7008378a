"""Numbers for Prometheus, under GET /metrics."""

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from .trace import Trace

SECONDS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 60, 120, 300)
TOKEN_SECONDS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1)
ROUTES = ("/", "/v1/chat/completions", "/v1/models", "/health", "/ready", "/metrics", "/docs", "/openapi.json")


class Metrics:
    """Counts and times of one server.

    Args:
        under_way: counts the answers that have a place.
        waiting: counts those of them that have no token yet.
        writing: counts those that are being written.
    """

    def __init__(
        self, under_way: Callable[[], float], waiting: Callable[[], float], writing: Callable[[], float]
    ) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "visualglm_requests", "Requests that are over", ["path", "status"], registry=self.registry
        )
        self.tokens = Counter("visualglm_tokens", "Tokens read and written", ["kind"], registry=self.registry)
        self.seconds = self._histogram("visualglm_request_seconds", "Time of a request", SECONDS)
        self.first = self._histogram("visualglm_time_to_first_token_seconds", "From question to first token", SECONDS)
        self.token = self._histogram("visualglm_time_per_token_seconds", "Mean of an answer's tokens", TOKEN_SECONDS)
        for name, text, count in (
            ("visualglm_answers", "Answers that have a place", under_way),
            ("visualglm_queue", "Answers that wait for their first token", waiting),
            ("visualglm_batch_size", "Answers that are being written", writing),
        ):
            Gauge(name, text, registry=self.registry).set_function(count)

    def _histogram(self, name: str, text: str, buckets: tuple[float, ...]) -> Histogram:
        return Histogram(name, text, buckets=buckets, registry=self.registry)

    def note_request(self, trace: Trace) -> None:
        """Count a request that is over."""
        path = trace.path if trace.path in ROUTES else "other"  # whatever clients think up must not become labels
        self.requests.labels(path, str(trace.status)).inc()
        if trace.answers:
            self.seconds.observe(trace.seconds)

    def note_answers(self, prompt_tokens: int, answer_tokens: int) -> None:
        """Count the tokens of answers that are over."""
        self.tokens.labels("prompt").inc(prompt_tokens)
        self.tokens.labels("answer").inc(answer_tokens)

    def note_times(self, first_s: float, token_s: float | None) -> None:
        """Note how long a first token took, and those after it on the mean."""
        self.first.observe(first_s)
        if token_s is not None:
            self.token.observe(token_s)

    def export(self) -> bytes:
        """Return everything in Prometheus' text format."""
        return generate_latest(self.registry)
