"""POST / rejects misspelled keys and other names of the image, and ignores all other unknown keys."""

import pytest

from tests.helpers.api_server import SteppedModel, serving
from visualglm.server.schemas import MAX_KEYS, edit_distance

REJECTED = [
    ("imgae", "image"),
    ("iamge", "image"),
    ("miage", "image"),
    ("imag", "image"),
    ("Image", "image"),
    ("IMAGE", "image"),
    ("images", "image"),
    ("image_url", "image"),
    ("img", "image"),
    ("picture", "image"),
    ("image-base64", "image"),
    ("histroy", "history"),
    ("hystori", "history"),
    ("history ", "history"),
    ("temprature", "temperature"),
    ("temperture", "temperature"),
    ("max_lenght", "max_length"),
    ("maxLength", "max_length"),
    ("max-length", "max_length"),
    ("repitition_penelty", "repetition_penalty"),
    ("top-p", "top_p"),
    ("topK", "top_k"),
    ("seeed", "seed"),
    ("steam", "stream"),
]
IGNORED = [
    "model",
    "user",
    "id",
    "uid",
    "lang",
    "language",
    "stop",
    "test",
    "next",
    "texts",
    "tex",
    "type",
    "name",
    "role",
    "task",
    "mode",
    "prompt",
    "query",
    "question",
]
IGNORED += [
    "n",
    "top",
    "topic",
    "session_id",
    "messages",
    "max_tokens",
    "image_id",
    "image_size",
    "version",
    "time",
    "debug",
    "do_sample",
    "key",
]


@pytest.fixture(scope="module")
def client():
    with serving(SteppedModel(free=True, length=2)) as client:
        yield client


@pytest.mark.parametrize(("key", "known"), REJECTED)
def test_a_misspelled_key_is_rejected_by_name(client, key, known):
    response = client.post("/", json={"text": "a", key: 1})
    assert response.status_code == 400
    assert repr(key) in response.json()["error"] and repr(known) in response.json()["error"]


@pytest.mark.parametrize("key", IGNORED)
def test_other_keys_are_ignored(client, key):
    assert client.post("/", json={"text": "a", key: "b"}).status_code == 200


def test_a_misspelled_text_is_named_where_the_text_is_missing(client):
    response = client.post("/", json={"texts": "a"})
    assert response.status_code == 400 and "'texts'" in response.json()["error"]


@pytest.mark.parametrize("value", [None, "", [], {}])
def test_an_empty_key_is_ignored(client, value):
    assert client.post("/", json={"text": "a", "images": value, "imgae": value}).status_code == 200


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [("image", "image", 0), ("imgae", "image", 1), ("mage", "image", 1), ("imgea", "image", 2), ("a", "image", None)],
)
def test_swapped_letters_count_once(first, second, expected):
    assert edit_distance(first, second, 2) == edit_distance(second, first, 2) == expected


def test_the_number_of_compared_keys_is_limited(client, monkeypatch):
    compared = []
    monkeypatch.setattr("visualglm.server.schemas.edit_distance", lambda *words: compared.append(words))
    keys = {f"imb{number}": 1 for number in range(9_000)}
    assert client.post("/", json={"text": "a", **keys}).status_code == 200
    assert 0 < len(compared) <= MAX_KEYS * 20
