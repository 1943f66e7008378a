"""Base64 text and data URLs in every standard format give the same bytes in every API that accepts them."""

import base64
import urllib.parse

import httpx
import pytest

from model import ImageError, generate_input
from model.images.preprocess import decode_base64, load_image, read_data_url
from tests.helpers.api_server import DESCRIBE, DESCRIPTION, SCENE, completion

DATA = SCENE.read_bytes()
STANDARD = base64.b64encode(DATA).decode()
URL_SAFE = base64.urlsafe_b64encode(DATA).decode()
LINES = base64.encodebytes(DATA).decode()
ESCAPED = urllib.parse.quote(STANDARD, safe="")
MAX_BYTES = 1_000_000

TEXTS = {
    "standard": STANDARD,
    "unpadded": STANDARD.rstrip("="),
    "URL-safe": URL_SAFE,
    "URL-safe, unpadded": URL_SAFE.rstrip("="),
    "in lines": LINES,
    "in lines of CRLF": LINES.replace("\n", "\r\n"),
    "too much padding": STANDARD.rstrip("=") + "====",
    "blanks around": f"  \n{STANDARD}\n ",
}
URLS = {
    "plain": f"data:image/png;base64,{STANDARD}",
    "no type": f"data:;base64,{STANDARD}",
    "upper case": f"DATA:image/PNG;BASE64,{STANDARD}",
    "unpadded": f"data:image/png;base64,{STANDARD.rstrip('=')}",
    "URL-safe": f"data:image/png;base64,{URL_SAFE}",
    "URL-safe, unpadded": f"data:image/png;base64,{URL_SAFE.rstrip('=')}",
    "escaped base64": f"data:image/png;base64,{ESCAPED}",
    "escaped base64 in lower case": f"data:image/png;base64,{ESCAPED.replace('%2F', '%2f').replace('%2B', '%2b')}",
    "base64 in lines": f"data:image/png;base64,{LINES}",
    "escaped line breaks": f"data:image/png;base64,{LINES.replace(chr(10), '%0A')}",
    "every character escaped": "data:image/png;base64," + "".join(f"%{ord(letter):02X}" for letter in STANDARD),
    "escaped hyphens": f"data:image/png;base64,{URL_SAFE.replace('-', '%2D').replace('_', '%5F')}",
    "a parameter": f"data:image/png;charset=utf-8;base64,{STANDARD}",
    "several parameters": f"data:image/png;charset=utf-8;name=a.png;base64,{STANDARD}",
    "a quoted parameter": f'data:image/png;name="a, b;c.png";base64,{STANDARD}',
    "a quoted quote": f'data:image/png;name="a\\"b.png";base64,{STANDARD}',
    "an escaped parameter": f"data:image/png;name=a%2Cb%3Bc.png;base64,{STANDARD}",
    "an escaped type": f"data:image%2Fpng;base64,{STANDARD}",
    "a blank after the comma": f"data:image/png;base64, {STANDARD}",
    "a blank after the semicolon": f"data:image/png; base64,{STANDARD}",
    "parameters with blanks": f"data:image/png; charset=utf-8; base64,{STANDARD}",
    "blanks around": f"  data:image/png;base64,{STANDARD}\n",
    "percent-encoded data": f"data:image/png,{urllib.parse.quote_from_bytes(DATA)}",
    "percent-encoded data with a parameter": f'data:image/png;name="a,b",{urllib.parse.quote_from_bytes(DATA)}',
    "all data escaped": "data:image/png," + "".join(f"%{byte:02x}" for byte in DATA),
}
FORMS = {**{f"base64: {name}": text for name, text in TEXTS.items()}, **{f"URL: {n}": t for n, t in URLS.items()}}
WRONG = {
    "no base64": "data:image/png;base64,this is no picture!",
    "both alphabets": f"{STANDARD}-_",
    "padding in the middle": f"{STANDARD[:40]}={STANDARD[40:]}",
    "a length that base64 does not have": STANDARD[:41],
    "no comma": "data:image/png;base64",
    "an open quote": f'data:image/png;name="a;base64,{STANDARD}',
    "a Chinese text": "图片",
}


@pytest.mark.parametrize("name", FORMS)
def test_every_format_gives_the_same_bytes(name: str) -> None:
    assert read_data_url(FORMS[name].encode(), MAX_BYTES) == DATA


@pytest.mark.parametrize("name", FORMS)
def test_every_format_gives_the_same_image(name: str) -> None:
    expected = load_image(SCENE)
    assert decode_base64(FORMS[name]) == expected
    assert generate_input("q", FORMS[name])["input_image"] == expected
    assert generate_input("q", FORMS[name].encode())["input_image"] == expected


@pytest.mark.parametrize("name", WRONG)
def test_invalid_base64_is_rejected(name: str) -> None:
    with pytest.raises(ImageError):
        decode_base64(WRONG[name])


@pytest.mark.parametrize(
    "form", [STANDARD, URLS["plain"], URLS["percent-encoded data"]], ids=["text", "URL", "escaped"]
)
def test_more_bytes_than_allowed_are_rejected(form: str) -> None:
    assert read_data_url(form.encode(), len(DATA)) == DATA
    with pytest.raises(ImageError, match=f"{len(DATA) - 1:,} bytes"):
        read_data_url(form.encode(), len(DATA) - 1)


@pytest.fixture
def client(tiny_server: httpx.Client) -> httpx.Client:
    return tiny_server


@pytest.mark.parametrize("name", FORMS)
def test_the_native_route_accepts_every_format(client: httpx.Client, name: str) -> None:
    response = client.post("/", json={"text": DESCRIBE, "image": FORMS[name], "temperature": 0, "max_new_tokens": 9})
    assert response.status_code == 200, response.text
    assert DESCRIPTION.startswith(response.json()["response"]) and response.json()["response"]


@pytest.mark.parametrize("name", FORMS)
@pytest.mark.parametrize("as_text", [True, False], ids=["image_url is a text", "image_url is an object"])
def test_chat_completions_accept_every_format(client: httpx.Client, name: str, as_text: bool) -> None:
    body = completion(DESCRIBE, image=FORMS[name], max_tokens=9)
    if as_text:
        body["messages"][0]["content"][0]["image_url"] = FORMS[name]
    response = client.post("/v1/chat/completions", json=body)
    assert response.status_code == 200, response.text
    answer = response.json()["choices"][0]["message"]["content"]
    assert DESCRIPTION.startswith(answer) and answer
