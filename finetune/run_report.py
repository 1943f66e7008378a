"""The report of a run: an HTML page with its settings, curves, numbers and sample answers, and the curves as SVG."""

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from datetime import timedelta
from pathlib import Path
from typing import Any

from PIL import Image

from model.errors import ImageError
from model.file_writing import write_text_atomically
from model.html_page import Article, Line, format_page, format_table
from model.images.preprocess import load_image

from .config import TrainingConfig
from .curves import draw_figure, draw_separately
from .run_curves import curves_of_run, number_lines
from .run_log import RunLog, read_run_log

CURVES_NAME, REPORT_NAME = "curves.svg", "report.html"
SAMPLES, SAMPLE_IMAGES = "samples", "sample_images"  # keys of the log


@dataclass(frozen=True)
class Progress:
    """How far a training is.

    Attributes:
        first_step: number of steps that were made before this program started.
        step, last_step: number of steps made, and of the training's last step.
        seconds: time since the start of this program's first step.
        earlier_seconds: time of the earlier programs that trained the run, as far as it is known.
        is_complete: whether the training ended by itself.
    """

    first_step: int
    step: int
    last_step: int
    seconds: float
    earlier_seconds: float = 0.0
    is_complete: bool = False

    def lines(self) -> list[str]:
        """Return the progress as lines of text."""
        resumed = earlier = ""
        if self.first_step:
            resumed = f", resumed after step {self.first_step:,}"
            earlier = f", and {describe_time(self.earlier_seconds)} before the last start"
        return [
            f"{'Complete' if self.is_complete else 'Not complete'}: step {self.step:,} of {self.last_step:,}{resumed}",
            f"Time: {describe_time(self.seconds)} for {self.step - self.first_step:,} steps{earlier}",
            f"Written: {time.strftime('%Y-%m-%d %H:%M:%S')}",
        ]


def describe_time(seconds: float) -> str:
    """Return a duration as hours, minutes and seconds."""
    return str(timedelta(seconds=round(seconds)))


def write_run_report(run: Path, settings: Mapping[str, Any], progress: Progress) -> None:
    """Write the curves and the report into a run's directory, replacing older ones.

    Args:
        run: directory of the run, with its log.
        settings: all settings of the training by name.
        progress: how far the training is.

    Raises:
        OSError: a file cannot be written.
        SettingError: the log cannot be read.
    """
    log = read_run_log(run)
    legend, panels = curves_of_run(log)
    figures = [f"<h2>Numbers</h2>\n{format_table(number_lines(log))}", *format_settings(settings)]
    if panels:
        write_text_atomically(run / CURVES_NAME, draw_figure(f"Curves of {run.name}", legend, panels))
        figures.insert(0, draw_separately(legend, panels))
    samples = list(sample_articles(log))
    if samples:
        figures.append("<h2>Answers of the last evaluation</h2>")
    page = format_page(run.name, samples, scores=progress.lines(), figures=figures, language="en")
    write_text_atomically(run / REPORT_NAME, page)


def format_settings(settings: Mapping[str, Any]) -> Iterator[str]:
    """Yield a table of the settings that differ from their defaults, and a collapsed table of the remaining ones."""
    defaults = {item.name: item.default for item in fields(TrainingConfig)}
    is_default = {name: describe_value(value) == describe_value(defaults.get(name)) for name, value in settings.items()}
    chosen, others = (
        format_table(setting_lines({name: settings[name] for name, is_one in is_default.items() if is_one is wanted}))
        for wanted in (False, True)
    )
    yield f"<h2>Settings</h2>\n{chosen}"
    yield f"<details><summary>Settings with their default values</summary>\n{others}\n</details>"


def setting_lines(settings: Mapping[str, Any]) -> list[Line]:
    """Return a line for each setting."""
    return [Line(name, describe_value(value)) for name, value in settings.items()]


def describe_value(value: Any) -> str:
    """Return the value of a setting as text."""
    if value is None or value in ((), [], ""):
        return "-"
    return ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def sample_articles(log: RunLog) -> Iterator[Article]:
    """Yield the sample answers of the last evaluation, with their images if these can still be read."""
    samples, images = log.last(SAMPLES) or [], log.last(SAMPLE_IMAGES) or []
    for number, (question, expected, answer) in enumerate(filter(is_sample, samples)):
        path = images[number] if len(images) == len(samples) else None
        lines = [Line("question", question), Line("expected", expected)]
        verdict: Any = "right" if answer == expected else "wrong"
        yield Article(load_if_readable(path), [*lines, Line("answer", answer, verdict)])


def is_sample(value: Any) -> bool:
    """Return whether a value of the log is a sample: question, expected answer and answer."""
    return isinstance(value, Sequence) and len(value) == 3 and all(isinstance(text, str) for text in value)


def load_if_readable(path: Any) -> Image.Image | None:
    """Return the image in a file; None without a path, or if the file cannot be read."""
    if not isinstance(path, str):
        return None
    try:
        return load_image(Path(path))
    except ImageError:
        return None
