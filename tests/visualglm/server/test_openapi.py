"""The server behaves as its OpenAPI document says; schemathesis generates the requests."""

from collections.abc import Iterator
from typing import Any

import pytest

from model import GenerationConfig, SettingError
from tests.helpers.api_server import SteppedModel, serving
from visualglm.server.schemas import CompletionRequest, NativeRequest


@pytest.fixture(scope="module")
def document_and_url() -> Iterator[tuple[dict[str, Any], str]]:
    with serving(SteppedModel(free=True, length=3)) as client:
        yield client.get("/openapi.json").json(), str(client.base_url)


def check_every_route(url: str, count: int) -> None:
    """Send `count` requests that schemathesis generates to each route."""
    import hypothesis  # these two take seconds
    import schemathesis
    from schemathesis.specs.openapi import checks

    required = [
        schemathesis.checks.not_a_server_error,
        checks.status_code_conformance,
        checks.content_type_conformance,
        checks.response_headers_conformance,
        checks.response_schema_conformance,
        checks.negative_data_rejection,
        checks.unsupported_method,
    ]
    settings = hypothesis.settings(
        max_examples=count, deadline=None, derandomize=True, suppress_health_check=list(hypothesis.HealthCheck)
    )
    operations = [found.ok() for found in schemathesis.openapi.from_url(f"{url}/openapi.json").get_all_operations()]
    assert len(operations) == 7
    for operation in operations:
        for mode in (
            schemathesis.GenerationMode if operation.method == "post" else [schemathesis.GenerationMode.POSITIVE]
        ):

            @settings
            @hypothesis.given(operation.as_strategy(generation_mode=mode))
            def check(case):
                case.call_and_validate(checks=required)

            check()


def test_every_route_is_as_documented(document_and_url):
    check_every_route(document_and_url[1], 12)


@pytest.mark.slow
def test_every_route_is_as_documented_for_long(document_and_url):
    check_every_route(document_and_url[1], 150)


@pytest.mark.parametrize("body", [NativeRequest, CompletionRequest])
def test_the_ranges_in_the_document_are_the_engine_s(body):
    properties = body.model_json_schema()["properties"]
    checked = 0
    for name in ("temperature", "top_p", "top_k", "repetition_penalty", "min_length", "max_length", "seed"):
        (bounds,) = (kind for kind in properties[name]["anyOf"] if "minimum" in kind)
        for bound, beyond in (("minimum", -1), ("maximum", 1)):
            GenerationConfig(**{name: bounds[bound]})
            if bounds[bound] != 2**31 - 1:  # a bound of the schema only
                checked += 1
                with pytest.raises(SettingError):
                    GenerationConfig(**{name: bounds[bound] + beyond})
    assert checked == 11
