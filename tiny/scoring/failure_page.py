"""The wrong answers of an evaluation as one page for a browser, pictures and all."""

import base64
import html
import io
from pathlib import Path

from tiny.scoring.results import Picture, Result

SHOWN_SIDE = 224  # pixels
PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>
body {{ font: 16px/1.5 sans-serif; max-width: 60em; margin: 2em auto; padding: 0 1em; color: #222; background: #fff; }}
article {{ display: flex; flex-wrap: wrap; gap: 1.5em; border-top: 1px solid #ccc; padding: 1.5em 0; }}
img, .none {{ width: {side}px; flex: none; }}
img {{ object-fit: contain; align-self: start; }}
.none {{ color: #666; }}
dl {{ display: grid; grid-template-columns: auto 1fr; gap: .2em 1em; flex: 1 1 20em; margin: 0; align-content: start; }}
dt {{ color: #666; }}
dd {{ margin: 0; white-space: pre-wrap; overflow-wrap: anywhere; }}
</style>
</head>
<body>
<h1>{title}</h1>
{body}
</body>
</html>
"""


def write_failures(path: Path, results: list[Result]) -> None:
    """Write the page.

    Args:
        path: the file, which is replaced.
        results: all of them; only the wrong ones are shown.
    """
    wrong = [result for result in results if not result.right]
    title = f"Wrong answers: {len(wrong)} of {len(results)}"
    body = "\n".join(map(_format_failure, wrong)) or "<p>Every answer was right.</p>"
    path.write_text(PAGE.format(title=title, side=SHOWN_SIDE, body=body), encoding="utf-8", errors="replace")


def _format_failure(result: Result) -> str:
    question = result.question
    rows = [("kind", f"{question.kind} ({question.language})")]
    for earlier, answer in question.history:
        rows += [("before", earlier), ("answered", answer)]
    rows += [("question", question.text), ("expected", "\n".join(question.expected)), ("answered", result.answer)]
    entries = "\n".join(f"<dt>{name}</dt><dd>{html.escape(value)}</dd>" for name, value in rows)
    return f"<article>\n{_embed(question.picture)}\n<dl>\n{entries}\n</dl>\n</article>"


def _embed(picture: Picture | None) -> str:
    """The picture as part of the page, at most SHOWN_SIDE pixels wide and high."""
    if picture is None:
        return '<p class="none">no picture</p>'
    shown = picture.load()
    shown.thumbnail((SHOWN_SIDE, SHOWN_SIDE))
    buffer = io.BytesIO()
    shown.save(buffer, "PNG")
    data = base64.b64encode(buffer.getvalue()).decode("ascii")
    return f'<img alt="the picture that was asked about" src="data:image/png;base64,{data}">'
