"""Child process that decodes image files: `ImageDecoder` starts it and may kill it at any time.

It imports neither torch nor sat. A request on standard input is a line of JSON, which states the number of bytes that
follow it. A reply on standard output is a line of JSON, which states the sizes of the images whose pixels follow it.
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

NICENESS = 5  # generation has priority over decoding


def limit_resources(seconds: float, memory: int) -> None:
    """Limit this process to `seconds` of further CPU time, after which it is killed, and to `memory` bytes.

    Windows has no such limits; only the parent's timeout applies there.
    """
    with suppress(ImportError, ValueError):  # ValueError: the inherited hard limit is lower
        import resource

        spent = sum(resource.getrusage(resource.RUSAGE_SELF)[:2])
        _, hard_limit = resource.getrlimit(resource.RLIMIT_CPU)
        resource.setrlimit(resource.RLIMIT_CPU, (int(spent + seconds) + 1, hard_limit))
        _, hard_limit = resource.getrlimit(resource.RLIMIT_AS)
        resource.setrlimit(resource.RLIMIT_AS, (memory, hard_limit))


def serve(requests: BinaryIO, replies: BinaryIO) -> None:
    """Reply to requests until the end of the input."""
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
    """Return the reply to a request, and the RGB images whose pixels follow it.

    Without "size" only the header is read, and the reply is the number of pixels.
    """
    limits = ImageLimits(**request["limits"])
    file = read_data_url(data, limits.max_bytes) if request["is_text"] else data
    if request["size"] is None:
        header = open_image(file, request["name"], limits)
        return {"pixels": header.width * header.height}, []
    image = decode_image(file, request["name"], limits)
    size = image.size
    images = [resize_image(image, request["size"])]
    if request["preview"] is not None:
        image.thumbnail((request["preview"],) * 2)
        images.append(image)
    return {"size": size, "sizes": [image.size for image in images]}, images


if __name__ == "__main__":
    with suppress(AttributeError):  # not on Windows
        os.nice(NICENESS)
    with suppress(KeyboardInterrupt, BrokenPipeError):
        serve(sys.stdin.buffer, sys.stdout.buffer)
