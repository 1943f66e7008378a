"""The training itself: batches in, checkpoints and numbers out."""

import math
from bisect import bisect_right
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import torch

from model import SatChatModel
from model.finetuned import FineTuneVisualGLMModel
from model.loading import read_sampling
from model.prompt import Tokenizer
from model.sat.lora import set_dropout

from .batches import lost_workers_explained
from .checkpoints import Run
from .config import TrainingConfig
from .data import Batch, ChatDataset, load_batches
from .distributed import Processes, say
from .encoding import NO_LOSS
from .errors import TrainingError
from .evaluation import Score, ask, held_out_loss
from .images import PictureCache, vary_some
from .optimizer import Made, Numbers, Optimizer, rate_at
from .progress import Recorder
from .sampler import Order
from .stopping import StopRequest, catch_signals
from .training_state import State

# Steps in a row without room in float16, after which something else is wrong.
MOST_SKIPPED = 20


@dataclass
class Training:
    """One training.

    Attributes:
        config: the settings.
        processes: that train together.
        network, tokenizer: the model.
        optimizer: computes losses and changes the network.
        pictures: keeps embeddings; None where the image part is trained.
        train: what is learned; several files are one after another, and what is remembered comes last.
        new: how many of its examples are not what is remembered.
        valid: held-out data.
        order: of the examples.
        run: where checkpoints go.
        state: where the training is.
        last: the step at which it ends.
        workers: processes that load data.
        tensors: what is saved, on the first process; all take part in collecting it.
        recorder: on the first process.
        stop: made by signals.
        saved: the step of the newest checkpoint; 0 before the first.
        is_stopping: whether all processes know that one of them was asked to stop.
        is_complete: whether the training came to its end and is saved.
    """

    config: TrainingConfig
    processes: Processes
    network: FineTuneVisualGLMModel
    tokenizer: Tokenizer
    optimizer: Optimizer
    pictures: PictureCache | None
    train: Any
    new: int
    valid: list[ChatDataset]
    order: Order
    run: Run
    state: State
    last: int
    workers: int
    tensors: Callable[[], dict[str, torch.Tensor]]
    recorder: Recorder | None = None
    stop: StopRequest = field(default_factory=StopRequest)
    in_a_row: int = 0
    unsaved: TrainingError | None = None
    saved: int = field(init=False)
    is_stopping: bool = False
    is_complete: bool = False

    def __post_init__(self) -> None:
        self.saved = self.state.step

    def go(self) -> bool:
        """Train from where the state is to the end, or until SIGTERM or SIGINT; return whether a signal stopped it.

        Raises:
            TrainingError: the loss is no number, float16 has no room, the last checkpoint cannot be written, or a
                process that reads data has ended.
        """
        with catch_signals(self.stop), lost_workers_explained():
            self._go()
        if self.unsaved is not None:
            raise self.unsaved
        self.is_complete = not self.is_stopping or self.state.step >= self.last
        return not self.is_complete

    def _go(self) -> None:
        waiting: Made | None = None
        set_dropout(self.network, True)
        for batches in self._steps():
            step = self._step(batches)
            # A step is judged when the next one is on its way, so that a GPU need not wait.
            if waiting is not None:
                self._judge(waiting)
            waiting = step
            if self._is_due(self.state.step) or self._must_stop():
                self._judge(waiting)
                waiting = None
                if self._pause():
                    break
        if waiting is not None:
            self._judge(waiting)

    def close(self) -> None:
        """Flush the records, release the run, and report its last checkpoint."""
        if self.recorder is not None:
            self.recorder.close()
        self.run.close()
        if self.saved:
            say(self.processes, self.run.describe(self.saved, self.last, self.is_complete))

    def _must_stop(self) -> bool:
        """Whether to stop after this step; the same for all processes."""
        if self.processes.count == 1:
            self.is_stopping = self.is_stopping or self.stop.is_made
        return self.is_stopping

    def _steps(self) -> Iterator[list[tuple[Batch, list[int]]]]:
        """Yield the batches of each step that is still to be made, with the places of their examples."""
        count, device = self.order.batches, self.processes.device
        first = self.state.step
        indices = list(islice(self.order.batches_from(first), max(0, self.last - first) * count))
        loaded = load_batches(self.train, indices, self.workers, pin_memory=device.type == "cuda")
        for start in range(0, len(indices), count):
            yield [(batch, indices[start + number]) for number, batch in enumerate(islice(loaded, count))]

    def _step(self, loaded: list[tuple[Batch, list[int]]]) -> Made:
        """Make one step."""
        torch.manual_seed(self.order.seed * 1_000_003 + self.state.step * self.processes.count + self.processes.rank)
        batches = [self._vary(batch, places) for batch, places in loaded]
        weights = [self._weights(places) for _, places in loaded]
        mine = sum(
            float((batch.labels != NO_LOSS).sum(1).float() @ w) for batch, w in zip(batches, weights, strict=True)
        )
        tokens, stops = self.processes.totals(mine, self.stop.is_made)
        share = self.processes.count * len(batches) / tokens
        total = torch.zeros((), device=self.processes.device)
        for batch, counts, (_, places) in zip(batches, weights, loaded, strict=True):
            held = torch.tensor([place >= self.new for place in places]) if self._holds else None
            loss = self.loss_of(batch, counts, held)
            # The optimizer takes the mean over processes and batches; what is wanted is that over tokens.
            self.optimizer.backward(loss * (share.to(loss.dtype) if isinstance(share, torch.Tensor) else share))
            total += loss.detach()
        for batch, (_, places) in zip(batches, loaded, strict=True):
            self._spare(batch, places)
        rate = self._rate()
        stepped = self.optimizer.step(rate)
        self.state.step += 1
        norm = 0.0 if stepped.norm is None else stepped.norm
        outcome = Numbers((total, tokens, stepped.is_skipped, norm, stops), self.processes.device)
        return Made(self.state.step, outcome, [row for batch in batches for row in batch.rows], rate)

    @property
    def _holds(self) -> bool:
        """Whether what is remembered holds the model to its base; where all of it is trained, no base is left."""
        return self.new < len(self.train) and not self.config.full

    def _vary(self, batch: Batch, places: list[int]) -> Batch:
        """Show pictures a little differently, but for answers that are learned as they were said of whole ones."""
        chosen = [self._holds or place < self.new for place in places]
        return vary_some(batch, chosen, self.config.crop, self.config.flip)

    def _spare(self, batch: Batch, places: list[int]) -> None:
        """Let pictures whose embeddings are kept be decoded no more."""
        if self.pictures is None or batch.skipped:  # where another example stood for one, its own picture is unknown
            return
        ends = self.train.cumulative_sizes
        for place, is_known in zip(places, self.pictures.knows(batch), strict=True):
            if is_known:
                number = bisect_right(ends, place)
                dataset = self.train.datasets[number]
                dataset.known[place - ends[number]] = True  # counted from its end

    def _weights(self, places: list[int]) -> torch.Tensor:
        """Return what the tokens of each example count."""
        return torch.tensor([1.0 if place < self.new else self.config.remember_weight for place in places])

    def loss_of(self, batch: Batch, *more: torch.Tensor | None) -> torch.Tensor:
        """Return the summed loss of a batch; `more` is what `AnswerLoss` may be told of its examples."""
        images = None if self.pictures is None else self.pictures.embed(batch)
        return self.optimizer.loss(batch, images, *more)

    def _rate(self) -> float:
        given = self.config
        return rate_at(
            self.state.step,
            self.last,
            given.lr,
            style=given.lr_decay_style,
            warmup=given.warmup,
            ratio=given.lr_decay_ratio,
            decay_steps=given.lr_decay_iters,
        )

    def _judge(self, made: Made) -> None:
        """Count a step that was skipped; stop at numbers that are none."""
        loss, tokens, is_skipped, norm, stops = made.outcome.read()
        self.is_stopping = self.is_stopping or stops > 0
        if self.recorder is not None:
            self.recorder.step(tokens)
        if is_skipped:
            self._count_skipped()
            return
        self.in_a_row = 0
        if not (math.isfinite(loss) and math.isfinite(norm)):
            raise TrainingError(
                f"The loss of step {made.number} or its gradient is not a number. The step saw rows "
                f"{', '.join(map(str, made.rows))} of the data. Look at these rows, lower --lr, or train in float32."
            )
        if made.number % self.config.log_interval == 0:
            mean = self.processes.sum(loss) / tokens
            if self.recorder is not None:
                self.recorder.show(made.number, mean, made.rate)

    def _count_skipped(self) -> None:
        self.state.skipped += 1
        self.in_a_row += 1
        if self.in_a_row >= MOST_SKIPPED:
            raise TrainingError(
                f"{self.in_a_row} steps in a row had gradients beyond float16's range and changed nothing. Train in "
                "bfloat16 (--bf16) where the GPU knows it, lower --lr, or look for odd rows in the data."
            )

    def _is_due(self, step: int) -> bool:
        """Whether something is to be done after this step."""
        return self._saves(step) or self._evaluates(step)

    def _evaluates(self, step: int) -> bool:
        return bool(self.valid) and self._is_every(self.config.eval_interval, step)

    def _saves(self, step: int) -> bool:
        return self._is_every(self.config.save_interval, step)

    def _is_every(self, interval: int | None, step: int) -> bool:
        """Whether a step is the last, or a multiple of an interval, which is an epoch if None."""
        return step == self.last or step % (interval or self.order.steps(1)) == 0

    def _pause(self) -> bool:
        """Evaluate and save as is due; return whether to stop early."""
        step, is_enough = self.state.step, False
        if self._evaluates(step) and not self._must_stop():
            is_enough = self._weigh(self.evaluate())
        ends = self._must_stop() or is_enough
        if ends or self._saves(step):
            self._save()
        return ends

    def evaluate(self) -> Score:
        """Evaluate on all held-out data."""
        set_dropout(self.network, False)
        try:
            return self._evaluate()
        finally:
            set_dropout(self.network, True)

    def _evaluate(self) -> Score:
        size, count = self.config.eval_batch_size or self.config.batch_size, self.config.eval_answers
        losses = [held_out_loss(self.loss_of, dataset, size, self.processes) for dataset in self.valid]
        loss = sum(losses) / len(losses)
        # ZeRO 3 has no whole model anywhere, and a decoder takes the weights as they lie.
        if not count or not self.processes.is_first or self.config.zero_stage == 3:
            return Score(loss)
        with self.optimizer.mixing():
            model = SatChatModel(self.network, self.tokenizer, sampling=read_sampling(self.run.path))
            exact, samples = ask(model, self.valid[0], count)
        return Score(loss, exact, samples)

    def _weigh(self, score: Score) -> bool:
        """Record an evaluation; return whether it is the one at which to stop early."""
        state = self.state
        better = state.best_loss is None or score.loss < state.best_loss
        state.best_loss, state.worse = (score.loss, 0) if better else (state.best_loss, state.worse + 1)
        stops = 0 < self.config.early_stop <= state.worse
        if self.recorder is not None:
            answered = "" if score.exact is None else f", {score.exact:.0%} of the answers exactly right"
            self.recorder.say(f"step {state.step}: held-out loss {score.loss:.4f}{answered}")
            for question, wanted, given in score.samples:
                self.recorder.say(f"    {question}  wanted: {wanted}  given: {given}")
            answers = [list(sample) for sample in score.samples]
            self.recorder.record(state.step, valid_loss=score.loss, valid_exact=score.exact, samples=answers)
            if stops:
                self.recorder.say(f"Stopped early: no lower loss in {state.worse} evaluations.")
        return stops

    def _save(self) -> None:
        """Save; where that fails, say so and go on, since a later one may not."""
        self.optimizer.rest()
        tensors = self.tensors()
        try:
            self.run.save(self.state, tensors, self.optimizer, self.processes)
            self.unsaved, self.saved = None, self.state.step
        except TrainingError as error:
            self.unsaved = error
            if self.recorder is not None and self.state.step < self.last:
                self.recorder.say(f"{error} The training goes on.")
