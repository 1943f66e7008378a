"""The page's first HTML: Gradio's document with our head and the shell of the application in it."""

import json
import re
from collections.abc import Mapping
from html import escape
from string import Template
from typing import Any

from model import Language

from .client_files import STYLES, ClientFiles

TITLE = "VisualGLM"
HTML_LANGUAGES = {"zh": "zh-CN", "en": "en"}
FOREIGN_HEAD = re.compile(
    rb'<meta\s+(?:property="og:|name="twitter:)[^>]*>\s*|<link\s+rel="(?:manifest|icon|shortcut icon)"[^>]*>\s*'
    rb"|<title>.*?</title>\s*",
    re.DOTALL,
)
# Gradio's code and styles, several times the size of the page, which wait until the page can be used.
GRADIO_PARTS = re.compile(
    rb'<script type="module" crossorigin src="[^"]*"></script>|<link rel="stylesheet" crossorigin href="[^"]*">'
)
HTML_LANGUAGE = re.compile(rb'(<html\b[^>]*?\slang=")[^"]*(")', re.DOTALL)
HEAD_START = re.compile(rb"<base\b[^>]*>")  # our files are requested before those of Gradio
VIEWPORT = re.compile(rb'<meta\s+name="viewport"[^>]*>')
OWN_VIEWPORT = (  # a phone's keyboard makes the page lower
    b'<meta name="viewport" content="width=device-width, initial-scale=1, interactive-widget=resizes-content" />'
)
GRADIO_TITLE = b'control_page_title="true"'  # the client sets the title
BODY_START = re.compile(rb"<body\b[^>]*>", re.DOTALL)
PLACEHOLDER = re.compile(r"\{(\w+)\}")
HEAD = Template("""
<title>$title</title>
<meta name="description" content="$description" />
<meta property="og:type" content="website" />
<meta property="og:site_name" content="$title" />
<meta property="og:title" content="$title" />
<meta property="og:description" content="$description" />
$preview<meta name="twitter:card" content="summary" />
<meta name="twitter:title" content="$title" />
<meta name="twitter:description" content="$description" />
<meta name="color-scheme" content="light dark" />
<link rel="icon" href="${address}icon.svg" type="image/svg+xml" />
<style>
$styles
</style>
$preloads
<script type="application/json" id="page-info">$info</script>
<script type="module" src="${address}main.js"></script>
<script type="module">
await Promise.resolve(window.visualglm?.app).catch(() => {});
const parts = document.getElementById("gradio-parts");
parts.replaceWith(document.importNode(parts.content, true));
</script>
""")


def fill_shell(files: ClientFiles, language: Language) -> str:
    """Return the shell with its texts in a language."""
    words: Mapping[str, str] = files.json("shell_texts.json")[language.code]
    return PLACEHOLDER.sub(lambda match: escape(words[match[1]]), files.text("shell.html"))


def to_script_json(value: Any) -> str:
    """Return JSON that can stand inside a <script> element: no "<" can end it."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).replace("<", "\\u003c")


def build_head(files: ClientFiles, info: Mapping[str, Any], language: Language, preview: str | None) -> str:
    """Return our elements of the head.

    Args:
        info: PageInfo.
        preview: absolute URL of the image that link previews show; None for none.
    """
    tables = files.json("shell_texts.json")
    names = [name for name in files.modules if name != "main.js"]
    image = "" if preview is None else f'<meta property="og:image" content="{escape(preview)}" />\n'
    return HEAD.substitute(
        title=TITLE,
        description=escape(tables[language.code]["description"]),
        preview=image,
        address=files.address,
        styles=files.text(STYLES),
        preloads="\n".join(f'<link rel="modulepreload" href="{files.address}{name}" />' for name in names),
        info=to_script_json({**info, "shell": tables}),
    )


def insert_shell(
    document: bytes, files: ClientFiles, info: Mapping[str, Any], language: Language, preview: str | None = None
) -> bytes:
    """Return Gradio's document with our head instead of its metadata, and with the shell at the start of its body.

    Args:
        document: what Gradio serves at "/".
        files: of the client.
        info: PageInfo.
        language: of the page.
        preview: see `build_head`.
    """
    head = build_head(files, info, language, preview).encode()
    shell = fill_shell(files, language).encode()
    code = HTML_LANGUAGES[language.code].encode()
    document = FOREIGN_HEAD.sub(b"", document)
    parts = b'<template id="gradio-parts">' + b"".join(GRADIO_PARTS.findall(document)) + b"</template>"
    document = GRADIO_PARTS.sub(b"", document)
    document = HTML_LANGUAGE.sub(lambda match: match[1] + code + match[2], document, count=1)
    document = document.replace(GRADIO_TITLE, b'control_page_title="false"')
    document = VIEWPORT.sub(OWN_VIEWPORT, document, count=1)
    document = HEAD_START.sub(lambda match: match[0] + head + parts, document, count=1)
    return BODY_START.sub(lambda match: match[0] + shell, document, count=1)
