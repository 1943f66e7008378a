"""Log the progress of a training: progress bar, JSON lines, TensorBoard, Weights & Biases."""

import importlib.util
import json
import math
import os
import sys
import time
from pathlib import Path
from typing import Any, TextIO

from model.command_line import make_printable
from model.errors import SettingError

from .evaluation import Score
from .run_log import LOG_NAME as LOG_NAME
from .run_report import Progress, write_run_report


class TrainingLogger:
    """Logs the metrics of a training; only the main process has one.

    Args:
        run: directory of the log file.
        first_step: number of steps made before.
        last_step: number of the training's last step.
        summary: directory of TensorBoard's files, written if TensorBoard is installed; None for `run`.
        wandb: options of wandb.init; None disables Weights & Biases.
        settings: settings of the training by name, for the report.
    """

    def __init__(
        self,
        run: Path,
        first_step: int,
        last_step: int,
        summary: Path | None = None,
        wandb: dict[str, Any] | None = None,
        settings: dict[str, Any] | None = None,
    ) -> None:
        from tqdm import tqdm  # type: ignore[import-untyped]

        # In a terminal there is a progress bar; elsewhere each record is a line of text.
        self.bar = tqdm(
            total=last_step, initial=first_step, unit="step", disable=not sys.stderr.isatty(), smoothing=0.1
        )
        self.run, self.settings = run, settings or {}
        self.log_file = open_log(run / LOG_NAME)
        self.tensorboard = open_tensorboard(run if summary is None else summary)
        self.wandb = open_wandb(wandb)
        self.start_time, self.num_tokens = time.perf_counter(), 0.0
        self.first_step, self.last_step = first_step, last_step

    def step(self, tokens: float) -> None:
        """Count a step with `tokens` answer tokens."""
        self.num_tokens += tokens
        self.bar.update()

    def log(self, step: int, **numbers: Any) -> None:
        """Log the metrics of a step."""
        self.log_file.write(json.dumps({"step": step, **numbers}, ensure_ascii=False) + "\n")
        self.log_file.flush()
        plain = {name: value for name, value in numbers.items() if isinstance(value, int | float)}
        if self.tensorboard is not None:
            for name, value in plain.items():
                self.tensorboard.add_scalar(name, value, step)
        if self.wandb is not None:
            self.wandb.log(plain, step=step)

    def log_progress(self, step: int, loss: float, lr: float) -> None:
        """Log loss, learning rate, speed and remaining time, and print them."""
        spent = time.perf_counter() - self.start_time
        speed = self.num_tokens / max(spent, 1e-9)
        left = spent / max(1, step - self.first_step) * (self.last_step - step)
        self.log(step, loss=loss, lr=lr, tokens_per_s=round(speed, 1), left_s=round(left, 1))
        self.bar.set_postfix_str(f"loss {loss:.4f} lr {lr:.2e} {speed:.0f} tokens/s")
        if self.bar.disable:
            self.write_line(
                f"step {step}/{self.last_step}  loss {loss:.4f}  lr {lr:.2e}  {speed:.0f} tokens/s  {left:.0f} s left"
            )

    def log_evaluation(self, step: int, score: Score) -> None:
        """Log the result of an evaluation, and print it with its sample answers; undefined scores are null."""
        answered = "" if score.exact_match is None else f", {score.exact_match:.0%} of the answers correct"
        scores = "".join(f", {name} {value:.1f}" for name, value in score.metrics.items())
        self.write_line(f"step {step}: held-out loss {score.loss:.4f}{answered}{scores}")
        for sample in score.samples:
            self.write_line(f"    {sample.question}  expected: {sample.expected}  answer: {sample.answer}")
        defined = {name: value if math.isfinite(value) else None for name, value in score.metrics.items()}
        self.log(
            step,
            valid_loss=score.loss,
            valid_exact=score.exact_match,
            **{f"valid_{name}": value for name, value in defined.items()},
            samples=[[sample.question, sample.expected, sample.answer] for sample in score.samples],
            sample_images=[None if sample.image is None else str(sample.image) for sample in score.samples],
        )

    def write_report(self, step: int, earlier_seconds: float, is_complete: bool) -> None:
        """Write the report of the run after `step` steps, unless no step was made since the start.

        If this fails, the error is printed, since the training goes on.
        """
        if step == self.first_step:
            return
        seconds = time.perf_counter() - self.start_time
        try:
            progress = Progress(self.first_step, step, self.last_step, seconds, earlier_seconds, is_complete)
            write_run_report(self.run, self.settings, progress)
        except (OSError, SettingError) as error:
            self.write_line(f"The report of the run cannot be written: {error}")

    def write_line(self, text: str) -> None:
        """Print a line above the progress bar."""
        self.bar.write(make_printable(text), file=sys.stderr)

    def close(self) -> None:
        """Flush and close the logs."""
        self.bar.close()
        self.log_file.close()
        if self.tensorboard is not None:
            self.tensorboard.close()
        if self.wandb is not None:
            self.wandb.finish()


def open_log(path: Path) -> TextIO:
    """Open a log to append to it, after ending a line that a killed training has cut off."""
    file = path.open("a+", encoding="utf-8")
    if file.tell():
        with path.open("rb") as written:
            written.seek(-1, os.SEEK_END)
            if written.read() != b"\n":
                file.write("\n")
    return file


def open_tensorboard(folder: Path) -> Any:
    """Return a TensorBoard writer; None if TensorBoard is not installed."""
    if importlib.util.find_spec("tensorboard") is None:
        return None
    from torch.utils.tensorboard import SummaryWriter

    return SummaryWriter(str(folder))


def open_wandb(options: dict[str, Any] | None) -> Any:
    """Start a run of Weights & Biases; return None if `options` is None."""
    if options is None:
        return None
    if importlib.util.find_spec("wandb") is None:
        raise SettingError("--wandb: Weights & Biases is not installed. Run: pip install wandb")
    import wandb

    return wandb.init(**options)
