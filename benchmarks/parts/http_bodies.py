"""Bodies of chat completions to measure with: pictures drawn at random, and answers of an exact length."""

import base64
import random
import struct
import zlib
from typing import Any

QUESTION = "Describe the image."
ENDLESS = 2048  # tokens of prompt and answer before which the model may not end: max_tokens alone ends the answer


def random_png(size: int, seed: int) -> bytes:
    """Return a picture of size x size pixels of random colours, as a PNG file."""
    chance = random.Random(seed)
    rows = b"".join(b"\0" + chance.randbytes(3 * size) for _ in range(size))
    header = struct.pack(">IIBBBBB", size, size, 8, 2, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in chunks
    )


def data_url(png: bytes) -> str:
    """Return a PNG file as a data URL."""
    return f"data:image/png;base64,{base64.b64encode(png).decode()}"


def completion(
    model: str, tokens: int, seed: int, picture: bytes | None = None, *, stream: bool, text: str = QUESTION
) -> dict[str, Any]:
    """Return the body that asks for an answer of exactly `tokens` tokens, its counts with it."""
    content: list[dict[str, Any]] = [{"type": "text", "text": text}]
    if picture is not None:
        content.append({"type": "image_url", "image_url": {"url": data_url(picture)}})
    body = {"model": model, "messages": [{"role": "user", "content": content}], "seed": seed}
    body |= {"max_tokens": tokens, "min_length": ENDLESS, "stream": stream}
    return {**body, "stream_options": {"include_usage": True}} if stream else body
