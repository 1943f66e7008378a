"""Programs for any vision-language model of transformers run on an exported directory, without this package."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from model.hf.export import CARD_NAME, export_code
from tests.model.hf.test_export import PICTURE, make_export

PROGRAM = Path(__file__).with_name("ecosystem_calls.py")
# A folder with another version of transformers, see CONTRIBUTING.md.
OTHER_VERSION = os.environ.get("OTHER_TRANSFORMERS")


def run_calls(folder: Path, paths: str) -> dict[str, Any]:
    """Run all calls in a new process; return their results by name."""
    settings = {"HF_MODULES_CACHE": str(folder / "modules"), "HF_HUB_OFFLINE": "1", "PYTHONPATH": paths}
    exported = make_export(folder / "exported")
    done = subprocess.run(
        [sys.executable, PROGRAM, exported, PICTURE, folder / "saved"],
        capture_output=True,
        text=True,
        cwd=folder,
        env={**os.environ, **settings},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


@pytest.mark.slow
@pytest.mark.parametrize("paths", ["", OTHER_VERSION])
def test_every_call_works_without_this_package(paths: str | None, tmp_path: Path) -> None:
    if paths is None:
        pytest.skip("OTHER_TRANSFORMERS names no folder with another version of transformers")
    pytest.importorskip("bitsandbytes")
    results = run_calls(tmp_path, paths)
    version = results.pop("version")
    assert {name: result for name, result in results.items() if result is not True} == {}, version
    assert len(results) > 20


def test_a_directory_gets_a_model_card_and_keeps_its_own(tmp_path: Path) -> None:
    exported = make_export(tmp_path / "exported")
    card = exported / CARD_NAME
    assert "license" in card.read_text().lower()
    card.write_text("ours")
    export_code(exported)
    assert card.read_text() == "ours"


def test_the_auto_map_names_every_class(tmp_path: Path) -> None:
    exported = make_export(tmp_path / "exported")
    named = json.loads((exported / "config.json").read_text())["auto_map"]
    assert {"AutoProcessor", "AutoImageProcessor", "AutoTokenizer", "AutoModelForImageTextToText"} <= named.keys()
    for value in named.values():
        module, name = (value if isinstance(value, str) else value[0]).split(".")
        assert f"class {name}(" in (exported / f"{module}.py").read_text()
