"""Who may import whom."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
MODULES = sorted((ROOT / "model").rglob("*.py"))
LAYERS = ("visualglm", "finetune", "tiny", "benchmarks", "tests", "cli_demo", "web_demo", "api")
NEVER = ("gradio", "fastapi", "deepspeed", "ray", "cpm_kernels", "torchvision")
MAY_IMPORT = {
    "sat": {"sat", "blip2", "visualglm", "loading"},
    "transformers": {"hf", "checkpoint", "hf_loading"},
    "triton": {"kernels"},
}
INSIDE = {  # part of the package -> parts that it may import, besides errors
    "engine": {"kernels", "shortage"},
    "kernels": {"quantization"},
    "checkpoint": {"command_line", "environment", "file_mode", "engine", "hf", "printing", "quantization"},
    "command_line": {"printing", "shortage"},
    "description": {"prompt"},
    "environment": set(),
    "hf": {"engine", "file_mode", "history", "prompt", "images", "quantization"},
    "images": {"engine"},
    "quantization": {"checkpoint", "kernels"},
    "printing": set(),
    "pieces": {"prompt", "engine"},
    "chat_model": {"description", "engine", "images", "pieces", "prompt", "shortage"},
    "chat": {"chat_model", "engine", "history", "images", "prompt"},
    "hf_chat": {"chat_model", "description", "engine", "kernels", "pieces", "prompt", "quantization", "rotary"},
    "sat": {"checkpoint", "environment", "printing", "quantization", "visualglm"},
    "blip2": {"images", "sat"},
    "visualglm": {"blip2", "checkpoint", "engine", "kernels", "quantization", "rotary", "sat"},
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


@pytest.mark.parametrize("path", sorted((ROOT / "visualglm/server").rglob("*.py")), ids=lambda path: path.name)
def test_the_server_uses_the_model_and_no_network(path: Path) -> None:
    roots = {name.split(".")[0] for name in imported(path)}
    assert not roots & {"sat", "transformers", "torch", *LAYERS} - {"visualglm"}


@pytest.mark.parametrize("path", sorted((ROOT / "visualglm").rglob("*.py")), ids=lambda path: path.name)
def test_programs_import_the_library_alone(path: Path) -> None:
    assert not {name.split(".")[0] for name in imported(path)} & {"tiny", "benchmarks", "tests", "finetune"}


def test_public_names_exist_and_are_listed_once() -> None:
    import model

    assert len(set(model.__all__)) == len(model.__all__)
    assert all(hasattr(model, name) for name in model.__all__)
