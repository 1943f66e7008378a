"""Tests of the notebooks: their cells run, and print the stored outputs."""

import json
import sys
from pathlib import Path

import pytest

from tests.helpers.notebooks import execute, read_cells

ROOT = Path(__file__).parents[2]
NOTEBOOKS = sorted((ROOT / "examples" / "notebooks").glob("*.ipynb"))
MAX_BYTES = 64 * 1024  # of a notebook with its outputs


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_prints_what_it_shows(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(path.parent)
    monkeypatch.setattr(sys, "path", [*sys.path])
    namespace = {"__name__": "__main__"}
    for cell in read_cells(path):
        printed = execute(cell.source, namespace)
        assert bool(printed) == bool(cell.printed)
        if not cell.varies:
            assert printed == cell.printed


def test_each_notebook_is_small_and_in_both_languages() -> None:
    assert len(NOTEBOOKS) == 5
    for path in NOTEBOOKS:
        content = json.loads(path.read_text(encoding="utf-8"))
        assert path.stat().st_size < MAX_BYTES
        assert content["nbformat"] == 4
        for cell in content["cells"]:
            text = "".join(cell["source"])
            if cell["cell_type"] == "markdown":
                assert any("一" <= character <= "鿿" for character in text), text
                assert any("a" <= character <= "z" for character in text), text
