"""Preview of an image in the terminal: as pixels where the terminal can show them, else as half blocks."""

import base64
import io
import os
import re
import sys
from collections.abc import Iterator, Mapping

import numpy as np
from PIL import Image
from rich.color import Color
from rich.segment import Segment, Segments
from rich.style import Style

from .output import Screen
from .query import SILENT_TERMS, ask_terminal

MAX_COLUMNS, MAX_ROWS = 40, 14
CELL_WIDTH, CELL_HEIGHT = 10, 20  # pixels that are sent for one character
HALF_BLOCK = "▀"
KITTY_CHUNK = 4096  # characters of one control sequence of kitty
SIXEL_COLORS = 128
# https://sw.kovidgoyal.net/kitty/graphics-protocol: a query for support, whose reply arrives before the one to DA1.
KITTY_QUERY = "\x1b_Gi=31,s=1,v=1,a=q,t=d,f=24;AAAA\x1b\\"
DEVICE_QUERY = "\x1b[c"  # DA1; the attribute 4 in the reply means sixel
DEVICE_REPLY = re.compile(rb"\x1b\[\?([\d;]*)c")
KITTY_TERMS = ("xterm-kitty", "xterm-ghostty")
KITTY_PROGRAMS = ("ghostty", "WezTerm")
MULTIPLEXERS = ("screen", "tmux")  # they do not pass kitty's sequences to the terminal


def show_preview(image: Image.Image, screen: Screen) -> str:
    """Show an RGB image below the cursor; return the text typed meanwhile, which a reply of the terminal ended.

    Nothing is shown where the output is no terminal, or has no colors or no block characters.
    """
    if not screen.is_terminal or not screen.has_colors or screen.width < MAX_COLUMNS // 4:
        return ""
    typed = ""
    if screen.graphics is None:
        screen.graphics, typed = find_protocol(os.environ)
    columns, rows = fit_cells(image, min(MAX_COLUMNS, screen.width - 1))
    if screen.graphics == "kitty":
        screen.write_raw("".join(encode_kitty(resize(image, columns * CELL_WIDTH, rows * CELL_HEIGHT), columns, rows)))
    elif screen.graphics == "sixel":
        screen.write_raw(encode_sixel(resize(image, columns * CELL_WIDTH, rows * CELL_HEIGHT)))
    elif can_encode(HALF_BLOCK):
        show_blocks(resize(image, columns, 2 * rows), screen)
        return typed
    else:
        return typed
    screen.write_raw("\r\n")
    return typed


def find_protocol(environment: Mapping[str, str]) -> tuple[str | None, str]:
    """Ask the terminal how it can show pixels.

    Returns:
        "kitty", "sixel", "" for neither, or None if it could not be asked now; and the text typed meanwhile.
    """
    term = environment.get("TERM", "")
    if term in SILENT_TERMS:
        return "", ""
    query = (KITTY_QUERY if may_be_kitty(environment) else "") + DEVICE_QUERY
    reply, typed = ask_terminal(query, DEVICE_REPLY)
    if reply is None:
        return None, typed
    if b"\x1b_Gi=31;OK" in reply:
        return "kitty", typed
    found = DEVICE_REPLY.search(reply)
    return "sixel" if found and b"4" in found[1].split(b";")[1:] else "", typed


def may_be_kitty(environment: Mapping[str, str]) -> bool:
    """Return whether the environment names a terminal with kitty's graphics."""
    if environment.get("TERM", "").startswith(MULTIPLEXERS):
        return False
    return (
        bool(environment.get("KITTY_WINDOW_ID"))
        or environment.get("TERM") in KITTY_TERMS
        or environment.get("TERM_PROGRAM") in KITTY_PROGRAMS
    )


def can_encode(text: str) -> bool:
    """Return whether the standard output can represent `text`."""
    try:
        text.encode(sys.stdout.encoding or "ascii")
    except UnicodeEncodeError:
        return False
    return True


def fit_cells(image: Image.Image, max_columns: int) -> tuple[int, int]:
    """Return columns and rows for an image with its aspect ratio; a character is twice as high as wide."""
    scale = min(max_columns / image.width, 2 * MAX_ROWS / image.height)
    return max(1, round(image.width * scale)), max(1, round(image.height * scale / 2))


def resize(image: Image.Image, width: int, height: int) -> Image.Image:
    """Resize an RGB image for the screen."""
    return image.resize((width, height), Image.Resampling.LANCZOS)


def show_blocks(image: Image.Image, screen: Screen) -> None:
    """Show an image as half blocks: a character has one pixel as its color and another as its background."""
    pixels = image.load()
    if pixels is None or screen.console is None:
        return
    for y in range(0, image.height - 1, 2):
        row = [(pixels[x, y], pixels[x, y + 1]) for x in range(image.width)]
        cells = [Segment(HALF_BLOCK, Style(color=rgb(upper), bgcolor=rgb(lower))) for upper, lower in row]
        screen.console.print(Segments([*cells, Segment("\n")]), end="")
    screen.console.file.flush()


def rgb(pixel: object) -> Color:
    """Convert a pixel to a color of rich, which reduces it to the colors of the terminal."""
    red, green, blue = pixel if isinstance(pixel, tuple) else (0, 0, 0)
    return Color.from_rgb(red, green, blue)


def encode_kitty(image: Image.Image, columns: int, rows: int) -> Iterator[str]:
    """Yield the control sequences that show an image in kitty, without a reply."""
    file = io.BytesIO()
    image.save(file, "png")
    data = base64.b64encode(file.getvalue()).decode("ascii")
    chunks = [data[start : start + KITTY_CHUNK] for start in range(0, len(data), KITTY_CHUNK)]
    for number, chunk in enumerate(chunks):
        first = f"a=T,f=100,q=2,c={columns},r={rows}," if number == 0 else ""
        yield f"\x1b_G{first}m={int(number < len(chunks) - 1)};{chunk}\x1b\\"


def encode_sixel(image: Image.Image) -> str:
    """Return the control sequence that shows an image in a terminal with sixel graphics.

    Source: https://vt100.net/docs/vt3xx-gp/chapter14.html
    """
    indexed = image.quantize(SIXEL_COLORS)
    palette = indexed.getpalette() or []
    colors = [palette[start : start + 3] for start in range(0, len(palette), 3)]
    parts = [f'\x1bPq"1;1;{image.width};{image.height}']
    parts += [f"#{n};2;{';'.join(str(round(value / 2.55)) for value in color)}" for n, color in enumerate(colors)]
    pixels = np.asarray(indexed)  # [H, W]
    for top in range(0, image.height, 6):
        band = pixels[top : top + 6]
        parts.append("$".join(f"#{color}{encode_band(band == color)}" for color in np.unique(band)) + "-")
    return "".join(parts) + "\x1b\\"


def encode_band(mask: "np.ndarray") -> str:
    """Encode the pixels of one color in up to six rows [6, W]: a character for each column, repeats as a number."""
    bits = 1 << np.arange(len(mask))  # the top row is the lowest bit
    text = (63 + bits @ mask).astype(np.uint8).tobytes().decode("ascii")
    return re.sub(r"(.)\1{3,}", lambda run: f"!{len(run[0])}{run[1]}", text)
