"""The settings of a training, with their types, defaults and limits."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from model.aliases import FormerAttribute, former_keywords
from model.checkpoint.adapters import LORA_DEFAULTS, METHOD_SWITCHES
from model.errors import SettingError

from .encoding import DEFAULT_MAX_LENGTH
from .rows import OnBadRow

METHODS = (*METHOD_SWITCHES, "full")
COMPONENTS = ("vit", "qformer", "proj", "llm")
DecayStyle = Literal["constant", "linear", "cosine", "exponential"]
# Default learning rates. Prefixes start near zero and need a high rate, as in ChatGLM-6B's own P-tuning.
DEFAULT_LEARNING_RATE, PTUNING_LEARNING_RATE = 1e-4, 2e-2
DEFAULT_EPOCHS = 10
POSITIVE_FIELDS = (
    *("lora_rank", "pre_seq_len", "batch_size", "gradient_accumulation_steps", "keep", "log_interval"),
    *("train_iters", "epochs", "save_interval", "eval_interval", "eval_batch_size", "max_length"),
)


@dataclass(frozen=True, kw_only=True)
class TrainingConfig:
    """Settings of a training, each named after its flag.

    Attributes:
        from_pretrained: name or directory of the base model; None chooses visualglm-6b, or visualglm-tiny if there is
            neither a GPU nor the weights of visualglm-6b.
        use_lora, use_qlora, use_ptuning, full: the method; exactly one is set.
        freeze: with `full`, the components that are not trained.
        lora_rank, lora_alpha, lora_dropout, layer_range, lora_targets: see `model.sat.lora.LoraMixin`.
        pre_seq_len: length of P-tuning's prefix in each layer, in tokens.
        train_data, valid_data: files of training data and of held-out data.
        valid_share: fraction of the training images to hold out.
        max_length: maximum number of tokens of prompt and answer.
        on_bad_row: whether rows that cannot be used are an error or skipped.
        crop: minimum side of the random crops, as a fraction of the image's; 1 disables cropping.
        flip: whether to mirror half of the images.
        rehearsal: number of rehearsal questions.
        rehearsal_weight: loss weight of a rehearsal token.
        num_workers: number of worker processes that load data.
        group_by_length: whether to batch examples of similar length.
        train_iters: optimizer steps; None trains for `epochs`.
        epochs: passes over the data.
        batch_size: examples per device and forward pass.
        gradient_accumulation_steps: batches per optimizer step.
        lr: peak learning rate.
        lr_decay_style, lr_decay_iters, lr_decay_ratio, warmup: see `finetune.optimizer.learning_rate_at`.
        weight_decay: AdamW's.
        clip_grad: maximum gradient norm; 0 disables clipping.
        seed: of the order of the examples and of all random numbers.
        device: name of the device; None chooses a GPU if there is one.
        fp16, bf16: the precision; neither leaves the choice to `finetune.methods.choose_precision`.
        checkpoint_activations: whether to recompute layers in the backward pass.
        zero_stage, offload: deepspeed's.
        cache_images: size of the cache of image embeddings, in GB.
        eval_interval, save_interval: steps between evaluations and between checkpoints; None for once an epoch.
        eval_batch_size: examples per forward pass of the evaluation; None for `batch_size`.
        eval_answers: held-out questions to answer.
        early_stop: evaluations without a lower loss after which to stop; 0 disables early stopping.
        log_interval: steps between log records.
        summary_dir: directory of TensorBoard's files; None for the run's.
        wandb, wandb_project_name: whether and where to log to Weights & Biases.
        save: directory of the runs.
        experiment_name: prefix of the run's name.
        keep: number of checkpoints to keep.
        save_full: whether to save all weights.
        resume: name of the run to resume, "" for the newest; None starts a new run.
        allow_changed_data: whether to resume although the training data has changed.

    Raises:
        SettingError: settings contradict each other, or a number is out of range.
    """

    train_data: Sequence[Path]
    from_pretrained: str | None = None
    use_lora: bool = False
    use_qlora: bool = False
    use_ptuning: bool = False
    full: bool = False
    freeze: Sequence[str] = ()
    lora_rank: int = LORA_DEFAULTS["lora_rank"]
    lora_alpha: float = LORA_DEFAULTS["lora_alpha"]
    lora_dropout: float = LORA_DEFAULTS["lora_dropout"]
    layer_range: Sequence[int] | None = LORA_DEFAULTS["layer_range"]
    lora_targets: Sequence[str] = LORA_DEFAULTS["lora_targets"]
    pre_seq_len: int = 128
    valid_data: Sequence[Path] = ()
    valid_share: float = 0.0
    max_length: int = DEFAULT_MAX_LENGTH
    on_bad_row: OnBadRow = "error"
    crop: float = 1.0
    flip: bool = False
    rehearsal: int = 0
    rehearsal_weight: float = 1.0
    num_workers: int = 1
    group_by_length: bool = False
    train_iters: int | None = None
    epochs: int = DEFAULT_EPOCHS
    batch_size: int = 4
    gradient_accumulation_steps: int = 1
    lr: float = DEFAULT_LEARNING_RATE
    lr_decay_style: DecayStyle = "cosine"
    lr_decay_iters: int | None = None
    lr_decay_ratio: float = 0.1
    warmup: float = 0.02
    weight_decay: float = 0.01
    clip_grad: float = 1.0
    seed: int = 1234
    device: str | None = None
    fp16: bool = False
    bf16: bool = False
    checkpoint_activations: bool = False
    zero_stage: int = 0
    offload: bool = False
    cache_images: float = 2.0
    eval_interval: int | None = None
    eval_batch_size: int | None = None
    eval_answers: int = 40
    early_stop: int = 0
    log_interval: int = 10
    summary_dir: Path | None = None
    wandb: bool = False
    wandb_project_name: str = "visualglm"
    save: Path = Path("checkpoints")
    experiment_name: str = "finetune-visualglm"
    save_interval: int | None = None
    keep: int = 3
    save_full: bool = False
    resume: str | None = None
    allow_changed_data: bool = False

    remember = FormerAttribute("rehearsal")
    remember_weight = FormerAttribute("rehearsal_weight")
    cache_pictures = FormerAttribute("cache_images")

    def __post_init__(self) -> None:
        chosen = [method for method in METHODS if getattr(self, method)]
        if len(chosen) != 1:
            given = f"{' and '.join(f'--{method}' for method in chosen)} are given" if chosen else "none is given"
            raise SettingError(f"Choose one of {', '.join(f'--{method}' for method in METHODS)}; {given}.")
        if self.fp16 and self.bf16:
            raise SettingError("--fp16 and --bf16 are given. Choose one; bf16 if the GPU supports it.")
        if self.freeze and not self.full:
            raise SettingError(
                "--freeze requires --full: the other methods freeze all weights of the base model anyway."
            )
        if self.use_qlora and self.save_full:
            raise SettingError(
                "--save-full cannot be combined with --use_qlora, whose base weights have 4 bits. Merge the run with "
                "the base model afterwards: python -m finetune.merge"
            )
        self._check_numbers()
        name = self.experiment_name
        if not name or not name.isprintable() or Path(name).name != name or "\\" in name or name == "..":
            raise SettingError(
                f"--experiment-name is {name!r}; it should be a plain name without slashes, the prefix of a "
                "directory's name in --save. Choose another directory with --save."
            )

    def _check_numbers(self) -> None:
        for name in POSITIVE_FIELDS:
            value = getattr(self, name)
            if value is not None and value < 1:
                raise SettingError(f"--{name.replace('_', '-')} is {value}; it should be at least 1.")
        if self.num_workers < 0:
            raise SettingError(f"--num-workers is {self.num_workers}; it should be at least 0.")
        if not 0 < self.crop <= 1:
            raise SettingError(f"--crop is {self.crop}; it should be above 0 and at most 1, which disables cropping.")
        if not 0 <= self.valid_share < 1:
            raise SettingError(
                f"--valid-share is {self.valid_share}; it should be at least 0 and below 1, for example 0.1."
            )
        if self.lr <= 0:
            raise SettingError(f"--lr is {self.lr}; it should be above 0.")


_rename_keywords = former_keywords(
    remember="rehearsal", remember_weight="rehearsal_weight", cache_pictures="cache_images"
)
TrainingConfig.__init__ = _rename_keywords(TrainingConfig.__init__)  # type: ignore[method-assign]
