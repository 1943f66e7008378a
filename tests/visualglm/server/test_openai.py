"""Chat completions work with OpenAI's client library."""

from collections.abc import Iterator

import httpx
import openai
import pytest

from tests.helpers.api_server import DESCRIBE, DESCRIPTION, SCENE_URL, SteppedModel, completion, messages, serving


@pytest.fixture(scope="module")
def client(tiny_server: httpx.Client) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{tiny_server.base_url}/v1", api_key="none", max_retries=0) as client:
        yield client


def create(client: openai.OpenAI, *texts: str, image: str | None = None, **more):
    more = {"model": "visualglm-tiny", "temperature": 0, "messages": messages(*texts, image=image), **more}
    return client.chat.completions.create(**more)


def test_the_model_is_listed(client):
    assert [model.id for model in client.models.list()] == ["visualglm-tiny"]


def test_the_model_is_retrieved_by_its_name(client):
    assert client.models.retrieve("visualglm-tiny") == next(iter(client.models.list()))
    with pytest.raises(openai.NotFoundError, match="visualglm-tiny") as caught:
        client.models.retrieve("gpt-4o")
    assert caught.value.code == "model_not_found"


def test_the_name_of_a_model_may_have_slashes():
    with serving(SteppedModel(free=True), model_name="a/b c") as http:
        with openai.OpenAI(base_url=f"{http.base_url}/v1", api_key="none", max_retries=0) as client:
            assert client.models.retrieve("a/b c").id == "a/b c"
        assert [http.get(f"/v1/models/{name}").json()["id"] for name in ("a/b%20c", "a%2Fb%20c")] == ["a/b c"] * 2
        assert http.get("/v1/models/").json() == http.get("/v1/models").json()


def test_an_answer(client):
    answer = create(client, DESCRIBE, image=SCENE_URL)
    (choice,) = answer.choices
    assert choice.message.content == DESCRIPTION and choice.message.role == "assistant"
    assert choice.finish_reason == "stop" and choice.index == 0
    assert answer.object == "chat.completion" and answer.model == "visualglm-tiny" and answer.id.startswith("chatcmpl-")
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens
    assert answer.usage.prompt_tokens > 32 and answer.usage.completion_tokens > 10


def test_a_streamed_answer(client):
    with create(client, DESCRIBE, image=SCENE_URL, stream=True) as stream:
        chunks = list(stream)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == DESCRIPTION
    assert chunks[0].choices[0].delta.role == "assistant"
    assert [chunk.choices[0].finish_reason for chunk in chunks] == [None] * (len(chunks) - 1) + ["stop"]
    assert len({chunk.id for chunk in chunks}) == 1 and {chunk.object for chunk in chunks} == {"chat.completion.chunk"}
    assert all(chunk.usage is None for chunk in chunks)


def test_usage_is_streamed_if_requested(client):
    whole = create(client, DESCRIBE, image=SCENE_URL)
    with create(client, DESCRIBE, image=SCENE_URL, stream=True, stream_options={"include_usage": True}) as stream:
        *chunks, last = stream
    assert last.choices == [] and last.usage == whole.usage
    assert all(chunk.usage is None and "usage" in chunk.model_fields_set for chunk in chunks)


def test_several_turns_and_the_image_in_any_of_them(client):
    turns = ("图片里有什么？", "一辆小汽车。", "小汽车是什么颜色？")
    first = messages(*turns, image=SCENE_URL)
    later = messages(*turns)
    later[2]["content"] = [
        {"type": "text", "text": turns[2]},
        {"type": "image_url", "image_url": {"url": SCENE_URL}},
    ]
    both = [first[0], first[1], later[2]]  # the same image twice counts as one image
    for request_messages in (first, later, both):
        assert create(client, messages=request_messages).choices[0].message.content == "小汽车是紫色的。"


@pytest.mark.parametrize("name", ["max_tokens", "max_completion_tokens"])
def test_a_limit_of_tokens(client, name):
    answer = create(client, DESCRIBE, image=SCENE_URL, **{name: 5})
    assert answer.usage.completion_tokens == 5 and answer.choices[0].finish_reason == "length"
    assert DESCRIPTION.startswith(answer.choices[0].message.content)


@pytest.mark.parametrize("stop", ["一辆", ["不在", "紫色的小汽车", "一辆紫"], "在右上角，紫色"])
def test_an_answer_ends_before_a_stop_string(client, stop):
    stops = [stop] if isinstance(stop, str) else stop
    expected = DESCRIPTION[: min(index for text in stops if (index := DESCRIPTION.find(text)) >= 0)]
    whole = create(client, DESCRIBE, image=SCENE_URL, stop=stop)
    assert whole.choices[0].message.content == expected and whole.choices[0].finish_reason == "stop"
    assert 0 < whole.usage.completion_tokens < create(client, DESCRIBE, image=SCENE_URL).usage.completion_tokens
    options = {"stream": True, "stream_options": {"include_usage": True}}
    with create(client, DESCRIBE, image=SCENE_URL, stop=stop, **options) as stream:
        *chunks, last = stream
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == expected
    assert chunks[-1].choices[0].finish_reason == "stop"
    assert last.usage == whole.usage


def test_several_answers_to_one_question(client):
    settings = {"temperature": 5.0, "seed": 3, "extra_body": {"top_k": 0}, "top_p": 1.0, "max_tokens": 12}
    answer = create(client, DESCRIBE, image=SCENE_URL, n=3, **settings)
    texts = [choice.message.content for choice in answer.choices]
    assert [choice.index for choice in answer.choices] == [0, 1, 2] and len(set(texts)) == 3
    alone = create(client, DESCRIBE, image=SCENE_URL, **{**settings, "seed": 4})
    assert alone.choices[0].message.content == texts[1]
    assert answer.usage.prompt_tokens == alone.usage.prompt_tokens
    assert answer.usage.completion_tokens > alone.usage.completion_tokens
    streamed = ["", "", ""]
    with create(client, DESCRIBE, image=SCENE_URL, n=3, stream=True, **settings) as stream:
        for chunk in stream:
            streamed[chunk.choices[0].index] += chunk.choices[0].delta.content or ""
    assert streamed == texts


def logprobs_of(choice) -> list[tuple[bytes, float, int]]:
    """Return bytes, log-probability and number of most likely tokens of each token of an answer."""
    return [(bytes(one.bytes), round(one.logprob, 3), len(one.top_logprobs)) for one in choice.logprobs.content]


@pytest.mark.parametrize("count", [0, 4])
@pytest.mark.parametrize("stop", [None, "紫色的小汽车"])
def test_log_probabilities_of_an_answer(client, count, stop):
    asked = {"logprobs": True, "top_logprobs": count, "stop": stop}
    answer = create(client, DESCRIBE, image=SCENE_URL, **asked)
    (choice,) = answer.choices
    assert len(choice.logprobs.content) == answer.usage.completion_tokens
    raw = b"".join(part for part, _, _ in logprobs_of(choice)).decode()
    assert raw.strip().startswith(choice.message.content[:3])
    for token in choice.logprobs.content:
        assert token.logprob <= 0 and token.token == bytes(token.bytes).decode("utf-8", "replace")
        assert len(token.top_logprobs) == count
        likely = [one.logprob for one in token.top_logprobs]
        assert likely == sorted(likely, reverse=True)
        if count:  # greedy decoding takes the most likely token
            assert (likely[0], token.top_logprobs[0].token) == (token.logprob, token.token)
    with create(client, DESCRIBE, image=SCENE_URL, stream=True, **asked) as stream:
        chunks = [chunk.choices[0] for chunk in stream]
    streamed = [one for chunk in chunks if chunk.logprobs for one in logprobs_of(chunk)]
    assert streamed == logprobs_of(choice)
    assert "".join(chunk.delta.content or "" for chunk in chunks) == choice.message.content


def test_log_probabilities_of_several_sampled_answers(client):
    settings = {"temperature": 5.0, "seed": 3, "extra_body": {"top_k": 0}, "top_p": 1.0, "max_tokens": 6}
    plain = create(client, DESCRIBE, image=SCENE_URL, n=3, **settings)
    scored = create(client, DESCRIBE, image=SCENE_URL, n=3, logprobs=True, **settings)
    assert [one.message for one in scored.choices] == [one.message for one in plain.choices]
    assert all(one.logprobs is None for one in plain.choices)
    assert sum(len(one.logprobs.content) for one in scored.choices) == scored.usage.completion_tokens


@pytest.mark.parametrize("asked", [{"top_logprobs": 3}, {"logprobs": True, "top_logprobs": 21}])
def test_impossible_wishes_for_log_probabilities_are_refused(client, asked):
    with pytest.raises(openai.BadRequestError, match="top_logprobs"):
        create(client, DESCRIBE, **asked)


def test_parameters_without_effect_are_accepted(client):
    neutral = {"frequency_penalty": 0, "presence_penalty": 0.0, "logit_bias": {}, "logprobs": False, "user": "me"}
    more = {"response_format": {"type": "text"}, "metadata": {"a": "b"}, "tools": [], "store": False}
    assert create(client, DESCRIBE, image=SCENE_URL, **neutral, **more).choices[0].message.content == DESCRIPTION


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("tools", [{"type": "function", "function": {"name": "f", "parameters": {}}}]),
        ("tool_choice", "required"),
        ("functions", [{"name": "f"}]),
        ("frequency_penalty", 0.5),
        ("presence_penalty", -1),
        ("logit_bias", {"50256": -100}),
        ("response_format", {"type": "json_object"}),
        ("modalities", ["text", "audio"]),
        ("audio", {"voice": "alloy", "format": "wav"}),
        ("reasoning_effort", "high"),
        ("web_search_options", {}),
        ("best_of", 2),
    ],
)
def test_unsupported_parameters_are_rejected_by_name(client, name, value):
    with pytest.raises(openai.BadRequestError) as caught:
        create(client, DESCRIBE, extra_body={name: value})
    assert caught.value.param == name and caught.value.code == "unsupported_parameter"
    assert caught.value.type == "invalid_request_error" and name in caught.value.message


def test_a_second_image_is_rejected(client):
    other = SCENE_URL.replace("image/png", "image/x-png")
    parts = [{"type": "image_url", "image_url": {"url": url}} for url in (SCENE_URL, other)]
    with pytest.raises(openai.BadRequestError, match="2 images"):
        create(client, messages=[{"role": "user", "content": [*parts, {"type": "text", "text": "?"}]}])


def test_another_model_is_not_found(client):
    with pytest.raises(openai.NotFoundError, match="visualglm-tiny") as caught:
        create(client, DESCRIBE, model="gpt-4o")
    assert caught.value.code == "model_not_found"


def test_a_question_that_is_too_long_for_its_max_length(client):
    with pytest.raises(openai.BadRequestError) as caught:
        create(client, DESCRIBE, image=SCENE_URL, extra_body={"max_length": 20})
    assert caught.value.code == "context_length_exceeded"


def test_system_messages_come_before_the_first_question():
    model = SteppedModel(free=True, length=1)
    request_messages = [
        {"role": "system", "content": "Be brief."},
        *messages("one", "two"),
        {"role": "developer", "content": [{"type": "text", "text": "Be kind."}]},
        {"role": "user", "content": "three"},
        {"role": "user", "content": "four", "name": "Ada"},
    ]
    with serving(model) as client:
        assert (
            client.post(
                "/v1/chat/completions", json={"model": "visualglm-tiny", "messages": request_messages}
            ).status_code
            == 200
        )
    ((conversation, question, _),) = model.requests
    assert question == "three\nfour"
    assert [(turn.question, turn.answer) for turn in conversation.turns] == [("Be brief.\nBe kind.\none", "two")]


def test_an_error_in_the_middle_of_a_stream_reaches_the_client():
    model = SteppedModel()
    with serving(model) as http, openai.OpenAI(base_url=f"{http.base_url}/v1", api_key="x", max_retries=0) as client:
        model.step(2)
        with create(client, "hello", stream=True) as stream:
            rest = iter(stream)
            while not next(rest).choices[0].delta.content:
                pass
            model.error = RuntimeError("secret")
            model.step(1)
            with pytest.raises(openai.APIError, match="error") as caught:
                list(rest)
        assert "secret" not in str(caught.value)
        model.error, model.free = None, True
        assert http.post("/v1/chat/completions", json=completion("hello", max_tokens=2)).status_code == 200
