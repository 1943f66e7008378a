"""The training loop, with evaluations and checkpoints."""

import math
from bisect import bisect_right
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
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
from .metrics import AnswerMetrics
from .optimizer import AsyncScalars, Optimizer, StepResult, learning_rate_at
from .progress import TrainingLogger
from .record import RunRecord, Status
from .sampler import ResumableBatchSampler
from .stopping import StopRequest, catch_signals
from .training_state import TrainingState

# After this many consecutive steps with float16 overflow, lowering the loss scale cannot be the solution.
MAX_SKIPPED_STEPS = 20


@dataclass
class Trainer:
    """Trains a network.

    Attributes:
        config: the settings.
        distributed: rank, world size and device.
        network, tokenizer: the model.
        optimizer: computes losses and updates the parameters.
        image_cache: cache of image embeddings; None if they may change during the training, or with ZeRO 3.
        train_data: the examples: those of the training data, file after file, then the rehearsal examples.
        num_new: number of examples of the training data; the rehearsal examples follow them.
        valid: held-out data.
        sampler: chooses the examples of each step.
        run: the directory of checkpoints.
        state: the current state.
        last_step: the number of the last step.
        num_workers: number of worker processes that load data.
        collect_weights: returns the tensors to save on the main process; every process has to call it.
        logger: logs metrics; only on the main process.
        record: the record of the run; only on the main process.
        metrics: metrics of the answers to held-out questions; None for none.
        stop_request: set by signals.
        skipped_in_a_row: number of consecutive skipped steps.
        save_error: the error of the newest checkpoint; None if it was written.
        saved_step: the step of the newest checkpoint; 0 before the first.
        is_stopping: whether all processes know that one of them was asked to stop.
        is_complete: whether the training ended by itself, at its last step or by early stopping, and its checkpoint is
            written.
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
    record: RunRecord | None = None
    metrics: AnswerMetrics | None = None
    stop_request: StopRequest = field(default_factory=StopRequest)
    skipped_in_a_row: int = 0
    save_error: TrainingError | None = None
    saved_step: int = field(init=False)
    is_stopping: bool = False
    is_complete: bool = False

    def __post_init__(self) -> None:
        self.saved_step = self.state.step

    def train(self) -> bool:
        """Train from the current state to the last step, or until SIGTERM or SIGINT.

        Returns:
            Whether a signal stopped the training before its last step.

        Raises:
            TrainingError: the loss is not finite, float16 overflows in many consecutive steps, the last checkpoint
                cannot be written, or a data worker has died.
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
            # The result of a step is read once the next one has been launched, so that the GPU does not idle.
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
        """Write the report and the record, release the run, and print the path of its last checkpoint."""
        if self.record is not None:
            notice = self.record.finish(self.status, self.state.step, self.state.best_numbers())
            print_main(self.distributed, notice)
        self._write_report()
        if self.logger is not None:
            self.logger.close()
        self.run.close()
        if self.saved_step:
            print_main(self.distributed, self.run.describe(self.saved_step, self.last_step, self.is_complete))

    @property
    def status(self) -> Status:
        """How the training has ended."""
        if self.is_complete:
            return "complete"
        return "stopped" if self.is_stopping and self.save_error is None else "failed"

    def _must_stop(self) -> bool:
        """Return whether to stop after this step; the same on all processes."""
        if self.distributed.world_size == 1:
            self.is_stopping = self.is_stopping or self.stop_request.is_requested
        return self.is_stopping

    def _steps(self) -> Iterator[list[tuple[Batch, list[int]]]]:
        """Yield the batches of each remaining step, each with the indices of its examples."""
        count, device = self.sampler.batches_per_step, self.distributed.device
        first = self.state.step
        indices = list(islice(self.sampler.batches_from(first), max(0, self.last_step - first) * count))
        loaded = load_batches(self.train_data, indices, self.num_workers, pin_memory=device.type == "cuda")
        for start in range(0, len(indices), count):
            yield [(batch, indices[start + number]) for number, batch in enumerate(islice(loaded, count))]

    def _step(self, loaded: list[tuple[Batch, list[int]]]) -> StepResult:
        """Launch one training step."""
        torch.manual_seed(
            self.sampler.seed * 1_000_003 + self.state.step * self.distributed.world_size + self.distributed.rank
        )
        batches = [self._augment(batch, indices) for batch, indices in loaded]
        weights = [self._example_weights(indices) for _, indices in loaded]
        own_tokens = sum(
            float((batch.labels != IGNORE_INDEX).sum(1).float() @ w) for batch, w in zip(batches, weights, strict=True)
        )
        tokens, stops = self.distributed.all_reduce_async(own_tokens, self.stop_request.is_requested)
        scale = self.distributed.world_size * len(batches) / tokens
        total = torch.zeros((), device=self.distributed.device)
        for batch, example_weights, (_, indices) in zip(batches, weights, loaded, strict=True):
            is_rehearsal = torch.tensor([index >= self.num_new for index in indices]) if self._distills else None
            loss = self.loss_of(batch, example_weights, is_rehearsal)
            # The optimizer averages over processes and batches; the factor turns this into the mean over all tokens.
            self.optimizer.backward(loss * (scale.to(loss.dtype) if isinstance(scale, torch.Tensor) else scale))
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
        """Whether rehearsal examples use the KL divergence; full fine-tuning keeps no base model to compute it with."""
        return self.num_new < len(self.train_data) and not self.config.full

    def _augment(self, batch: Batch, indices: list[int]) -> Batch:
        """Augment the images, except for rehearsal examples with a cross-entropy loss: these answer the originals."""
        chosen = [self._distills or index < self.num_new for index in indices]
        return augment_selected(batch, chosen, self.config.crop, self.config.flip)

    def _mark_cached(self, batch: Batch, indices: list[int]) -> None:
        """Mark examples whose image embeddings are cached, so that workers skip decoding their images."""
        if self.image_cache is None or batch.skipped:  # an example that replaces a broken one has another index
            return
        ends = self.train_data.cumulative_sizes
        for index, is_cached in zip(indices, self.image_cache.is_cached(batch), strict=True):
            if is_cached:
                number = bisect_right(ends, index)
                dataset = self.train_data.datasets[number]
                dataset.is_cached[index - ends[number]] = True  # a negative index, counted from its end

    def _example_weights(self, indices: list[int]) -> torch.Tensor:
        """Return the loss weight of each example's tokens."""
        return torch.tensor([1.0 if index < self.num_new else self.config.rehearsal_weight for index in indices])

    def loss_of(self, batch: Batch, *more: torch.Tensor | None) -> torch.Tensor:
        """Return the summed loss of a batch; `more` are the loss weights and rehearsal flags for `AnswerLoss`."""
        images = None if self.image_cache is None else self.image_cache.embed(batch)
        return self.optimizer.loss(batch, images, *more)

    def _learning_rate(self) -> float:
        config = self.config
        return learning_rate_at(
            self.state.step,
            self.last_step,
            config.lr,
            style=config.lr_decay_style,
            warmup=config.warmup,
            ratio=config.lr_decay_ratio,
            decay_steps=config.lr_decay_iters,
        )

    def _check_step(self, result: StepResult) -> None:
        """Read the result of a step: count it if it was skipped, and log it.

        Raises:
            TrainingError: the loss or the gradient norm is not finite, or too many steps were skipped.
        """
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
                f"The loss of step {result.number} or its gradient is not a number. The step used rows "
                f"{', '.join(map(str, result.rows))} of the data. Check these rows, lower --lr, or train in float32."
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
        """Return whether an evaluation or a checkpoint is due after this step."""
        return self._saves(step) or self._evaluates(step)

    def _evaluates(self, step: int) -> bool:
        return bool(self.valid) and self._is_every(self.config.eval_interval, step)

    def _saves(self, step: int) -> bool:
        return self._is_every(self.config.save_interval, step)

    def _is_every(self, interval: int | None, step: int) -> bool:
        """Return whether a step is the last or a multiple of an interval; None stands for an epoch."""
        return step == self.last_step or step % (interval or self.sampler.steps(1)) == 0

    def _evaluate_and_save(self) -> bool:
        """Evaluate and save if this is due; return whether to end the training."""
        step, is_enough = self.state.step, False
        if self._evaluates(step) and not self._must_stop():
            is_enough = self._record_evaluation(self.evaluate())
        ends = self._must_stop() or is_enough
        if ends or self._saves(step):
            self._save()
        return ends

    def evaluate(self) -> Score:
        """Evaluate on all held-out data, without dropout."""
        set_dropout(self.network, False)
        try:
            return self._evaluate()
        finally:
            set_dropout(self.network, True)

    def _evaluate(self) -> Score:
        size, count = self.config.eval_batch_size or self.config.batch_size, self.config.eval_answers
        losses = [held_out_loss(self.loss_of, dataset, size, self.distributed) for dataset in self.valid]
        loss = sum(losses) / len(losses)
        score = Score(loss)
        # With ZeRO 3 no process has a complete model, which generating answers needs.
        if not count or self.config.zero_stage == 3:
            return score
        if self.distributed.is_main_process:
            with self.optimizer.autocast():
                model = SatChatModel(self.network, self.tokenizer, sampling=read_sampling(self.run.path))
                score = Score(loss, *answer_held_out(model, self.valid[0], count, self.metrics))
        if self.metrics is not None:  # all processes decide on early stopping
            score = replace(score, metrics=self.distributed.broadcast(score.metrics))
        return score

    def _record_evaluation(self, score: Score) -> bool:
        """Log an evaluation; return whether to stop early."""
        state = self.state
        main = None if self.metrics is None else self.metrics.main
        state.count_evaluation(score.loss, main, math.nan if main is None else score.metrics[main])
        stops = 0 < self.config.early_stop <= state.worse
        if self.logger is not None:
            self.logger.log_evaluation(state.step, score)
            if stops:
                better = "lower loss" if main is None else f"higher {main}"
                self.logger.write_line(f"Stopped early: no {better} in {state.worse} evaluations.")
        return stops

    def _save(self) -> None:
        """Write a checkpoint; if this fails, print the error and go on, since a later one may succeed."""
        self.optimizer.wait_for_params()
        tensors = self.collect_weights()
        try:
            self.run.save(self.state, tensors, self.optimizer, self.distributed)
            self.save_error, self.saved_step = None, self.state.step
        except TrainingError as error:
            self.save_error = error
            if self.logger is not None and self.state.step < self.last_step:
                self.logger.write_line(f"{error} The training continues.")
        if self.state.step < self.last_step:  # `close` writes the last report
            self._write_report()

    def _write_report(self) -> None:
        if self.logger is not None:
            earlier_seconds = 0.0 if self.record is None else self.record.earlier_seconds
            self.logger.write_report(self.state.step, earlier_seconds, self.is_complete)
