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

from .batches import translate_worker_errors
from .checkpoints import Run
from .config import TrainingConfig
from .data import Batch, ChatDataset, load_batches
from .distributed import DistributedContext, print_main
from .encoding import IGNORE_INDEX
from .errors import TrainingError
from .evaluation import Score, answer_held_out, held_out_loss
from .images import FileEmbeddingCache, augment_selected
from .optimizer import AsyncScalars, Optimizer, StepResult, learning_rate_at
from .progress import TrainingLogger
from .sampler import ResumableBatchSampler
from .stopping import StopRequest, catch_signals
from .training_state import TrainingState

# Steps in a row without room in float16, after which something else is wrong.
MAX_SKIPPED_STEPS = 20


@dataclass
class Trainer:
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
    distributed: DistributedContext
    network: FineTuneVisualGLMModel
    tokenizer: Tokenizer
    optimizer: Optimizer
    image_cache: FileEmbeddingCache | None
    train_data: Any
    num_new: int
    valid: list[ChatDataset]
    sampler: ResumableBatchSampler
    run: Run
    state: TrainingState
    last_step: int
    num_workers: int
    collect_weights: Callable[[], dict[str, torch.Tensor]]
    logger: TrainingLogger | None = None
    stop_request: StopRequest = field(default_factory=StopRequest)
    skipped_in_a_row: int = 0
    save_error: TrainingError | None = None
    saved_step: int = field(init=False)
    is_stopping: bool = False
    is_complete: bool = False

    def __post_init__(self) -> None:
        self.saved_step = self.state.step

    def train(self) -> bool:
        """Train from where the state is to the end, or until SIGTERM or SIGINT; return whether a signal stopped it.

        Raises:
            TrainingError: the loss is no number, float16 has no room, the last checkpoint cannot be written, or a
                process that reads data has ended.
        """
        with catch_signals(self.stop_request), translate_worker_errors():
            self._train()
        if self.save_error is not None:
            raise self.save_error
        self.is_complete = not self.is_stopping or self.state.step >= self.last_step
        return not self.is_complete

    def _train(self) -> None:
        waiting: StepResult | None = None
        set_dropout(self.network, True)
        for batches in self._steps():
            step = self._step(batches)
            # A step is judged when the next one is on its way, so that a GPU need not wait.
            if waiting is not None:
                self._check_step(waiting)
            waiting = step
            if self._is_due(self.state.step) or self._must_stop():
                self._check_step(waiting)
                waiting = None
                if self._evaluate_and_save():
                    break
        if waiting is not None:
            self._check_step(waiting)

    def close(self) -> None:
        """Flush the records, release the run, and report its last checkpoint."""
        if self.logger is not None:
            self.logger.close()
        self.run.close()
        if self.saved_step:
            print_main(self.distributed, self.run.describe(self.saved_step, self.last_step, self.is_complete))

    def _must_stop(self) -> bool:
        """Whether to stop after this step; the same for all processes."""
        if self.distributed.world_size == 1:
            self.is_stopping = self.is_stopping or self.stop_request.is_requested
        return self.is_stopping

    def _steps(self) -> Iterator[list[tuple[Batch, list[int]]]]:
        """Yield the batches of each step that is still to be made, with the places of their examples."""
        count, device = self.sampler.batches_per_step, self.distributed.device
        first = self.state.step
        indices = list(islice(self.sampler.batches_from(first), max(0, self.last_step - first) * count))
        loaded = load_batches(self.train_data, indices, self.num_workers, pin_memory=device.type == "cuda")
        for start in range(0, len(indices), count):
            yield [(batch, indices[start + number]) for number, batch in enumerate(islice(loaded, count))]

    def _step(self, loaded: list[tuple[Batch, list[int]]]) -> StepResult:
        """Make one step."""
        torch.manual_seed(
            self.sampler.seed * 1_000_003 + self.state.step * self.distributed.world_size + self.distributed.rank
        )
        batches = [self._augment(batch, indices) for batch, indices in loaded]
        weights = [self._example_weights(indices) for _, indices in loaded]
        mine = sum(
            float((batch.labels != IGNORE_INDEX).sum(1).float() @ w) for batch, w in zip(batches, weights, strict=True)
        )
        tokens, stops = self.distributed.all_reduce_async(mine, self.stop_request.is_requested)
        share = self.distributed.world_size * len(batches) / tokens
        total = torch.zeros((), device=self.distributed.device)
        for batch, example_weights, (_, indices) in zip(batches, weights, loaded, strict=True):
            is_rehearsal = torch.tensor([index >= self.num_new for index in indices]) if self._distills else None
            loss = self.loss_of(batch, example_weights, is_rehearsal)
            # The optimizer takes the mean over processes and batches; what is wanted is that over tokens.
            self.optimizer.backward(loss * (share.to(loss.dtype) if isinstance(share, torch.Tensor) else share))
            total += loss.detach()
        for batch, (_, indices) in zip(batches, loaded, strict=True):
            self._mark_cached(batch, indices)
        lr = self._learning_rate()
        stepped = self.optimizer.step(lr)
        self.state.step += 1
        norm = 0.0 if stepped.norm is None else stepped.norm
        outcome = AsyncScalars((total, tokens, stepped.is_skipped, norm, stops), self.distributed.device)
        return StepResult(self.state.step, outcome, [row for batch in batches for row in batch.rows], lr)

    @property
    def _distills(self) -> bool:
        """Whether what is remembered holds the model to its base; where all of it is trained, no base is left."""
        return self.num_new < len(self.train_data) and not self.config.full

    def _augment(self, batch: Batch, indices: list[int]) -> Batch:
        """Show pictures a little differently, but for answers that are learned as they were said of whole ones."""
        chosen = [self._distills or index < self.num_new for index in indices]
        return augment_selected(batch, chosen, self.config.crop, self.config.flip)

    def _mark_cached(self, batch: Batch, indices: list[int]) -> None:
        """Let pictures whose embeddings are kept be decoded no more."""
        if self.image_cache is None or batch.skipped:  # where another example stood for one, its own picture is unknown
            return
        ends = self.train_data.cumulative_sizes
        for index, is_known in zip(indices, self.image_cache.is_cached(batch), strict=True):
            if is_known:
                number = bisect_right(ends, index)
                dataset = self.train_data.datasets[number]
                dataset.is_cached[index - ends[number]] = True  # counted from its end

    def _example_weights(self, indices: list[int]) -> torch.Tensor:
        """Return what the tokens of each example count."""
        return torch.tensor([1.0 if index < self.num_new else self.config.rehearsal_weight for index in indices])

    def loss_of(self, batch: Batch, *more: torch.Tensor | None) -> torch.Tensor:
        """Return the summed loss of a batch; `more` is what `AnswerLoss` may be told of its examples."""
        images = None if self.image_cache is None else self.image_cache.embed(batch)
        return self.optimizer.loss(batch, images, *more)

    def _learning_rate(self) -> float:
        given = self.config
        return learning_rate_at(
            self.state.step,
            self.last_step,
            given.lr,
            style=given.lr_decay_style,
            warmup=given.warmup,
            ratio=given.lr_decay_ratio,
            decay_steps=given.lr_decay_iters,
        )

    def _check_step(self, result: StepResult) -> None:
        """Count a step that was skipped; stop at numbers that are none."""
        loss, tokens, is_skipped, norm, stops = result.outcome.read()
        self.is_stopping = self.is_stopping or stops > 0
        if self.logger is not None:
            self.logger.step(tokens)
        if is_skipped:
            self._count_skipped()
            return
        self.skipped_in_a_row = 0
        if not (math.isfinite(loss) and math.isfinite(norm)):
            raise TrainingError(
                f"The loss of step {result.number} or its gradient is not a number. The step saw rows "
                f"{', '.join(map(str, result.rows))} of the data. Look at these rows, lower --lr, or train in float32."
            )
        if result.number % self.config.log_interval == 0:
            mean = self.distributed.all_reduce(loss) / tokens
            if self.logger is not None:
                self.logger.log_progress(result.number, mean, result.lr)

    def _count_skipped(self) -> None:
        self.state.skipped += 1
        self.skipped_in_a_row += 1
        if self.skipped_in_a_row >= MAX_SKIPPED_STEPS:
            raise TrainingError(
                f"{self.skipped_in_a_row} steps in a row were skipped, as their gradients overflowed float16. Train in "
                "bfloat16 (--bf16) if the GPU supports it, lower --lr, or look for unusual rows in the data."
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
        return step == self.last_step or step % (interval or self.sampler.steps(1)) == 0

    def _evaluate_and_save(self) -> bool:
        """Evaluate and save as is due; return whether to stop early."""
        step, is_enough = self.state.step, False
        if self._evaluates(step) and not self._must_stop():
            is_enough = self._record_evaluation(self.evaluate())
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
        losses = [held_out_loss(self.loss_of, dataset, size, self.distributed) for dataset in self.valid]
        loss = sum(losses) / len(losses)
        # ZeRO 3 has no whole model anywhere, and a decoder takes the weights as they lie.
        if not count or not self.distributed.is_main_process or self.config.zero_stage == 3:
            return Score(loss)
        with self.optimizer.autocast():
            model = SatChatModel(self.network, self.tokenizer, sampling=read_sampling(self.run.path))
            exact, samples = answer_held_out(model, self.valid[0], count)
        return Score(loss, exact, samples)

    def _record_evaluation(self, score: Score) -> bool:
        """Record an evaluation; return whether it is the one at which to stop early."""
        state = self.state
        better = state.best_loss is None or score.loss < state.best_loss
        state.best_loss, state.worse = (score.loss, 0) if better else (state.best_loss, state.worse + 1)
        stops = 0 < self.config.early_stop <= state.worse
        if self.logger is not None:
            answered = "" if score.exact_match is None else f", {score.exact_match:.0%} of the answers exactly right"
            self.logger.write_line(f"step {state.step}: held-out loss {score.loss:.4f}{answered}")
            for question, wanted, given in score.samples:
                self.logger.write_line(f"    {question}  wanted: {wanted}  given: {given}")
            answers = [list(sample) for sample in score.samples]
            self.logger.log(state.step, valid_loss=score.loss, valid_exact=score.exact_match, samples=answers)
            if stops:
                self.logger.write_line(f"Stopped early: no lower loss in {state.worse} evaluations.")
        return stops

    def _save(self) -> None:
        """Save; where that fails, say so and go on, since a later one may not."""
        self.optimizer.wait_for_params()
        collect_weights = self.collect_weights()
        try:
            self.run.save(self.state, collect_weights, self.optimizer, self.distributed)
            self.save_error, self.saved_step = None, self.state.step
        except TrainingError as error:
            self.save_error = error
            if self.logger is not None and self.state.step < self.last_step:
                self.logger.write_line(f"{error} The training goes on.")
