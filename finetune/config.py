"""The settings of a training, with their types, defaults and limits."""

from argparse import BooleanOptionalAction
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

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


def flag(text: str, *former: str, **options: Any) -> dict[str, Any]:
    """Return the metadata of a field of `TrainingConfig` that has a flag; the rest follows from its name and type.

    Args:
        text: the help.
        former: former names of the flag, which still work.
        options: see argparse's `add_argument`.
    """
    return {"help": text, "former": former, **options}


def setting(value: Any, text: str, *former: str, **options: Any) -> Any:
    """Define a field of `TrainingConfig` with a default value; see `flag`."""
    return field(default=value, metadata=flag(text, *former, **options))


@dataclass(frozen=True, kw_only=True)
class TrainingConfig:
    """Settings of a training, each named after its flag, whose help documents it.

    Settings without a help here have the flags of `model.finetuned.add_method_flags`. Exactly one method is set:
    use_lora, use_qlora, use_ptuning or full.

    Raises:
        SettingError: settings contradict each other, or a number is out of range.
    """

    from_pretrained: str | None = setting(
        None,
        "base model (default visualglm-6b; visualglm-tiny if there is neither a GPU nor the weights of visualglm-6b)",
        metavar="NAME_OR_DIR",
    )
    use_lora: bool = False
    use_qlora: bool = False
    use_ptuning: bool = False
    lora_rank: int = LORA_DEFAULTS["lora_rank"]
    lora_alpha: float = LORA_DEFAULTS["lora_alpha"]
    lora_dropout: float = LORA_DEFAULTS["lora_dropout"]
    layer_range: Sequence[int] | None = LORA_DEFAULTS["layer_range"]
    lora_targets: Sequence[str] = LORA_DEFAULTS["lora_targets"]
    pre_seq_len: int = 128
    full: bool = setting(False, "full fine-tuning: train the model's weights")
    freeze: Sequence[str] = setting((), "with --full: components that are not trained", choices=COMPONENTS)

    train_data: Sequence[Path] = field(metadata=flag("training data: JSON lines or a JSON list", metavar="FILE"))
    valid_data: Sequence[Path] = setting((), "held-out data for the evaluation", metavar="FILE", nargs="*")
    valid_share: float = setting(
        0.0,
        "fraction of the training images to hold out for the evaluation (default %(default)s)",
        metavar="FRACTION",
    )
    max_length: int = setting(
        DEFAULT_MAX_LENGTH,
        f"maximum number of tokens of prompt and answer (default {DEFAULT_MAX_LENGTH})",
        default=None,
    )
    on_bad_row: OnBadRow = field(
        default="error", metadata=flag("how to treat rows that cannot be used (default %(default)s)")
    )
    crop: float = setting(
        1.0,
        "augment with random crops, whose sides are at least this fraction of the image's (default %(default)s: none)",
        metavar="FRACTION",
    )
    flip: bool = setting(False, "augment by mirroring half of the images", action=BooleanOptionalAction)
    rehearsal: int = setting(
        0,
        "reduce forgetting: add N answers of the base model, with a KL loss to its token distribution; with --full, "
        "whose base model is not kept, with a cross-entropy loss on its answers",
        "--remember",
        metavar="N",
    )
    rehearsal_weight: float = setting(
        1.0, "loss weight of a rehearsal token (default %(default)s)", "--remember-weight", metavar="W"
    )
    num_workers: int = setting(1, "worker processes that load data (default %(default)s)", metavar="N")
    group_by_length: bool = setting(False, "batch examples of similar length")

    train_iters: int | None = setting(None, "number of optimizer steps; overrides --epochs", metavar="N")
    epochs: int = setting(DEFAULT_EPOCHS, "passes over the data (default %(default)s)", metavar="N")
    batch_size: int = setting(4, "examples per device and forward pass (default %(default)s)", metavar="N")
    gradient_accumulation_steps: int = setting(1, "batches per optimizer step (default %(default)s)", metavar="N")
    lr: float = setting(
        DEFAULT_LEARNING_RATE,
        f"learning rate (default {DEFAULT_LEARNING_RATE}; {PTUNING_LEARNING_RATE} for P-tuning)",
        default=None,
    )
    lr_decay_style: DecayStyle = field(default="cosine", metadata=flag("learning-rate schedule (default %(default)s)"))
    lr_decay_iters: int | None = setting(None, "step at which the decay ends (default: the last)", metavar="N")
    lr_decay_ratio: float = setting(
        0.1, "final learning rate as a fraction of --lr (default %(default)s)", metavar="FRACTION"
    )
    warmup: float = setting(
        0.02,
        "fraction of the steps in which the learning rate rises linearly (default %(default)s)",
        metavar="FRACTION",
    )
    weight_decay: float = setting(0.01, "AdamW's weight decay (default %(default)s)")
    clip_grad: float = setting(1.0, "maximum gradient norm; 0 disables clipping (default %(default)s)")
    seed: int = setting(1234, "random seed (default %(default)s)")

    device: str | None = setting(None, "cpu, cuda, cuda:1, ... (default: a GPU if there is one)")
    fp16: bool = setting(False, "train in float16 (on a CPU: float32)")
    bf16: bool = setting(False, "train in bfloat16")
    checkpoint_activations: bool = setting(
        False, "save memory: keep only the layers' inputs, and recompute the layers in the backward pass"
    )
    zero_stage: int = setting(0, "stage of deepspeed's ZeRO (default %(default)s)", choices=(0, 1, 2, 3))
    offload: bool = setting(False, "keep the optimizer state in host memory; needs deepspeed")
    cache_images: float = setting(
        2.0,
        "size of the cache of image embeddings in host memory (default %(default)s)",
        "--cache-pictures",
        metavar="GB",
    )

    eval_interval: int | None = setting(None, "steps between evaluations (default: once per epoch)", metavar="N")
    eval_batch_size: int | None = setting(None, "batch size of the evaluation (default: --batch-size)", metavar="N")
    eval_answers: int = setting(40, "held-out questions to answer (default %(default)s)", metavar="N")
    metric: Sequence[str] = setting(
        (), "metrics of the held-out answers, as in `visualglm evaluate`: chrf, vqa, bleu, ...", metavar="NAME"
    )
    early_stop: int = setting(
        0, "stop after N evaluations without a lower loss; with --metric, without a higher first metric", metavar="N"
    )
    log_interval: int = setting(10, "steps between log records (default %(default)s)", metavar="N")
    summary_dir: Path | None = field(
        default=None, metadata=flag("directory of TensorBoard's files (default: the run's)", metavar="DIR")
    )
    wandb: bool = setting(False, "also log to Weights & Biases")
    wandb_project_name: str = setting("visualglm", "project in Weights & Biases (default %(default)s)", metavar="NAME")

    save: Path = field(
        default=Path("checkpoints"), metadata=flag("directory of the runs (default %(default)s)", metavar="DIR")
    )
    experiment_name: str = setting(
        "finetune-visualglm", "prefix of the run's name (default %(default)s)", metavar="NAME"
    )
    save_interval: int | None = setting(None, "steps between checkpoints (default: once per epoch)", metavar="N")
    keep: int = setting(3, "number of newest checkpoints to keep (default %(default)s)", metavar="N")
    save_full: bool = setting(False, "save all weights, not only the trained ones")
    resume: str | None = setting(None, "resume this run; without RUN the newest", metavar="RUN", nargs="?", const="")
    allow_changed_data: bool = setting(False, "with --resume: continue although the training data has changed")

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
        self._check_metric()
        name = self.experiment_name
        if not name or not name.isprintable() or Path(name).name != name or "\\" in name or name == "..":
            raise SettingError(
                f"--experiment-name is {name!r}; it should be a plain name without slashes, the prefix of a "
                "directory's name in --save. Choose another directory with --save."
            )

    def _check_metric(self) -> None:
        if not self.metric:
            return
        if not self.valid_data and not self.valid_share:
            raise SettingError("--metric needs held-out data. Give --valid-data FILE or --valid-share 0.1.")
        if self.eval_answers < 1:
            raise SettingError(f"--metric needs answers; --eval-answers is {self.eval_answers}. Give at least 1.")
        if self.zero_stage == 3:
            raise SettingError(
                "--metric cannot be combined with --zero-stage 3, with which no process has the complete model that "
                "generating answers needs. Use --zero-stage 2, or evaluate the run afterwards: visualglm evaluate"
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
