"""The report of an evaluation as one HTML page: the table, plots, and the worst answers with their images."""

import html
from collections.abc import Iterator
from pathlib import Path

from PIL import Image

from model.errors import ImageError
from model.html_page import Article, Line, write_page

from .data.question import Question
from .plots import bars, reliability_diagram
from .report import MetricResult, Report
from .report_table import CONTROLS, format_metric

SHOWN = 50  # answers on the page


def write_report_page(path: Path, report: Report, shown: int = SHOWN) -> None:
    """Write the page.

    Args:
        path: the file, which is replaced.
        report: the report.
        shown: maximum number of answers to show, the worst first.

    Raises:
        SettingError: the file cannot be written.
    """
    worst = report.worst(shown)
    bad = len(report.worst(len(report.answered)))
    metric = report.results[0].metric.name
    summary = (
        f"{len(report.answered):,} questions, {report.images:,} images. {bad:,} answers are not fully correct by "
        f"{metric}; the worst {len(worst):,} are below."
    )
    figures = [part for result in report.results for part in figures_of(result)]
    articles = (to_article(report, index) for index in worst)
    write_page(path, report.title, articles, summary=summary, figures=figures, language="en", image_format="JPEG")


def figures_of(result: MetricResult) -> Iterator[str]:
    """Yield the HTML of a metric: its table and its plots."""
    name, main = result.metric.name, result.metric.main
    table = "\n".join(format_metric(result))
    yield f"<h2>{html.escape(name)}</h2>\n<pre>{html.escape(table)}</pre>"
    scores = {kind: part.scores[main] for kind, part in result.kinds.items()} or result.scores
    label = f"{main} by kind of question" if result.kinds else f"Scores of {name}"
    yield f"<figure>\n{bars(label, scores)}\n</figure>"
    if result.calibration is not None:
        diagram = reliability_diagram(f"Reliability diagram of {name}", result.calibration)
        yield f"<figure>\n{diagram}\n</figure>"


def to_article(report: Report, index: int) -> Article:
    """Return the article of an answer."""
    answer = report.answered[index]
    question = answer.question
    lines = [Line("question", question.key + (f" ({question.kind})" if question.kind else ""))]
    for earlier, reply in question.history:
        lines += [Line("before", earlier), Line("answered", reply)]
    lines += [Line("asked", question.prompt()), Line("expected", "\n".join(dict.fromkeys(question.answers)))]
    lines.append(Line("answered", answer.text, "wrong"))
    for name, answers in report.control_answers.items():
        if question.key in answers:
            lines.append(Line(f"with {CONTROLS.get(name, name)}", answers[question.key]))
    lines.append(Line("grades", ", ".join(f"{part.metric.name} {part.grades[index]:.2f}" for part in report.results)))
    image, problem = load(question)
    if problem:
        lines.append(Line("image", problem))
    return Article(image, lines)


def load(question: Question) -> tuple[Image.Image | None, str]:
    """Return the image of a question, and the message of an error instead of an image that cannot be loaded."""
    if question.image is None:
        return None, ""
    try:
        return question.image.load(), ""
    except ImageError as error:
        return None, str(error)
