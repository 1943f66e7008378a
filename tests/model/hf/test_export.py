"""An exported directory is self-contained: transformers loads it without this package."""

import ast
import itertools
import json
import os
import re
import shutil
import sys
from pathlib import Path
from typing import Any
from unittest.mock import ANY

import numpy as np
import pytest

from model import ENGLISH, CheckpointError, Conversation, load_sat
from model.explain import explain_answer
from model.hf.export import (
    COMMON_MODULES,
    COMMON_NAME,
    HF_MODULES,
    SHARED_FILES,
    SHARED_MODULES,
    export_code,
    refresh_code,
)
from model.images.preprocess import load_image
from tests.helpers.hf_models import TINY, load_tiny, tiny_model, tiny_tokenizer
from tests.helpers.preloaded import BARE, run_forked

ROOT = Path(__file__).parents[3]
PICTURE = ROOT / "examples" / "scene.png"
QUESTION = "图片里有几个物体？"
EXPLAINED = "What colour is the star?"
LIBRARIES = {
    *("torch", "transformers", "sentencepiece", "tokenizers", "numpy", "PIL", "pi_heif"),
    *sys.stdlib_module_names,
}
# Arguments: an image, a question, a folder to save the last model in or "", and directories. Prints the results.
PROGRAM = """
import json, sys
sys.modules["model"] = sys.modules["sat"] = None  # importing either fails
from pathlib import Path
from transformers import AutoConfig, AutoModel, AutoTokenizer
picture, question, copy, *paths = sys.argv[1:]
settings = dict(do_sample=False, min_length=0, repetition_penalty=1.0)

def load(path):
    loaded = {}
    if Path(path, "config.json").is_file():
        config = AutoConfig.from_pretrained(path, trust_remote_code=True)
        loaded["ignored"] = config.keys_to_ignore_at_inference + ["loss"]  # as Trainer does
        loaded["config"] = type(config).__module__
    if Path(path, "tokenizer_config.json").is_file():
        tokenizer = AutoTokenizer.from_pretrained(path, trust_remote_code=True)
        loaded["ids"] = tokenizer.encode("你好")
        loaded["tokenizer"] = type(tokenizer).__module__
    if Path(path, "model.safetensors").is_file():
        model = AutoModel.from_pretrained(path, trust_remote_code=True).float().eval()
        loaded["answer"], history = model.chat(tokenizer, picture, question, history=[], **settings)
        *_, last = model.stream_chat(tokenizer, picture, question, history=[], **settings)
        assert last == (loaded["answer"], history)
        loaded["model"] = type(model).__module__
        found = model.explain(tokenizer, picture, "EXPLAINED", english=True, answer="The star is red.")
        loaded["explanation"] = [found.map.tolist(), found.token_maps.tolist(), found.token_reliance.tolist()]
        if copy:
            model.save_pretrained(copy)
            tokenizer.save_pretrained(copy)
    return loaded

print(json.dumps({Path(path).name: load(path) for path in paths}))
"""


def make_export(directory: Path) -> Path:
    """Copy visualglm-tiny to `directory`, with the exported code."""
    shutil.copytree(TINY, directory)
    export_code(directory)
    return directory


@pytest.fixture
def exported(tmp_path: Path) -> Path:
    """visualglm-tiny with its exported code."""
    return make_export(tmp_path / "visualglm-tiny")


def load_elsewhere(*directories: Path, copy: str = "") -> dict[str, Any]:
    """Load directories in a new process without this package and SAT; return the printed results by name."""
    folder = directories[0].parent
    done = run_forked(
        ["-c", PROGRAM.replace("EXPLAINED", EXPLAINED), str(PICTURE), QUESTION, copy, *map(str, directories)],
        modules=BARE,
        cwd=folder,
        env={**os.environ, "HF_MODULES_CACHE": str(folder / "modules"), "HF_HUB_OFFLINE": "1"},
    )
    assert done.returncode == 0, done.stderr
    loaded: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return loaded


@pytest.fixture(scope="module")
def elsewhere(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Results of loading directories in two processes, by name; the first saves `copy`, which the second loads."""
    folder = tmp_path_factory.mktemp("elsewhere")
    first = load_elsewhere(make_export(folder / "visualglm-tiny"), copy=str(folder / "copy"))
    load_tiny().save_pretrained(folder / "saved")
    tiny_tokenizer().save_pretrained(folder / "saved")
    tiny_tokenizer().save_pretrained(folder / "tokenizer")
    refresh_code(make_published(folder / "published", folder / "store"))
    refresh_code(make_old_export(folder / "old"))
    return {**first, **load_elsewhere(*(folder / name for name in ("copy", "saved", "tokenizer", "published", "old")))}


def expected_answer() -> str:
    """Return the model's answer in this process."""
    return tiny_model().chat(
        tiny_tokenizer(), PICTURE, QUESTION, do_sample=False, min_length=0, repetition_penalty=1.0
    )[0]


def test_a_fresh_process_chats_and_what_it_saves_loads_again(elsewhere: dict[str, Any]) -> None:
    loaded = elsewhere["visualglm-tiny"]
    assert loaded["answer"] == expected_answer()
    assert all(loaded[part].startswith("transformers_modules.") for part in ("model", "config", "tokenizer"))
    assert elsewhere["copy"]["answer"] == loaded["answer"]


def test_an_export_explains_an_answer_as_this_package_does(elsewhere: dict[str, Any]) -> None:
    model = load_sat("visualglm-tiny", device="cpu")
    about = Conversation(load_image(PICTURE), [], ENGLISH)
    expected = explain_answer(model, about, EXPLAINED, "The star is red.")
    grid, token_maps, reliance = elsewhere["visualglm-tiny"]["explanation"]
    np.testing.assert_allclose(grid, expected.map, atol=1e-4)
    np.testing.assert_allclose(token_maps, expected.token_maps, atol=1e-4)
    np.testing.assert_allclose(reliance, expected.token_reliance, atol=1e-2)
    assert expected.map.any()


SAVED = {"config.json": "AutoModel", "tokenizer_config.json": "AutoTokenizer"}


@pytest.mark.parametrize("order", list(itertools.permutations(["model", "tokenizer", "config"])), ids=" ".join)
def test_every_order_of_saving_names_the_code(order: tuple[str, ...], tmp_path: Path) -> None:
    model = load_tiny()
    parts = {"model": model, "tokenizer": tiny_tokenizer(), "config": model.config}
    for name in order:
        parts[name].save_pretrained(tmp_path)
    for file, auto_class in SAVED.items():
        named = json.loads((tmp_path / file).read_text())["auto_map"][auto_class]
        module = (named if isinstance(named, str) else named[0]).split(".")[0]
        assert (tmp_path / f"{module}.py").is_file()


def test_a_model_saved_before_its_tokenizer_loads_elsewhere(elsewhere: dict[str, Any]) -> None:
    assert elsewhere["saved"]["answer"] == expected_answer()


def test_a_tokenizer_saved_alone_loads_elsewhere(elsewhere: dict[str, Any]) -> None:
    assert elsewhere["tokenizer"] == {"ids": tiny_tokenizer().encode("你好"), "tokenizer": ANY}


def test_an_export_is_few_files_that_can_be_read(exported: Path) -> None:
    files = list(exported.glob("*.py"))
    assert 0 < len(files) <= 12
    assert max(len(file.read_text(encoding="utf-8").splitlines()) for file in files) <= 500


@pytest.mark.parametrize("module", [*HF_MODULES, *SHARED_MODULES])
def test_files_import_libraries_and_one_another_only(exported: Path, module: str) -> None:
    names = {*HF_MODULES, *SHARED_MODULES}
    for node in ast.walk(ast.parse((exported / f"{module}.py").read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            assert {alias.name.split(".")[0] for alias in node.names} <= LIBRARIES
        elif isinstance(node, ast.ImportFrom):
            assert node.module is not None
            assert node.level <= 1
            assert node.module.split(".")[0] in (names if node.level else LIBRARIES)


@pytest.mark.parametrize("file", SHARED_FILES)
def test_shared_modules_are_copied_with_only_their_imports_changed(exported: Path, file: str) -> None:
    name = COMMON_NAME if Path(file).stem in COMMON_MODULES else Path(file).stem
    original = (ROOT / "model" / file).read_text(encoding="utf-8").splitlines()
    copied = iter((exported / f"{name}.py").read_text(encoding="utf-8").splitlines())
    missing = [line for line in original if not line.startswith("from .") and line not in copied]
    assert missing == []  # the lines are in the copy, in their order


def snapshot(directory: Path) -> dict[str, bytes]:
    """Return the content of every file in a directory."""
    return {str(path.relative_to(directory)): path.read_bytes() for path in directory.rglob("*") if path.is_file()}


def test_exporting_again_changes_nothing_and_settings_stay(exported: Path) -> None:
    before = snapshot(exported)
    export_code(exported)
    assert snapshot(exported) == before
    original: dict[str, Any] = json.loads((TINY / "config.json").read_text())
    config = json.loads(before["config.json"])
    assert {key: config[key] for key in original if key != "auto_map"} == {
        key: value for key, value in original.items() if key != "auto_map"
    }


def test_weights_without_configurations_get_the_code_alone(tmp_path: Path) -> None:
    export_code(tmp_path)
    assert {path.suffix for path in tmp_path.iterdir()} == {".py"}


def make_published(directory: Path, store: Path) -> Path:
    """Create a directory with old code, whose files are links as in the hub cache."""
    shutil.copytree(TINY, store)
    directory.mkdir()
    for name in ("configuration_chatglm.py", "modeling_chatglm.py", "tokenization_chatglm.py", "visual.py"):
        (store / name).write_text("raise RuntimeError('the old code ran')\n")
    for path in store.iterdir():
        (directory / path.name).symlink_to(path)
    return directory


@pytest.fixture
def published(tmp_path: Path) -> Path:
    """A directory with old code, whose files are links as in the hub cache."""
    return make_published(tmp_path / "published", tmp_path / "store")


def test_refreshed_directories_load_and_the_backup_keeps_what_was_there(
    published: Path, elsewhere: dict[str, Any]
) -> None:
    before = snapshot(published)
    backup = refresh_code(published)
    assert backup.parent == published
    kept = snapshot(backup)
    assert {name: before[name] for name in kept} == kept
    assert {*kept} == {name for name in before if name.endswith((".py", "config.json"))} - {"generation_config.json"}
    assert not (published / "visual.py").exists()
    assert snapshot(published.parent / "store") == before  # links are replaced, not followed
    assert elsewhere["published"]["answer"] == expected_answer()


def make_old_export(directory: Path) -> Path:
    """Create a directory with code that has a tuple instead of the list that Trainer requires."""
    file = make_export(directory) / "configuration_chatglm.py"
    ignored = r"keys_to_ignore_at_inference = .*"
    file.write_text(re.sub(ignored, 'keys_to_ignore_at_inference = ("past_key_values",)', file.read_text()))
    return directory


def test_refreshing_lets_trainer_evaluate_an_old_export(elsewhere: dict[str, Any]) -> None:
    assert elsewhere["old"]["ignored"] == ["past_key_values", "loss"]


def test_the_backup_keeps_other_settings_of_images(published: Path) -> None:
    settings = published / "preprocessor_config.json"
    settings.write_text('{"size": 5}')
    backup = refresh_code(published)
    assert json.loads((backup / settings.name).read_text()) == {"size": 5}
    assert json.loads(settings.read_text())["size"] == {"height": 224, "width": 224}


def test_refreshing_twice_keeps_both_backups(published: Path) -> None:
    assert [refresh_code(published).name for _ in range(2)] == ["code-backup", "code-backup-2"]


@pytest.mark.parametrize("config", [None, '{"model_type": "chatglm"}', "[]", "no json"])
def test_other_directories_are_left_alone(tmp_path: Path, config: str | None) -> None:
    if config is not None:
        (tmp_path / "config.json").write_text(config)
    before = snapshot(tmp_path)
    with pytest.raises(CheckpointError, match=r"no VisualGLM|JSON"):
        refresh_code(tmp_path)
    assert snapshot(tmp_path) == before
    assert [path for path in tmp_path.iterdir() if path.is_dir()] == []
