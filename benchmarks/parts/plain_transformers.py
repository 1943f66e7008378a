"""What `model.chat` of an exported directory takes in plain transformers; `decode` runs this in a process of its own.

python benchmarks/parts/plain_transformers.py DIRECTORY PICTURE --device cuda --dtype float16 --prompts 49 1019

It must not import this repository: the directory's own code is what is measured, as `trust_remote_code=True` runs it.
Where the directory has no weights, random ones are drawn. The last line printed is JSON: for each prompt its tokens,
the milliseconds to the first token and from token to token.
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
    """Notes when each token is there."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def put(self, value: torch.Tensor) -> None:
        self.times.append(time.perf_counter())

    def end(self) -> None:
        """Every token has been noted."""


def load(directory: str, device: str, dtype: torch.dtype) -> Any:
    """Load the model, or build it with random weights on the device."""
    if any(Path(directory).glob("*.safetensors")):
        return AutoModel.from_pretrained(directory, trust_remote_code=True, dtype=dtype).to(device).eval()
    config = AutoConfig.from_pretrained(directory, trust_remote_code=True)
    with torch.device(device):
        return AutoModel.from_config(config, trust_remote_code=True, dtype=dtype).eval()


def measure(model: Any, tokenizer: Any, image: str, length: int, tokens: int) -> dict[str, float]:
    """Ask a question whose prompt has `length` tokens; the end token is forbidden."""
    counts = {"<img>": OPENING}
    rest = length - OPENING - CLOSING - model.config.image_length
    tokenizer.encode_text = lambda text: [ORDINARY_ID] * counts.get(text, rest)
    timer, started = TokenTimer(), time.perf_counter()
    settings = {"max_new_tokens": tokens, "suppress_tokens": [tokenizer.eos_token_id], "streamer": timer}
    model.chat(tokenizer, image, "?", **settings)
    first, *_, last = times = timer.times[1:]  # transformers hands over the prompt first
    assert len(times) == tokens, f"the answer has {len(times)} tokens"
    return {"first_ms": (first - started) * 1e3, "token_ms": (last - first) / (tokens - 1) * 1e3}


def main() -> None:
    """Measure each prompt once, after a short answer that is not counted."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("directory")
    parser.add_argument("picture")
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
