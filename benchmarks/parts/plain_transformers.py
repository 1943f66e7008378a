"""Measures `model.chat` of an exported directory in plain transformers; `decode` runs this as a subprocess.

python benchmarks/parts/plain_transformers.py DIRECTORY IMAGE --device cuda --dtype float16 --prompts 49 1019

It must not import this repository: it measures the directory's own code, by `trust_remote_code=True`. If the directory
has no weights, random ones are created. The last line of output is JSON: for each prompt length, milliseconds to the
first token and per further token.
"""

import argparse
import json
import time
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModel, AutoTokenizer
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
        return AutoModel.from_pretrained(directory, trust_remote_code=True, dtype=dtype).to(device).eval()
    config = AutoConfig.from_pretrained(directory, trust_remote_code=True)
    with torch.device(device):
        return AutoModel.from_config(config, trust_remote_code=True, dtype=dtype).eval()


def measure(model: Any, tokenizer: Any, image: str, length: int, tokens: int) -> dict[str, float]:
    """Ask a question whose prompt has `length` tokens, with the end token forbidden."""
    counts = {"<img>": OPENING}
    rest = length - OPENING - CLOSING - model.config.image_length
    tokenizer.encode_text = lambda text: [ORDINARY_ID] * counts.get(text, rest)
    timer, started = TokenTimer(), time.perf_counter()
    settings = {"max_new_tokens": tokens, "suppress_tokens": [tokenizer.eos_token_id], "streamer": timer}
    model.chat(tokenizer, image, "?", **settings)
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
    tokenizer = AutoTokenizer.from_pretrained(options.directory, trust_remote_code=True)
    results = {}
    for length in options.prompts:
        measure(model, tokenizer, options.image, length, WARM_UP_TOKENS)
        results[length] = measure(model, tokenizer, options.image, length, options.tokens)
    print(json.dumps(results))


if __name__ == "__main__":
    main()
