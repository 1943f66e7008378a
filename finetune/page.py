"""Answers of two models side by side, as one page for a browser with the pictures in it."""

import base64
import html
import io
from collections.abc import Sequence
from pathlib import Path

from model.errors import SettingError
from model.images.image import load_image

from .asking import Answer, Compared

SIDE = 224  # pixels of a picture on the page, at most
PAGE = """<!DOCTYPE html>
<html lang="zh">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>
body {{ font: 16px/1.6 sans-serif; max-width: 70em; margin: 2em auto; padding: 0 1em; color: #222; background: #fff; }}
article {{ display: flex; flex-wrap: wrap; gap: 1.5em; border-top: 1px solid #ccc; padding: 1.5em 0; }}
img, .none {{ width: {side}px; flex: none; }}
img {{ object-fit: contain; align-self: start; }}
.none {{ color: #666; }}
table {{ flex: 1 1 20em; border-collapse: collapse; align-self: start; }}
th {{ text-align: left; font-weight: normal; color: #666; padding: .2em 1em .2em 0; vertical-align: top; }}
td {{ white-space: pre-wrap; overflow-wrap: anywhere; padding: .2em .5em; }}
.right {{ background: #e3f4e3; }}
.wrong {{ background: #fbe6e4; }}
</style>
</head>
<body>
<h1>{title}</h1>
<p>Exactly the expected answer:</p>
<ul>
{scores}
</ul>
{body}
</body>
</html>
"""


def write_page(path: Path, compared: Sequence[Compared], names: Sequence[str], scores: Sequence[str]) -> None:
    """Write the page.

    Args:
        path: the file, which is replaced.
        compared: the questions and answers.
        names: of the two models.
        scores: what to say about how many of their answers are right.

    Raises:
        SettingError: the file cannot be written.
    """
    page = PAGE.format(
        title=html.escape(" → ".join(names)),
        side=SIDE,
        scores="\n".join(f"<li>{html.escape(score)}</li>" for score in scores),
        body="\n".join(format_article(one, names) for one in compared),
    )
    try:
        path.write_text(page, encoding="utf-8", errors="replace")
    except OSError as error:
        raise SettingError(f"The page {path} cannot be written: {error.strerror}. Choose another --html.") from error


def format_article(one: Compared, names: Sequence[str]) -> str:
    """Return a question as HTML: its picture, what was said before, and both answers."""
    rows = [("row", str(one.asked.row), "")]
    for turn in one.asked.earlier:
        rows += [("before", turn.question, ""), ("answered", turn.answer, "")]
    rows += [("question", one.asked.question, ""), ("expected", one.asked.expected, "")]
    rows += [(name, answer.text, verdict(answer)) for name, answer in zip(names, (one.before, one.after), strict=True)]
    lines = "\n".join(
        f'<tr><th>{html.escape(name)}</th><td class="{kind}">{html.escape(text)}</td></tr>' for name, text, kind in rows
    )
    return f"<article>\n{embed(one.asked.image)}\n<table>\n{lines}\n</table>\n</article>"


def verdict(answer: Answer) -> str:
    """Return the style of an answer."""
    return "right" if answer.right else "wrong"


def embed(path: Path | None) -> str:
    """Return a picture as part of the page, at most SIDE pixels wide and high."""
    if path is None:
        return '<p class="none">no picture</p>'
    shown = load_image(path)
    shown.thumbnail((SIDE, SIDE))
    buffer = io.BytesIO()
    shown.save(buffer, "JPEG", quality=85)
    data = base64.b64encode(buffer.getvalue()).decode("ascii")
    return f'<img alt="the picture that was asked about" src="data:image/jpeg;base64,{data}">'
