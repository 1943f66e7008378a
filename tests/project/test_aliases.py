"""Former paths, names, keywords and attributes work and warn; public names are imported on first use."""

import ast
import importlib
import inspect
import subprocess
import sys
from pathlib import Path

import pytest

import model
from model.aliases import MOVED, RENAMED, FormerAttribute, find_current, former_keywords
from tests.helpers.preloaded import run_preloaded

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("former", sorted(MOVED))
def test_a_former_path_is_the_module_of_the_current_one_and_warns(former: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if ".triton." in former:
        pytest.importorskip("triton")
    monkeypatch.delitem(sys.modules, former, raising=False)
    with pytest.warns(DeprecationWarning, match=MOVED[former]):
        module = importlib.import_module(former)
    assert module is importlib.import_module(MOVED[former])
    assert module.__name__ == MOVED[former]
    assert module.__spec__ is not None
    assert module.__spec__.name == MOVED[former]


@pytest.mark.parametrize(
    ("module", "former", "current"),
    [(module, former, current) for module, names in RENAMED.items() for former, current in names.items()],
)
def test_a_former_name_is_the_current_object_and_warns(module: str, former: str, current: str) -> None:
    if ".triton." in module:
        pytest.importorskip("triton")
    found = importlib.import_module(module)
    with pytest.warns(DeprecationWarning, match=current):
        value = getattr(found, former)
    assert value is getattr(found, current)
    assert former not in vars(found)


def test_a_module_with_former_names_still_lacks_other_names() -> None:
    module = importlib.import_module(next(iter(RENAMED)))
    with pytest.raises(AttributeError, match="no_such_name"):
        _ = module.no_such_name


def test_a_former_keyword_is_taken_and_warns() -> None:
    @former_keywords(rows="size")
    def make(name: str, *, size: int = 1) -> tuple[str, int]:
        return name, size

    assert make("a", size=2) == ("a", 2)
    with pytest.warns(DeprecationWarning, match="size"):
        assert make("a", **{"rows": 3}) == ("a", 3)
    with pytest.raises(TypeError, match="rows"):
        make("a", size=1, **{"rows": 2})


def test_a_former_attribute_is_read_and_written_and_warns() -> None:
    class Batch:
        size = 1
        rows = FormerAttribute("size")

    batch = Batch()
    with pytest.warns(DeprecationWarning, match="size"):
        batch.rows = 3
    with pytest.warns(DeprecationWarning, match="size"):
        assert batch.rows == batch.size == 3
    with pytest.warns(DeprecationWarning, match="size"):
        assert Batch.rows == 1


def test_modules_inside_a_moved_package_have_moved_with_it() -> None:
    assert find_current("model.generation.config") == "model.engine.config"
    assert find_current("model.prompt") is find_current("json.decoder") is None


def test_a_module_that_never_was_is_still_missing() -> None:
    with pytest.raises(ModuleNotFoundError), pytest.warns(DeprecationWarning):
        importlib.import_module("model.generation.no_such_module")


@pytest.mark.parametrize("code", ["import model", "from model import ImageError", "import model.images.decode_worker"])
def test_a_light_import_stays_light(code: str) -> None:
    check = f"{code}; import sys; print(sorted({{'torch', 'sat', 'transformers', 'numpy'}} & set(sys.modules)))"
    run = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=True, cwd=ROOT)
    assert run.stdout.strip() == "[]"


@pytest.mark.parametrize(
    "code", ["import sat", "from sat.model.mixins import CachedAutoregressiveMixin", "import sat.mpu"]
)
def test_sat_is_prepared_when_it_is_imported_after_the_package(code: str) -> None:
    check = f"import model; {code}; import sys, sat; from sat import mpu, AutoModel; print(sat.__spec__.origin)"
    run = run_preloaded(check)
    assert run.returncode == 0, run.stderr
    assert run.stdout.strip().endswith("__init__.py"), run.stderr


def test_chat_is_a_function_whichever_is_imported_first() -> None:
    code = "import model.chat, model.visualglm; from model import chat; print(callable(chat), callable(model.chat))"
    run = run_preloaded(code)
    assert run.returncode == 0, run.stderr
    assert run.stdout.split() == ["True", "True"], run.stderr


def test_type_checkers_see_the_names_that_are_imported_on_demand() -> None:
    tree = ast.parse(inspect.getsource(model))
    imports = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.level]
    seen = {alias.name: node.module for node in imports for alias in node.names if alias.asname}
    assert seen == model.MODULES
    assert {*seen} <= {*dir(model)}


def test_modules_are_attributes_of_the_package_by_current_and_former_names() -> None:
    check = "import model; model.prompt.CHINESE; model.image.load_image; print(model.generation.DEMO.temperature)"
    run = run_preloaded(check)
    assert run.returncode == 0, run.stderr
    assert float(run.stdout) > 0


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no_such_name"):
        _ = model.no_such_name


def test_no_current_module_has_a_former_path() -> None:
    paths = {former.replace(".", "/") for former in MOVED}
    assert not [path for path in paths if (ROOT / f"{path}.py").exists() or (ROOT / path / "__init__.py").exists()]
