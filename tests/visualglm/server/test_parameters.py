"""Unsupported parameters are accepted if their value has no effect, and rejected by name otherwise."""

from typing import Any

import pytest

from tests.helpers.api_server import SteppedModel, completion, events, serving
from visualglm.server.parameters import IGNORED_FIELDS, NO_OP_VALUES

PATH = "/v1/chat/completions"
NEUTRAL: list[tuple[str, Any]] = [
    ("seed", -1),
    ("top_k", -1),
    ("max_tokens", -1),
    ("max_completion_tokens", -1),
    ("max_length", -1),
    ("min_p", 0),
    ("min_p", 0.0),
    ("stop", ""),
    ("stop", [""]),
    ("stop", []),
    ("stop", None),
    ("ignore_eos", False),
    ("continuous_usage_stats", False),
    ("best_of", 1),
    ("reasoning_effort", "none"),
    ("chat_template_kwargs", {}),
    ("truncate_prompt_tokens", None),
    ("stream_options", None),
    ("stream_options", {"include_usage": False}),
    ("something_unknown", None),
    *((name, value) for name, values in NO_OP_VALUES.items() for value in (None, *values)),
    *((name, value) for name in IGNORED_FIELDS for value in (None, "a", {"a": "b"})),
]
UNSUPPORTED: list[tuple[str, Any]] = [
    ("ignore_eos", True),
    ("best_of", 2),
    ("best_of", True),
    ("min_p", 0.1),
    ("min_p", False),
    ("min_tokens", 5),
    ("reasoning_effort", "high"),
    ("chat_template_kwargs", {"enable_thinking": True}),
    ("truncate_prompt_tokens", 10),
    ("logprobs", 0),
    ("something_unknown", 0),
]


@pytest.fixture(scope="module")
def served():
    model = SteppedModel(free=True, length=2)
    with serving(model) as client:
        yield client, model


@pytest.mark.parametrize(("name", "value"), NEUTRAL)
def test_a_value_without_effect_is_accepted(served, name, value):
    client, model = served
    assert client.post(PATH, json=completion("a")).status_code == 200
    expected = model.requests[-1][2]
    response = client.post(PATH, json=completion("a", **{name: value}))
    assert response.status_code == 200, response.text
    assert model.requests[-1][2] == (expected.replace(top_k=0) if name == "top_k" else expected)
    assert response.json()["choices"][0]["message"]["content"] == "a0 a1"


@pytest.mark.parametrize(("name", "value"), UNSUPPORTED)
def test_any_other_value_is_rejected_by_name(served, name, value):
    response = served[0].post(PATH, json=completion("a", **{name: value}))
    assert response.status_code == 400
    assert response.json()["error"]["param"] == name


@pytest.mark.parametrize("name", ["seed", "top_k", "max_length", "max_new_tokens"])
def test_the_native_route_reads_minus_one_in_the_same_way(served, name):
    client, model = served
    assert client.post("/", json={"text": "a"}).status_code == 200
    expected = model.requests[-1][2]
    assert client.post("/", json={"text": "a", name: -1}).status_code == 200
    assert model.requests[-1][2] == (expected.replace(top_k=0) if name == "top_k" else expected)


@pytest.mark.parametrize("options", [{"include_usage": True, "continuous_usage_stats": True}])
def test_counts_so_far_are_streamed_if_requested(served, options):
    response = served[0].post(PATH, json=completion("a", stream=True, stream_options=options))
    *_, before, last = events(response)
    assert last["choices"] == [] and last["usage"] == before["usage"]
    assert last["usage"]["completion_tokens"] == 2


@pytest.mark.parametrize(
    ("value", "words"), [(5, "list"), ([1], "string"), (["a" * 257], "256"), ({}, "list"), (["a"] * 5, "4 items")]
)
def test_a_wrong_stop_has_its_reason(served, value, words):
    error = served[0].post(PATH, json=completion("a", stop=value)).json()["error"]
    assert error["param"].startswith("stop") and words in error["message"] and "constrained" not in error["message"]
