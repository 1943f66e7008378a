"""Teaches an exported directory to prefer answers, with TRL's DPOTrainer and LoRA.

python examples/trl/dpo.py DIRECTORY scenes/dpo adapter
"""

import sys

from datasets import load_dataset
from peft import LoraConfig
from trl import DPOConfig, DPOTrainer


def main(directory: str, data: str, output: str) -> None:
    """Train on the rows in folder `data`, and write the adapter to `output`."""
    trainer = DPOTrainer(
        model=directory,
        args=DPOConfig(
            output,
            trust_remote_code=True,
            model_init_kwargs={"dtype": "float32"},
            bf16=False,
            max_steps=8,
            per_device_train_batch_size=2,
            learning_rate=1e-3,
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
