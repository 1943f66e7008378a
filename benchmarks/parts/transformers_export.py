"""Exports a model, and measures plain transformers on it in a process without this repository."""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import torch

from benchmarks.full_size import EMBEDDED_MODEL, Source
from benchmarks.parts.machine import EXAMPLE_IMAGE, ROOT
from model.checkpoint import open_checkpoint
from model.checkpoint.convert import convert, copy_tokenizer
from model.checkpoint.hf import CONFIG_NAME
from model.checkpoint.save import to_hf_config, write_json
from model.hf.export import export_code

SCRIPT = ROOT / "benchmarks" / "parts" / "plain_transformers.py"
TIME_LIMIT_S = 300


def export(source: Source, directory: Path) -> None:
    """Write the model into a new directory; for random weights only the config and the code."""
    if not source.is_random:
        convert(source.name, directory, "hf", dtype=source.dtype)
        return
    directory.mkdir()
    eos_token_id = copy_tokenizer(open_checkpoint(EMBEDDED_MODEL), directory)
    write_json(directory / CONFIG_NAME, to_hf_config(source.config, eos_token_id, source.dtype))
    export_code(directory)


class TransformersBackend:
    """Measurements of plain transformers, for each call and prompt length.

    Raises:
        RuntimeError: the script failed; the message is its last line.
    """

    def __init__(self, source: Source, prompts: list[int], tokens: int) -> None:
        with tempfile.TemporaryDirectory() as folder:
            directory = Path(folder) / "model"
            export(source, directory)
            self.results = run_script(directory, source.device, source.dtype, prompts, tokens)

    def token_ms(self, call: str, length: int) -> float:
        """Return milliseconds per token of `model.chat` or `generate`."""
        return self.results[f"{call}-{length}"]["token_ms"]

    def first_ms(self, call: str, length: int) -> float:
        """Return milliseconds to the first token, with reading and encoding the image file."""
        return self.results[f"{call}-{length}"]["first_ms"]


def run_script(
    directory: Path, device: torch.device, dtype: torch.dtype, prompts: list[int], tokens: int
) -> dict[str, dict[str, float]]:
    """Run `plain_transformers` next to the exported directory, where transformers also caches its code."""
    precision = str(dtype).removeprefix("torch.")
    options = {"--device": device, "--dtype": precision, "--tokens": tokens}
    flags = [str(part) for option in options.items() for part in option]
    done = subprocess.run(
        [
            sys.executable,
            "-P",
            str(SCRIPT),
            str(directory),
            str(EXAMPLE_IMAGE),
            *flags,
            "--prompts",
            *map(str, prompts),
        ],
        cwd=directory.parent,
        env=os.environ | {"HF_MODULES_CACHE": str(directory.parent / "modules"), "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        timeout=TIME_LIMIT_S,
    )
    if done.returncode:
        sys.stderr.write(done.stderr)
        raise RuntimeError(done.stderr.strip().splitlines()[-1])
    return json.loads(done.stdout.strip().splitlines()[-1])  # type: ignore[no-any-return]
