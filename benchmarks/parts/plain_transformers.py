"""Measures `model.chat` and `generate` of an exported directory in plain transformers, as a subprocess of `decode`.

python benchmarks/parts/plain_transformers.py DIRECTORY IMAGE --device cuda --dtype float16 --prompts 49 1019

It must not import this repository: it measures the directory's own code, by `trust_remote_code=True`. If the directory
has no weights, random ones are created. The last line of output is JSON: for each prompt length and call, milliseconds
to the first token, the image file included, and per further token.
"""

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForImageTextToText, AutoProcessor
from transformers.generation.streamers import BaseStreamer

OPENING, CLOSING = 3, 2
ORDINARY_ID = 100
WARM_UP_TOKENS = 4


class TokenTimer(BaseStreamer):
    """Records the time of the prompt, then of each token."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def put(self, value: torch.Tensor) -> None:
        """Record the time."""
        self.times.append(time.perf_counter())

    def end(self) -> None:
        """Do nothing: `put` has recorded the time of every token."""


def load(directory: str, device: str, dtype: torch.dtype) -> Any:
    """Load the model, or create it with random weights on the device."""
    if any(Path(directory).glob("*.safetensors")):
        return (
            AutoModelForImageTextToText.from_pretrained(directory, trust_remote_code=True, dtype=dtype)
            .to(device)
            .eval()
        )
    config = AutoConfig.from_pretrained(directory, trust_remote_code=True)
    with torch.device(device):
        return AutoModelForImageTextToText.from_config(config, trust_remote_code=True, dtype=dtype).eval()


def chat(model: Any, processor: Any, image: str, **settings: Any) -> None:
    """Ask about an image by `model.chat`."""
    model.chat(processor.tokenizer, image, "?", **settings)


def generate(model: Any, processor: Any, image: str, **settings: Any) -> None:
    """Ask about an image by the processor's chat template and `generate`."""
    messages = [{"role": "user", "content": [{"type": "image", "path": image}, {"type": "text", "text": "?"}]}]
    inputs = processor.apply_chat_template(
        messages, tokenize=True, return_dict=True, return_tensors="pt", add_generation_prompt=True
    )
    model.generate(**inputs.to(model.device, model.dtype), **settings)


CALLS: dict[str, Callable[..., None]] = {"chat": chat, "generate": generate}


def measure(call: str, model: Any, processor: Any, image: str, length: int, tokens: int) -> dict[str, float]:
    """Ask a question whose prompt has `length` tokens, with the end token forbidden."""
    tokenizer, counts = processor.tokenizer, {"<img>": OPENING}
    rest = length - OPENING - CLOSING - model.config.image_length
    tokenizer.encode_text = lambda text: [ORDINARY_ID] * counts.get(text, rest)
    timer, started = TokenTimer(), time.perf_counter()
    settings = {"max_new_tokens": tokens, "suppress_tokens": [tokenizer.eos_token_id], "streamer": timer}
    CALLS[call](model, processor, image, **settings)
    first, *_, last = times = timer.times[1:]  # the streamer receives the prompt first
    assert len(times) == tokens, f"the answer has {len(times)} tokens"
    return {"first_ms": (first - started) * 1e3, "token_ms": (last - first) / (tokens - 1) * 1e3}


def main() -> None:
    """Measure each prompt length once, after a short warm-up answer."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("directory")
    parser.add_argument("image")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--prompts", type=int, nargs="+", default=[49])
    parser.add_argument("--tokens", type=int, default=32)
    options = parser.parse_args()
    model = load(options.directory, options.device, getattr(torch, options.dtype))
    processor = AutoProcessor.from_pretrained(options.directory, trust_remote_code=True)
    results = {}
    for length in options.prompts:
        for call in CALLS:
            asked = call, model, processor, options.image, length
            measure(*asked, WARM_UP_TOKENS)
            results[f"{call}-{length}"] = measure(*asked, options.tokens)
    print(json.dumps(results))


if __name__ == "__main__":
    main()
