"""Who may import whom."""

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
MODULES = sorted((ROOT / "model").rglob("*.py"))
LAYERS = ("serving", "finetune", "tiny", "benchmarks", "tests", "terminal", "web", "cli_demo", "web_demo", "api")
NEVER = ("gradio", "fastapi", "deepspeed", "ray", "cpm_kernels", "torchvision")
MAY_IMPORT = {
    "sat": {"sat_compat", "blip2", "visualglm", "lora", "ptuning", "finetuned", "frozen", "loading"},
    "transformers": {"hf", "checkpoint", "hf_loading"},
    "triton": {"kernels"},
}
# Exported beside checkpoints, so they stand alone: the only siblings that each may import.
ALONE = {
    "errors": set(),
    "address": {"errors"},
    "fetch": {"errors", "address"},
    "file_mode": set(),
    "data_url": {"errors"},
    "image_metadata": set(),
    "image_bounds": {"image_metadata"},
    "image_file": {"errors", "fetch", "image_bounds", "image_metadata"},
    "image": {"errors", "address", "data_url", "fetch", "image_file"},
    "prompt": {"errors"},
    "history": {"errors", "prompt"},
    "recording": set(),
}
INSIDE = {  # part of the package -> parts that it may import, besides errors
    "generation": {"kernels", "modules", "recording", "shortage"},
    "kernels": {"quantization"},
    "checkpoint": {"command_line", "environment", "file_mode", "generation", "hf", "printing", "quantization"},
    "command_line": {"printing", "shortage"},
    "description": {"prompt"},
    "environment": set(),
    "hf": {"file_mode", "history", "prompt", "image", "quantization", "recording"},
    "quantization": {"checkpoint", "kernels"},
    "encoder": {"generation"},
    "pictures": {"cores", "encoder", "generation", "image", "shared_calls"},
    "printing": set(),
    "shared_calls": set(),
    "pieces": {"prompt", "generation"},
    "chat_model": {"description", "generation", "pictures", "pieces", "prompt", "shortage"},
    "chat": {"chat_model", "generation", "history", "image", "prompt"},
    "hf_chat": {
        "chat_model",
        "description",
        "generation",
        "kernels",
        "modules",
        "pieces",
        "prompt",
        "quantization",
        "rotary",
    },
    "sat_compat": {"checkpoint", "environment", "printing", "quantization"},
    "blip2": {"image", "sat_compat"},
    "visualglm": {"blip2", "checkpoint", "kernels", "modules", "ptuning", "quantization", "rotary", "sat_compat"},
    "frozen": {"checkpoint", "quantization", "sat_compat"},
    "low_rank": {"frozen"},
    "lora": {"checkpoint", "frozen", "lora_targets", "low_rank", "quantization", "sat_compat"},
    "lora_targets": set(),
    "ptuning": {"sat_compat"},
    "finetuned": {"checkpoint", "lora", "lora_targets", "ptuning", "quantization", "visualglm"},
}


def part_of(path: Path) -> str:
    """Return the part of the package that a file belongs to: a folder's or a module's name."""
    return path.relative_to(ROOT / "model").parts[0].removesuffix(".py")


def imported(path: Path) -> Iterator[str]:
    """Yield the full name of every module that a file imports, wherever in the file."""
    package = path.relative_to(ROOT).parent.parts
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            prefix = ".".join((*base, *([node.module] if node.module else [])))
            yield prefix
            if node.level:
                yield from (f"{prefix}.{alias.name}" for alias in node.names)


def parts_imported(path: Path) -> set[str]:
    """Return the parts of the package that a file imports, its own left out."""
    names = [name.split(".") for name in imported(path)]
    known = {part_of(module) for module in MODULES}
    return {name[1] for name in names if name[0] == "model" and len(name) > 1} & known - {part_of(path), "__init__"}


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_import_rules(path: Path) -> None:
    part = part_of(path)
    roots = {name.split(".")[0] for name in imported(path)}
    assert not roots & {*LAYERS, *NEVER}
    for library, allowed in MAY_IMPORT.items():
        assert library not in roots or part in allowed
    inside = parts_imported(path) - {"errors"}
    assert inside <= INSIDE.get(part, inside)
    if part in ALONE:
        assert parts_imported(path) <= ALONE[part]
        assert roots <= {*sys.stdlib_module_names, "model", "numpy", "torch", "PIL", "pi_heif"}


@pytest.mark.parametrize("path", sorted((ROOT / "serving").rglob("*.py")), ids=lambda path: path.name)
def test_serving_uses_the_model_and_no_network(path: Path) -> None:
    roots = {name.split(".")[0] for name in imported(path)}
    assert not roots & {"sat", "transformers", "torch", *LAYERS} - {"serving"}


def test_public_names_exist_and_are_listed_once() -> None:
    import model

    assert len(set(model.__all__)) == len(model.__all__)
    assert all(hasattr(model, name) for name in model.__all__)
