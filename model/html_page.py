"""Write an HTML page in one file: images, each with a table of questions and answers."""

import base64
import html
import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from PIL import Image

from .errors import SettingError

MAX_SIDE = 224  # maximum width and height of an image on the page, in pixels
PAGE = """<!DOCTYPE html>
<html lang="{language}">
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
pre {{ overflow-x: auto; }}
figure {{ margin: 1em 0; }}
.right {{ background: #e3f4e3; }}
.wrong {{ background: #fbe6e4; }}
</style>
</head>
<body>
<h1>{title}</h1>
{body}
</body>
</html>
"""


@dataclass(frozen=True)
class Line:
    """A row of an article's table.

    Attributes:
        name: the left cell.
        text: the right cell.
        verdict: "right" or "wrong" gives the text a background color; "" does not.
    """

    name: str
    text: str
    verdict: Literal["right", "wrong", ""] = ""


@dataclass(frozen=True)
class Article:
    """An image, or None, with a table."""

    image: Image.Image | None
    lines: Sequence[Line]


def write_page(
    path: Path,
    title: str,
    articles: Iterable[Article],
    *,
    summary: str = "",
    scores: Sequence[str] = (),
    figures: Sequence[str] = (),
    language: str = "zh",
    image_format: Literal["JPEG", "PNG"] = "JPEG",
) -> None:
    """Write a page as an HTML file.

    Args:
        path: the file, which is replaced.
        title, articles, summary, scores, figures, language, image_format: see `format_page`.

    Raises:
        SettingError: the file cannot be written.
    """
    page = format_page(
        title, articles, summary=summary, scores=scores, figures=figures, language=language, image_format=image_format
    )
    try:
        path.write_text(page, encoding="utf-8", errors="replace")
    except OSError as error:
        raise SettingError(f"The page {path} cannot be written: {error.strerror}. Choose another file.") from error


def format_page(
    title: str,
    articles: Iterable[Article] = (),
    *,
    summary: str = "",
    scores: Sequence[str] = (),
    figures: Sequence[str] = (),
    language: str = "zh",
    image_format: Literal["JPEG", "PNG"] = "JPEG",
) -> str:
    """Return a page as HTML.

    Args:
        title: title of the page.
        articles: the articles; consumed one by one, so that an iterator may load their images.
        summary: a paragraph below the title.
        scores: a list below the summary.
        figures: HTML elements below it, such as SVG, which are inserted as they are.
        language: language code of the page.
        image_format: format of the embedded images.
    """
    parts = [f"<p>{html.escape(summary)}</p>"] if summary else []
    if scores:
        parts += ["<ul>", *(f"<li>{html.escape(score)}</li>" for score in scores), "</ul>"]
    parts += figures
    parts += [format_article(article, image_format) for article in articles]
    return PAGE.format(language=language, title=html.escape(title), side=MAX_SIDE, body="\n".join(parts))


def format_article(article: Article, image_format: Literal["JPEG", "PNG"] = "JPEG") -> str:
    """Return an article as HTML."""
    table = format_table(article.lines)
    return f"<article>\n{embed_image(article.image, image_format)}\n{table}\n</article>"


def format_table(lines: Iterable[Line]) -> str:
    """Return lines as an HTML table."""
    rows = "\n".join(
        f'<tr><th>{html.escape(line.name)}</th><td class="{line.verdict}">{html.escape(line.text)}</td></tr>'
        for line in lines
    )
    return f"<table>\n{rows}\n</table>"


def embed_image(image: Image.Image | None, image_format: Literal["JPEG", "PNG"] = "JPEG") -> str:
    """Return an image as an HTML element with a data URL, at most MAX_SIDE pixels wide and high."""
    if image is None:
        return '<p class="none">no image</p>'
    shown = image.copy()
    shown.thumbnail((MAX_SIDE, MAX_SIDE))
    buffer = io.BytesIO()
    shown.save(buffer, image_format, **({"quality": 85} if image_format == "JPEG" else {}))
    data = base64.b64encode(buffer.getvalue()).decode("ascii")
    return f'<img alt="the image of the question" src="data:image/{image_format.lower()};base64,{data}">'
