"""Trains an exported directory with TRL's GRPOTrainer and LoRA to give shorter answers.

python examples/trl/grpo.py DIRECTORY scenes/grpo adapter
"""

import sys
from typing import Any

from datasets import load_dataset
from peft import LoraConfig
from trl import GRPOConfig, GRPOTrainer

WANTED_LENGTH = 30  # characters


def is_short(completions: list[list[dict[str, str]]], **columns: Any) -> list[float]:
    """Return a reward for each answer: the closer its length is to the wanted one, the greater."""
    return [-abs(len(answer[0]["content"]) - WANTED_LENGTH) / 10 for answer in completions]


def main(directory: str, data: str, output: str) -> None:
    """Train on the prompts in folder `data`, and write the adapter to `output`."""
    trainer = GRPOTrainer(
        model=directory,
        reward_funcs=is_short,
        args=GRPOConfig(
            output,
            trust_remote_code=True,
            model_init_kwargs={"dtype": "float32"},
            bf16=False,
            max_steps=16,
            per_device_train_batch_size=8,
            num_generations=8,
            max_completion_length=48,
            learning_rate=1e-2,
            temperature=1.3,
            lr_scheduler_type="constant",
            logging_steps=1,
            report_to="none",
        ),
        train_dataset=load_dataset(data, split="train"),
        peft_config=LoraConfig(task_type="CAUSAL_LM"),
    )
    trainer.train()
    trainer.save_model(output)


if __name__ == "__main__":
    main(*sys.argv[1:])
