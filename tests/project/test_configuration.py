"""Paths in configuration files exist."""

import ast
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from model.hf.configuration_chatglm import ChatGLMConfig
from model.kernels.autotune import MATMUL_CONFIGS, MATVEC_CONFIGS, ROW_BUCKETS
from visualglm.web.examples import EXAMPLES

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
TOOLS = PROJECT["tool"]


def patterns() -> Iterator[str]:
    """Yield the paths and patterns in pyproject.toml."""
    yield PROJECT["project"]["readme"]
    yield from TOOLS["hatch"]["build"]["targets"]["wheel"]["packages"]
    yield from TOOLS["hatch"]["build"]["targets"]["wheel"]["force-include"]
    yield from TOOLS["pytest"]["ini_options"]["testpaths"]
    yield from TOOLS["mypy"]["packages"]
    yield from TOOLS["ruff"]["extend-exclude"]
    yield from TOOLS["ruff"]["lint"]["per-file-ignores"]
    for override in TOOLS["mypy"]["overrides"]:
        modules = override["module"]
        for module in [modules] if isinstance(modules, str) else modules:
            if module.split(".")[0] in TOOLS["mypy"]["packages"]:
                yield module.removesuffix(".*").replace(".", "/")


@pytest.mark.parametrize("pattern", sorted(set(patterns())))
def test_each_path_in_the_project_file_exists(pattern: str) -> None:
    assert list(ROOT.glob(pattern)) or list(ROOT.glob(f"{pattern}.py"))


def test_each_test_file_in_the_makefile_exists() -> None:
    names = re.search(r"^KERNEL_TESTS := (.*)$", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    assert names is not None
    files = re.findall(r"[\w/]+\.py", names[1])
    prefix = re.search(r"addprefix ([\w/]+),", names[1])
    assert files
    assert all((ROOT / f"{prefix[1] if prefix else ''}{file}").is_file() for file in files)


def test_lists_of_marks_with_slow_are_named_in_the_makefile() -> None:
    words = re.search(r"^SLOW_MARKS := (.*)$", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    assert words is not None
    names = {*slow_marks()}
    assert names
    assert all(re.search(words[1], name) for name in names - {"pytestmark"})


def slow_marks() -> Iterator[str]:
    """Yield the variables of test modules and helpers that hold a mark `slow`."""
    for path in (ROOT / "tests").rglob("*.py"):
        text = path.read_text(encoding="utf-8")
        for statement in ast.parse(text).body if re.search(r"mark\.slow", text) else ():
            if isinstance(statement, ast.Assign) and "mark.slow" in ast.unparse(statement.value):
                yield from map(ast.unparse, statement.targets)


def test_a_wheel_contains_every_example_image_of_the_page() -> None:
    included = TOOLS["hatch"]["build"]["targets"]["wheel"]["force-include"]
    names = [example.name for example in EXAMPLES]
    assert included == {f"examples/{name}": f"visualglm/web/examples/{name}" for name in names}


def test_each_file_in_the_dockerfile_exists() -> None:
    text = (ROOT / "Dockerfile").read_text(encoding="utf-8")
    files = re.findall(r"[\w]+\.(?:txt|py)", text)
    assert {"web_demo.py", "api.py", "constraints.txt"} <= {*files}
    assert all((ROOT / file).is_file() for file in files)


def test_each_tuned_product_is_one_of_the_published_model() -> None:
    sizes = ChatGLMConfig()
    hidden, inner, vocabulary = sizes.hidden_size, sizes.inner_hidden_size, sizes.vocab_size
    shapes = {(3 * hidden, hidden), (hidden, hidden), (inner, hidden), (hidden, inner), (vocabulary, hidden)}
    products = {(kind, *shape) for kind in ("dense", "int8", "int4") for shape in shapes}
    assert MATVEC_CONFIGS.keys() <= products
    assert {key[:3] for key in MATMUL_CONFIGS} <= products
    assert {rows for *_, rows in MATMUL_CONFIGS} <= {*ROW_BUCKETS}
