"""Invalid requests, each with its name, path, body and expected 4xx status."""

import base64
import json
import struct
import zlib
from collections.abc import Iterator
from typing import Any, NamedTuple

from PIL import Image

from tests.helpers.api_server import SCENE, SCENE_BASE64, SCENE_URL, completion
from tests.helpers.image_files import encode

NATIVE, CHAT = "/", "/v1/chat/completions"
PNG = SCENE.read_bytes()
# Settings of the tested server.
LIMITS = {"max_body": 2_000_000, "max_picture": 300_000, "max_pixels": 1_000_000, "max_text": 2000, "max_history": 5}


class Bad(NamedTuple):
    """An invalid request: name, path, body and expected status."""

    name: str
    path: str
    content: bytes
    status: int = 400


def to_base64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def png_chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png_file(width: int, height: int, rows: bytes = b"", *more: bytes) -> bytes:
    """Return a PNG file whose header declares a size, with arbitrary data."""
    header = png_chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
    return (
        b"\x89PNG\r\n\x1a\n"
        + header
        + b"".join(more)
        + png_chunk(b"IDAT", zlib.compress(rows))
        + png_chunk(b"IEND", b"")
    )


def images() -> Iterator[tuple[str, str]]:
    """Yield names and texts of invalid or unsupported images."""
    yield from {
        "not base64": "this is no image!",
        "a length that no base64 has": SCENE_BASE64[:401],
        "base64 of nothing": "====",
        "another alphabet": SCENE_BASE64.replace("+", "-").replace("/", "_") + "_-",
        "chinese": "图片",
        "blank": "   ",
        "only line breaks": "\n\n\n",
        "hex": "89504e470d0a1a0a0",
        "a data URL of nothing": "data:image/png;base64,",
        "a data URL without base64": "data:image/png,abc",
        "a data URL cut off": "data:image/png;base64",
        "two data URLs": f"{SCENE_URL},{SCENE_URL}",
        "a data URL in a data URL": f"data:image/png;base64,{SCENE_URL}",
        "a path": "/etc/passwd",
        "a relative path": "examples/scene.png",
        "a file URL": "file:///etc/passwd",
        "a loopback URL": "http://127.0.0.1:8080/x.png",
        "an https URL": "https://example.com/x.png",
        "an ftp URL": "ftp://example.com/x.png",
        "a javascript URL": "javascript:alert(1)",
        "a blob URL": "blob:http://x/1",
        "an img tag": "<img>/etc/passwd</img>",
        "larger than allowed": "A" * 400_004,
    }.items()
    files = {
        "text": b"hello",
        "one byte": b"\0",
        "zeros": b"\0" * 1000,
        "html": b"<!doctype html><html></html>",
        "svg": b"<svg xmlns='http://www.w3.org/2000/svg'><image href='file:///etc/passwd'/></svg>",
        "postscript": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(/etc/passwd) run\n",
        "pdf": b"%PDF-1.7\n%%EOF",
        "zip": b"PK\x03\x04" + b"\0" * 100,
        "heic": b"\0\0\0\x18ftypheic" + b"\0" * 100,
        "mp4": b"\0\0\0\x18ftypisom" + b"\0" * 100,
        "pickle": b"\x80\x04\x95\x0b\0\0\0\0\0\0\0\x8c\x02os\x94.",
        "png's first bytes": PNG[:8],
        "png cut in its header": PNG[:20],
        "png cut in half": PNG[: len(PNG) // 2],
        "png with damaged data": PNG[:300] + bytes(200) + PNG[500:],
        "png of no width": png_file(0, 5),
        "png of no height": png_file(5, 0),
        "png of a huge header": png_file(2**31 - 1, 2**31 - 1),
        "png of a large header": png_file(60_000, 60_000),
        "png bomb": png_file(20_000, 20_000, bytes(20_001) * 20),
        "png of a long line": png_file(2_000_000, 1),
        "png of a long column": png_file(1, 2_000_000),
        "png with no data": png_file(9, 9),
        "png with a bomb of text": png_file(9, 9, b"", png_chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(90_000_000)))),
        "jpeg's first bytes": b"\xff\xd8\xff\xe0",
        "jpeg cut": encode(Image.new("RGB", (90, 90)), "JPEG")[:200],
        "gif's first bytes": b"GIF89a",
        "gif of a huge screen": b"GIF89a\xff\xff\xff\xff\0\0\0,\0\0\0\0\xff\xff\xff\xff\0\x02\x02D\x01\0;",
        "bmp of a huge size": encode(Image.new("1", (9, 9)), "BMP").replace(
            struct.pack("<ii", 9, 9), struct.pack("<ii", 99999, 99999)
        ),
        "bmp of a negative size": encode(Image.new("1", (9, 9)), "BMP").replace(
            struct.pack("<ii", 9, 9), struct.pack("<ii", -9, 9)
        ),
        "tiff's first bytes": b"II*\0\x08\0\0\0",
        "tiff that points at itself": b"II*\0\x08\0\0\0\0\0\x08\0\0\0",
        "webp's first bytes": b"RIFF\x10\0\0\0WEBPVP8 ",
        "ico of nothing": b"\0\0\x01\0\x00\x00",
        "ppm of a huge size": b"P6 99999 99999 255\n",
        "ppm of a negative size": b"P6 -9 9 255\n" + bytes(300),
        "more pixels than allowed": encode(Image.new("L", (1200, 900)), "PNG"),
    }
    yield from ((name, to_base64(data)) for name, data in files.items())


def bodies() -> Iterator[tuple[str, bytes, int]]:
    """Yield bodies that are invalid for both paths: name, body, status."""
    yield from (
        ("nothing", b"", 400),
        ("a blank", b" ", 400),
        ("no JSON", b"hello", 400),
        ("half of JSON", b'{"text": "hel', 400),
        ("two of JSON", b'{"text": "a"}{"text": "b"}', 400),
        ("a comma too many", b'{"text": "a",}', 400),
        ("single quotes", b"{'text': 'a'}", 400),
        ("a form", b"text=hello&image=", 400),
        ("null", b"null", 400),
        ("a number", b"1", 400),
        ("a text", b'"hello"', 400),
        ("a list", b"[]", 400),
        ("an empty object", b"{}", 400),
        ("latin-1", '{"text": "é"}'.encode("latin-1"), 400),
        ("utf-16", '{"text": "hello"}'.encode("utf-16"), 400),
        ("a cut character", '{"text": "你'.encode()[:-1] + b'"}', 400),
        ("an overlong character", b'{"text": "\xc0\xaf"}', 400),
        ("a surrogate in utf-8", b'{"text": "\xed\xa0\x80"}', 400),
        ("gzip", b"\x1f\x8b\x08\0\0\0\0\0\0\x03", 400),
        ("nested lists", b"[" * 100_000, 400),
        ("nested objects", b'{"a":' * 100_000, 400),
        ("a huge number", b'{"text": "a", "seed": ' + b"9" * 10_000 + b"}", 400),
        ("many numbers", b'{"text": "a", "history": [' + b"0," * 60_000 + b"0]}", 400),
        ("many lists", b'{"text": "a", "history": [' + b"[]," * 60_000 + b"[]]}", 400),
        ("many keys", b'{"text": "a"' + b',"":0' * 60_000 + b"}", 400),
        ("too large", b'{"text": "' + b"a" * 2_000_000 + b'"}', 413),
    )


def settings() -> Iterator[tuple[str, Any]]:
    """Yield settings with values that are invalid for both paths."""
    for name in ("temperature", "top_p"):
        yield from ((name, value) for value in (-1, -0.001, 1e9, "0.5", "", [], {}, True, [0.5]))
    yield "top_p", 1.1
    for name in ("top_k", "seed", "min_length", "max_length"):
        yield from ((name, value) for value in (-2, 0.5, "1", [], True, 2**70, -(2**63)))
    yield "min_length", -1
    yield from (("max_length", value) for value in (0, 1, 40, 4096))
    yield from (("repetition_penalty", value) for value in (0, 0.5, -1, 101, "1.2", []))
    yield from (("stream", value) for value in ("true", 1, 0, [], {}))


def native() -> Iterator[tuple[str, Any]]:
    """Yield bodies that are invalid for POST /."""
    for value in (
        None,
        1,
        True,
        [],
        ["a"],
        {"a": 1},
        "",
        " ",
        "\n\t",
        "a" * 2001,
        "a\0b",
        "\x1b[31m",
        "\ud800",
        "a\udfff",
    ):
        yield f"text {str(value)[:9]!r}", {"text": value}
    yield "text is missing", {"image": SCENE_BASE64, "prompt": "a"}
    for value in (
        "a",
        {},
        [1],
        ["a"],
        ["a", "b"],
        [["a"]],
        [["a", "b", "c"]],
        [["a", 1]],
        [[None, "b"]],
        [{"q": "a"}],
        [{"role": "user", "content": "a"}],
        [{"role": "assistant", "content": "a"}],
        [{"role": "user", "content": "a"}, {"role": "user", "content": "b"}],
        [{"role": "user", "content": "a"}, {"role": "assistant", "content": None}],
        [{"role": "user", "content": "a"}, ["b", "c"]],
        [[]],
    ):
        yield f"history {value}", {"text": "a", "history": value}
    yield "history that is nested", {"text": "a", "history": [[["a", "b"], ["c", "d"]]]}
    yield "history that is long", {"text": "a", "history": [["a", "b"]] * 6}
    yield "history of much text", {"text": "a", "history": [["a", "b" * 2000]]}
    yield "history with a null byte", {"text": "a", "history": [["a", "\0"]]}
    yield "history with half a character", {"text": "a", "history": [["\udc00", "a"]]}
    for value in (1, True, [], {}, ["a"], [SCENE_BASE64], {"url": SCENE_URL}):
        yield f"image {str(value)[:20]}", {"text": "a", "image": value}
    for value in (0, 4, "1", 1.5):
        yield f"num_beams {value}", {"text": "a", "num_beams": value}
    yield "max_new_tokens 0", {"text": "a", "max_new_tokens": 0}
    yield from ((f"key {key}", {"text": "a", key: SCENE_BASE64}) for key in ("imgae", "images", "IMAGE", "img-url"))


def chats() -> Iterator[tuple[str, Any]]:
    """Yield bodies that are invalid for chat completions."""
    user = {"role": "user", "content": "a"}
    for value in (None, "a", 1, {}, [], [1], ["a"], [{}], [{"role": "user"}], [{"content": "a"}], [[user]]):
        yield f"messages {value}", completion("a") | {"messages": value}
    for role in ("tool", "function", "robot", "", None, 1):
        yield f"role {role}", completion("a") | {"messages": [{"role": role, "content": "a"}, user]}
    for value in (
        None,
        1,
        {},
        [],
        "",
        " ",
        [1],
        [["a"]],
        [None],
        [{}],
        [{"type": "text"}],
        [{"text": "a"}],
        "\0",
        "a" * 2001,
        "\ud800",
    ):
        yield f"content {str(value)[:20]!r}", completion("a") | {"messages": [{"role": "user", "content": value}]}
    for part in (
        {"type": "input_audio", "input_audio": {"data": "", "format": "wav"}},
        {"type": "file", "file": {"file_id": "x"}},
        {"type": "video_url", "video_url": {"url": "x"}},
        {"type": "image_url"},
        {"type": "image", "image": SCENE_URL},
        {"type": ["text"], "text": "a"},
        {"type": "image_url", "image_url": ""},
        {"type": "image_url", "image_url": [SCENE_URL]},
        {"type": "input_image", "file_id": "file-1"},
        {"type": "image_url", "image_url": {}},
        {"type": "image_url", "image_url": {"url": None}},
        {"type": "image_url", "image_url": {"url": ""}},
        {"type": "image_url", "image_url": {"url": SCENE_URL, "detail": "huge"}},
        {"type": "text", "text": 1},
    ):
        request_messages = [{"role": "user", "content": [{"type": "text", "text": "a"}, part]}]
        yield f"part {str(part)[:60]}", completion("a") | {"messages": request_messages}
    answer = {"role": "assistant", "content": "b"}
    yield "the answer last", completion("a") | {"messages": [user, answer]}
    yield "the answer first", completion("a") | {"messages": [answer, user]}
    yield "only a system message", completion("a") | {"messages": [{"role": "system", "content": "a"}]}
    yield (
        "an image of the assistant",
        completion("a")
        | {
            "messages": [
                user,
                {"role": "assistant", "content": [{"type": "image_url", "image_url": {"url": SCENE_URL}}]},
                user,
            ]
        },
    )
    yield "an odd key", completion("a") | {"messages": [{**user, "odd": 1}]}
    yield "a tool's call", completion("a") | {"messages": [user, {**answer, "tool_calls": [{"id": "1"}]}, user]}
    yield "many messages", completion("a") | {"messages": [user, answer] * 6 + [user]}
    for value in ([None], "a" * 257, ["a"] * 5, 1, [1], {}, "\0", [["a"]]):
        yield f"stop {str(value)[:9]}", completion("a", stop=value)
    for value in (0, -1, 5, 129, 1.5, "1", True):
        yield f"n {value}", completion("a", n=value)
    for name in ("max_tokens", "max_completion_tokens"):
        for value in (0, -2, 1.5, "1", 2**40):
            yield f"{name} {value}", completion("a", **{name: value})
    yield "two limits", completion("a", max_tokens=1, max_completion_tokens=2)
    for value in (None, 1, [], {}):
        yield f"model {value}", completion("a") | {"model": value}
    for value in (1, "a", [], {"include_usage": "yes"}, {"odd": 1}):
        yield f"stream_options {value}", completion("a", stream=True, stream_options=value)
    yield "stream_options without a stream", completion("a", stream_options={"include_usage": True})
    yield "a setting of others", completion("a", beam_width=4)


def bad_requests() -> Iterator[Bad]:
    """Yield all invalid requests."""
    for path in (NATIVE, CHAT):
        for name, content, status in bodies():
            yield Bad(f"{path} body: {name}", path, content, status)
        for name, value in settings():
            body = {"text": "a", "image": SCENE_BASE64} if path == NATIVE else completion("a", image=SCENE_URL)
            yield Bad(f"{path} {name}: {str(value)[:20]}", path, json.dumps({**body, name: value}).encode())
        for name in ("temperature", "top_p", "top_k", "seed"):
            for value in ("NaN", "Infinity", "-Infinity", "1e999", "-1e999"):
                body = json.dumps({"text": "a"} if path == NATIVE else completion("a"))
                yield Bad(f"{path} {name}: {value}", path, f'{body[:-1]}, "{name}": {value}}}'.encode())
    for name, source in images():
        if source.strip():  # an empty text means no image there
            yield Bad(f"/ image: {name}", NATIVE, json.dumps({"text": "a", "image": source}).encode())
        yield Bad(f"/v1 image: {name}", CHAT, json.dumps(completion("a", image=source)).encode())
    yield from (Bad(f"/ {name}", NATIVE, json.dumps(body).encode()) for name, body in native())
    yield from (Bad(f"/v1 {name}", CHAT, json.dumps(body).encode()) for name, body in chats())
    yield Bad("/v1 another model", CHAT, json.dumps(completion("a") | {"model": "gpt"}).encode(), 404)
