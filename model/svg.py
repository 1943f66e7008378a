"""Parts of SVG images that need no other file."""

import html

BLUE, GRAY, DARK, RED = "#3465a4", "#bbb", "#222", "#a40000"


def element(width: int, height: int, label: str, parts: list[str]) -> str:
    """Return an SVG element; `label` describes it for screen readers."""
    body = "\n".join(parts)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" viewBox="0 0 {width} {height}" '
        f'role="img" aria-label="{html.escape(label)}" style="max-width: 100%; height: auto; font: 13px sans-serif">\n'
        f"<title>{html.escape(label)}</title>\n{body}\n</svg>"
    )


def text(x: float, y: float, content: str, anchor: str = "start") -> str:
    """Return a text at a position."""
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" fill="{DARK}">{html.escape(content)}</text>'


def line(x: float, y: float, to_x: float, to_y: float, color: str) -> str:
    """Return a line."""
    return f'<line x1="{x:.1f}" y1="{y:.1f}" x2="{to_x:.1f}" y2="{to_y:.1f}" stroke="{color}" stroke-width="1.5"/>'
