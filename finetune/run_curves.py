"""The curves of one or more runs: selects the logged numbers, and names them."""

from collections.abc import Sequence

from model.html_page import Line

from .curves import Curve, Panel
from .run_log import RunLog

LOSS, HELD_OUT_LOSS, RATE, EXACT = "loss", "valid_loss", "lr", "valid_exact"
HELD_OUT = "valid_"  # prefix of the numbers of an evaluation
TITLES = {LOSS: "loss", HELD_OUT_LOSS: "held-out loss", RATE: "learning rate", EXACT: "exact answers (share)"}
TRAINING_STYLE, HELD_OUT_STYLE = range(2)


def drawn_keys(logs: Sequence[RunLog]) -> list[str]:
    """Return the keys of the log that are drawn: losses, learning rate, and all metrics."""
    logged = dict.fromkeys(key for log in logs for key in log.numbers)
    known = [key for key in TITLES if key in logged]
    return known + [key for key in logged if key.startswith(HELD_OUT) and key not in TITLES]


def title_of(key: str) -> str:
    """Return the title of a logged number."""
    return TITLES.get(key) or f"{key.removeprefix(HELD_OUT)} (%)"


def curves_of_run(log: RunLog) -> tuple[list[str], list[Panel]]:
    """Return the legend and the panels of one run; both losses share a panel."""
    panels = []
    for key in drawn_keys([log]):
        style = HELD_OUT_STYLE if key.startswith(HELD_OUT) else TRAINING_STYLE
        panels.append(Panel(title_of(key), [Curve(log.numbers[key], style)]))
    titles = [panel.title for panel in panels]
    if titles[:2] == [TITLES[LOSS], TITLES[HELD_OUT_LOSS]]:
        panels[:2] = [Panel(TITLES[LOSS], [*panels[0].curves, *panels[1].curves])]
    return ["training", "held-out data"], panels


def curves_of_runs(logs: Sequence[RunLog], names: Sequence[str]) -> tuple[list[str], list[Panel]]:
    """Return the legend and the panels of several runs: in each panel one curve of each run that has the number."""
    panels = []
    for key in drawn_keys(logs):
        curves = [Curve(log.numbers[key], style) for style, log in enumerate(logs) if key in log.numbers]
        panels.append(Panel(title_of(key), curves))
    return list(names), panels


def number_lines(log: RunLog) -> list[Line]:
    """Return a line for each drawn number: its last value, and the best one of the evaluations."""
    lines = []
    for key in drawn_keys([log]):
        step, value = log.numbers[key][-1]
        line = f"{value:.5g} at step {step:,}"
        if key.startswith(HELD_OUT):
            best_step, best = best_of(log, key)
            line += f"; best {best:.5g} at step {best_step:,}"
        lines.append(Line(title_of(key), line))
    return lines


def best_of(log: RunLog, key: str) -> tuple[int, float]:
    """Return step and value of the best evaluation: the lowest loss, or else the highest value."""
    sign = -1 if key == HELD_OUT_LOSS else 1
    return max(log.numbers[key], key=lambda point: sign * point[1])
