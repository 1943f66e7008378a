"""Execute the code cells of a notebook in one namespace, without Jupyter."""

import ast
import io
import json
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

VARIES = "varies"  # tag of cells that print something else in each run


@dataclass(frozen=True)
class CodeCell:
    """A code cell.

    Attributes:
        source: its Python code.
        printed: what it has printed, as the file says.
        varies: whether it may print something else.
    """

    source: str
    printed: str
    varies: bool


def read_cells(path: Path) -> list[CodeCell]:
    """Return the code cells of a notebook."""
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    return [to_cell(cell) for cell in cells if cell["cell_type"] == "code"]


def to_cell(cell: dict[str, Any]) -> CodeCell:
    """Return a code cell of a notebook's JSON."""
    printed = [line for output in cell["outputs"] if output["output_type"] == "stream" for line in output["text"]]
    return CodeCell("".join(cell["source"]), "".join(printed), VARIES in cell["metadata"].get("tags", []))


def execute(source: str, namespace: dict[str, Any]) -> str:
    """Execute Python code in a namespace, and return its output."""
    output = io.StringIO()
    with redirect_stdout(output):
        exec(compile(ast.parse(source), "cell", "exec"), namespace)
    return output.getvalue()
