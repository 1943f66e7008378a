"""Fine-tunes an exported directory with TRL's SFTTrainer and LoRA.

python examples/trl/sft.py DIRECTORY scenes/sft adapter
"""

import sys

from datasets import load_dataset
from peft import LoraConfig
from trl import SFTConfig, SFTTrainer


def main(directory: str, data: str, output: str) -> None:
    """Train on the rows in folder `data`, and write the adapter to `output`."""
    trainer = SFTTrainer(
        model=directory,
        args=SFTConfig(
            output,
            trust_remote_code=True,
            model_init_kwargs={"dtype": "float32"},
            bf16=False,
            max_steps=12,
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
