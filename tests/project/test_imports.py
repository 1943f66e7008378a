"""Import rules between packages and modules."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
MODULES = sorted((ROOT / "model").rglob("*.py"))
LAYERS = ("visualglm", "finetune", "tiny", "benchmarks", "tests", "cli_demo", "web_demo", "api")
NEVER = ("gradio", "fastapi", "deepspeed", "ray", "cpm_kernels", "torchvision")
MAY_IMPORT = {
    "sat": {"sat", "blip2", "visualglm", "finetuned"},
    "transformers": {"hf", "checkpoint", "hf_loading"},
    "triton": {"kernels"},
}
# The components of the package from top to bottom: each may import the ones below it, anywhere in a file.
ORDER = (
    *("infer_util", "loading", "hf_loading", "chat", "hf_chat", "answers"),
    *("chat_model", "scoring", "answer_stream", "streaming"),
    "placement",
    *("finetuned", "visualglm", "blip2"),
    *("sat", "checkpoint", "hf", "images", "engine", "model_facts", "quantization", "kernels"),
    *("explanation", "attribution"),
    *("command_line", "settings_file", "seeds", "html_page", "svg", "tensors"),
    *("description", "prompt", "environment", "file_writing", "names"),
    *("resource_errors", "errors"),
    "aliases",
)


def part_of(path: Path) -> str:
    """Return the component of the package that a file belongs to: the name of its folder or module."""
    return path.relative_to(ROOT / "model").parts[0].removesuffix(".py")


def imported(path: Path) -> Iterator[str]:
    """Yield the full name of every module, and of every object of a module, that a file imports, anywhere in it."""
    package = path.relative_to(ROOT).parent.parts
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            prefix = ".".join((*base, *([node.module] if node.module else [])))
            yield prefix
            yield from (f"{prefix}.{alias.name}" for alias in node.names)


def module_name(path: Path) -> str:
    """Return the import path of a file."""
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def parts_imported(path: Path) -> set[str]:
    """Return the components of the package that a file imports, except its own."""
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
    if part in ORDER:
        assert parts_imported(path) <= {*ORDER[ORDER.index(part) + 1 :]}


@pytest.mark.parametrize("path", sorted((ROOT / "visualglm/server").rglob("*.py")), ids=lambda path: path.name)
def test_the_server_uses_the_model_and_no_network(path: Path) -> None:
    roots = {name.split(".")[0] for name in imported(path)}
    assert not roots & {"sat", "transformers", "torch", *LAYERS} - {"visualglm"}


@pytest.mark.parametrize("path", sorted((ROOT / "visualglm").rglob("*.py")), ids=lambda path: path.name)
def test_programs_import_the_library_alone(path: Path) -> None:
    assert not {name.split(".")[0] for name in imported(path)} & {"tiny", "benchmarks", "tests", "finetune"}


@pytest.mark.parametrize("path", sorted((ROOT / "visualglm/scenes").rglob("*.py")), ids=lambda path: path.name)
def test_the_drawn_scenes_import_nothing_else_of_the_project(path: Path) -> None:
    roots = {name.split(".")[0] for name in imported(path)}
    assert not roots & {"model", "sat", "torch", "transformers", *LAYERS, *NEVER} - {"visualglm"}
    assert all(name.startswith("visualglm.scenes") for name in imported(path) if name.split(".")[0] == "visualglm")


@pytest.mark.parametrize("path", sorted((ROOT / "tiny").rglob("*.py")), ids=lambda path: path.name)
def test_of_the_programs_tiny_imports_the_drawn_scenes_and_the_evaluation_alone(path: Path) -> None:
    ours = [name for name in imported(path) if name.split(".")[0] in {"visualglm", "finetune", "benchmarks", "tests"}]
    assert all(name.startswith(("visualglm.scenes", "visualglm.evaluation")) for name in ours)


@pytest.mark.parametrize("path", sorted((ROOT / "finetune").rglob("*.py")), ids=lambda path: path.name)
def test_fine_tuning_imports_no_program_and_no_drawn_world(path: Path) -> None:
    assert not {name.split(".")[0] for name in imported(path)} & {*LAYERS} - {"finetune"}


def test_there_are_no_import_cycles() -> None:
    files = [
        path for folder in ("model", "finetune", "visualglm", "tiny") for path in sorted((ROOT / folder).rglob("*.py"))
    ]
    modules = {module_name(path): path for path in files}
    left = {name: nearest(imported(path), {*modules}) - {name} for name, path in modules.items()}
    while free := [name for name, others in left.items() if not others & {*left}]:
        for name in free:
            del left[name]
    assert not left


def nearest(names: Iterator[str], modules: set[str]) -> set[str]:
    """Return the imported modules; a package is omitted if one of its modules is imported."""
    found = {name for name in names if name in modules}
    return {name for name in found if not any(other.startswith(f"{name}.") for other in found)}


def test_public_names_exist_and_are_listed_once() -> None:
    import model

    assert len(set(model.__all__)) == len(model.__all__)
    assert all(hasattr(model, name) for name in model.__all__)
