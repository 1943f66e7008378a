"""Comparisons of decoding within one run: ours with the original, and few bits or requests with more."""

from collections.abc import Sequence

from benchmarks.parts.prompts import LONG, SHORT
from benchmarks.parts.table import Comparison, at_least


def compare_implementations(concurrent: int, *, has_targets: bool, is_tiny: bool) -> list[Comparison]:
    """Return the comparisons of ours with the original, and of our own backends with each other.

    Args:
        concurrent: number of concurrent requests to compare.
        has_targets: whether the targets of full size on a GPU apply.
        is_tiny: whether those of visualglm-tiny on two cores apply.
    """
    own, theirs = f"ours/decode-{SHORT}", f"original/decode-{SHORT}"
    many = f"ours/many-{concurrent}"
    three, eight, fifth = (at_least(3), at_least(8), at_least(1 / 1.2)) if is_tiny else (None, None, None)
    eleven = at_least(11) if has_targets else None
    return [
        Comparison("decoding", own, theirs, three or eleven),
        Comparison("decoding", f"ours/decode-{LONG}", f"original/decode-{LONG}"),
        Comparison("first token", f"ours/first-{SHORT}", f"original/first-{SHORT}"),
        Comparison("first token", f"ours/first-{LONG}", f"original/first-{LONG}"),
        Comparison("image encoding", "ours/image", "original/image"),
        Comparison("concurrent, total", f"{many}-all", "original/in-turn", eight, is_time=False),
        Comparison("concurrent, while all decode", many, "original/rate", eight, is_time=False),
        Comparison("int8 and float weights", f"int8/decode-{SHORT}", own, fifth),
        Comparison("int4 and float weights", f"int4/decode-{SHORT}", own),
        Comparison("text and ids", f"ours/text-{SHORT}", own),
        Comparison("the Hugging Face side and ours", f"hf/decode-{SHORT}", own),
    ]


def compare_counts(counts: Sequence[int], *, has_targets: bool) -> list[Comparison]:
    """Return comparisons of steps: of fewer bits with more, and of a number of requests with half of it."""
    compared = []
    for prefix in ("", "hf-"):
        wide = "hf" if prefix else "ours"
        names = (wide, f"{prefix}int8", f"{prefix}int4")
        for n in counts:
            bits = at_least(1 / 1.05 if n < 64 else 1 / 1.15) if has_targets else None
            for few, many in ((names[1], wide), (names[2], names[1])):
                compared.append(Comparison(f"{few} and {many}", f"{few}/step-{n}", f"{many}/step-{n}", bits))
        half = at_least(1 / 1.6) if has_targets else None
        compared += [
            Comparison(f"{n} and {n // 2} at once", f"{name}/step-{n}", f"{name}/step-{n // 2}", half)
            for name in names
            for n in counts
            if n // 2 in counts
        ]
    return compared


def compare_with_peer(counts: Sequence[int]) -> list[Comparison]:
    """Return comparisons of our steps with those of the compiled plain transformer."""
    return [Comparison("ours and the peer", f"ours/step-{n}", f"peer/step-{n}") for n in counts]


def add_original_rate(results: dict[str, float]) -> None:
    """Add the tokens/s of the original, which answers one request at a time."""
    time_ms = results.get(f"original/decode-{SHORT}")
    if time_ms is not None:
        results["original/rate"] = 1e3 / time_ms
