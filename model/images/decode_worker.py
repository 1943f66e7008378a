"""Decode image files in a process of its own: the program that `ImageDecoder` starts and may kill at any time.

It imports neither torch nor sat. It reads requests from the standard input and replies on the standard output: a line
of JSON, then the bytes that the line announces.
"""

import json
import os
import sys
import traceback
from contextlib import suppress
from typing import Any, BinaryIO

from PIL import Image

from ..errors import ImageError
from .decode import ImageLimits, decode_image, open_image, resize_image
from .preprocess import read_data_url

NICENESS = 5  # decoding yields the processor to answers that are being generated


def limit_resources(seconds: float, memory: int) -> None:
    """Let the system kill this process after `seconds` more of processor time, and refuse it more than `memory` bytes.

    Windows has no such limits; there only the parent's time limit holds.
    """
    with suppress(ImportError, ValueError):  # ValueError: the parent's own limit is lower
        import resource

        spent = sum(resource.getrusage(resource.RUSAGE_SELF)[:2])
        _, hard_limit = resource.getrlimit(resource.RLIMIT_CPU)
        resource.setrlimit(resource.RLIMIT_CPU, (int(spent + seconds) + 1, hard_limit))
        _, hard_limit = resource.getrlimit(resource.RLIMIT_AS)
        resource.setrlimit(resource.RLIMIT_AS, (memory, hard_limit))


def serve(requests: BinaryIO, replies: BinaryIO) -> None:
    """Reply to requests until there are no more."""
    while line := requests.readline():
        request = json.loads(line)
        data = requests.read(request["bytes"])
        limit_resources(request["seconds"], request["memory"])
        images: list[Image.Image] = []
        try:
            reply, images = decode(request, data)
        except ImageError as error:
            reply = {"error": str(error)}
        except Exception:
            reply = {"bug": traceback.format_exc()}
        del data
        replies.write(json.dumps(reply).encode() + b"\n")
        for image in images:
            replies.write(image.tobytes())
        replies.flush()


def decode(request: dict[str, Any], data: bytes) -> tuple[dict[str, Any], list[Image.Image]]:
    """Return the reply to a request and the RGB images whose pixels follow it.

    A request without a "size" is answered with the number of pixels, for which the header suffices.
    """
    limits = ImageLimits(**request["limits"])
    file = read_data_url(data, limits.max_bytes) if request["is_text"] else data
    if request["size"] is None:
        header = open_image(file, request["name"], limits)
        return {"pixels": header.width * header.height}, []
    image = decode_image(file, request["name"], limits)
    images = [resize_image(image, request["size"])]
    if request["preview"] is not None:
        image.thumbnail((request["preview"],) * 2)
        images.append(image)
    return {"sizes": [image.size for image in images]}, images


if __name__ == "__main__":
    with suppress(AttributeError):  # not on Windows
        os.nice(NICENESS)
    with suppress(KeyboardInterrupt, BrokenPipeError):
        serve(sys.stdin.buffer, sys.stdout.buffer)
