"""Chat messages are accepted in the forms that clients send, and errors name the invalid part."""

from typing import Any

import httpx
import pytest

from tests.helpers.api_server import DESCRIBE, DESCRIPTION, SCENE_URL, SteppedModel, completion, serving
from visualglm.server.api_errors import ApiError
from visualglm.server.messages import IMAGE_TYPES, TEXT_TYPES, read_content

WHERE = "messages.0.content"
IMAGE = {"type": "image_url", "image_url": {"url": SCENE_URL}}


def post_messages(client: httpx.Client, *messages: dict[str, Any], **more: Any) -> httpx.Response:
    body = {**completion(DESCRIBE), **more, "messages": list(messages)}
    return client.post("/v1/chat/completions", json=body)


@pytest.mark.parametrize(
    "parts",
    [
        [IMAGE, DESCRIBE],
        [DESCRIBE, {"type": "image_url", "image_url": SCENE_URL}],
        [{"type": "input_text", "text": DESCRIBE}, {"type": "input_image", "image_url": SCENE_URL}],
        [{"type": "input_image", "image_url": {"url": SCENE_URL}, "detail": "auto"}, DESCRIBE],
        [{"type": "text", "text": DESCRIBE, "cache_control": {"type": "ephemeral"}}, {**IMAGE, "id": "1"}],
    ],
)
def test_forms_of_parts(tiny_server, parts):
    response = post_messages(tiny_server, {"role": "user", "content": parts})
    assert response.status_code == 200, response.text
    assert response.json()["choices"][0]["message"]["content"] == DESCRIPTION


@pytest.mark.parametrize(
    ("content", "param", "words"),
    [
        (1, "", "a number"),
        ({"type": "text", "text": "a"}, "", "an object"),
        (["a", 1], ".1", "a number"),
        ([["a"]], ".0", "a list"),
        ([None], ".0", "null"),
        ([{}], ".0.type", "no type"),
        ([{"text": "a"}], ".0.type", "no type"),
        ([{"type": 1}], ".0.type", "type of a part is a number"),
        ([{"type": []}], ".0.type", "type of a part is a list"),
        ([{"type": "image", "image": "x"}], ".0.type", "'image' are not supported"),
        ([{"type": "input_audio"}], ".0.type", "'input_audio' are not supported"),
        ([{"type": "text"}], ".0.text", "missing"),
        (["a", {"type": "text", "text": None}], ".1.text", "null"),
        ([{"type": "input_text", "text": 3}], ".0.text", "input_text is a number"),
        ([{"type": "image_url"}], ".0.image_url", "missing"),
        ([{"type": "image_url", "image_url": 5}], ".0.image_url", "a number"),
        ([{"type": "image_url", "image_url": {}}], ".0.image_url.url", "missing"),
        ([{"type": "image_url", "image_url": {"url": []}}], ".0.image_url.url", "a list"),
        ([{"type": "image_url", "image_url": {"url": " "}}], ".0.image_url.url", "empty"),
        ([{"type": "input_image", "image_url": ""}], ".0.image_url", "empty"),
        ([{"type": "input_image", "file_id": "f"}], ".0.image_url", "input_image needs image_url"),
        ([{**IMAGE, "image_url": {"url": "x", "detail": "huge"}}], ".0.image_url.detail", "'huge'"),
        ([{**IMAGE, "detail": 1}], ".0.detail", "detail is a number"),
    ],
)
def test_an_error_has_the_reason_and_the_path_of_the_invalid_part(content, param, words):
    with pytest.raises(ApiError, match=words) as caught:
        read_content(content, WHERE)
    assert caught.value.status_code == 400 and caught.value.param == WHERE + param


def test_an_error_names_the_supported_types():
    with pytest.raises(ApiError) as caught:
        read_content([{"type": "image"}], WHERE)
    assert TEXT_TYPES[0] in caught.value.detail and IMAGE_TYPES[0] in caught.value.detail


@pytest.mark.parametrize(
    "answer",
    [
        {"content": None, "reasoning_content": "thinking"},
        {"content": "sky", "id": "msg_1", "type": "message", "status": "completed"},
        {"content": "sky", "refusal": None, "annotations": [], "tool_calls": [], "audio": None, "function_call": None},
        {"content": [{"type": "output_text", "text": "sky", "annotations": []}], "reasoning": {"text": "thinking"}},
        {"reasoning_content": ""},
    ],
)
def test_fields_that_other_servers_add_to_an_answer_are_accepted(answer):
    model = SteppedModel(free=True, length=2)
    with serving(model) as client:
        response = post_messages(
            client, {"role": "user", "content": "a"}, {"role": "assistant", **answer}, {"role": "user", "content": "b"}
        )
    assert response.status_code == 200, response.text
    (conversation, question, _), *_ = model.requests
    assert question == "b"
    assert [(turn.question, turn.answer) for turn in conversation.turns] == [
        ("a", "sky" if answer.get("content") else "")
    ]


@pytest.mark.parametrize("role", ["user", "system"])
def test_only_an_answer_may_be_null(tiny_server, role):
    response = post_messages(tiny_server, {"role": role, "content": None}, {"role": "user", "content": "a"})
    assert response.status_code == 400 and response.json()["error"]["param"] == WHERE


@pytest.mark.parametrize(
    ("body", "param", "words"),
    [
        ([1], None, "The body should be a JSON object"),
        ({"messages": []}, "model", "model is required"),
        ({"model": "visualglm-tiny", "messages": ["hi"]}, "messages.0", "messages.0 should be a JSON object"),
    ],
)
def test_a_body_of_another_shape_is_explained_without_names_of_classes(tiny_server, body, param, words):
    error = tiny_server.post("/v1/chat/completions", json=body).json()["error"]
    assert error["param"] == param and error["message"].startswith(words)
