"""Train LoRA like programs for the original, with SAT's `training_main`, which needs a GPU and deepspeed.

python tests/helpers/sat_training_program.py BASE DATA --save DIRECTORY --train-iters 50 ...
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import torch

from model import FineTuneVisualGLMModel, load_tokenizer
from model.blip2 import BlipImageEvalProcessor
from model.images.preprocess import load_image

# isort: split
from sat import get_args
from sat.training.deepspeed_training import training_main

IGNORED = -100
SOURCE_LENGTH, TARGET_LENGTH = 64, 64


class FewShotDataset(torch.utils.data.Dataset):
    """Questions about images with their answers, in the original's layout of token ids, padded to one length.

    Args:
        path: a JSON list of rows with "img", "prompt" and "label".
        args: has the attributes `tokenizer`, `image_length` and `image_size`.
    """

    def __init__(self, path: str, args: Any) -> None:
        tokenizer, process = args.tokenizer, BlipImageEvalProcessor(args.image_size)
        self.rows = []
        for row in json.loads(Path(path).read_text(encoding="utf-8")):
            opening = tokenizer.encode("<img>", add_special_tokens=False)
            pads = [tokenizer.pad_token_id] * args.image_length
            question = tokenizer.encode(f"</img>问：{row['prompt']}\n答：", add_special_tokens=False)
            answer = tokenizer.encode(row["label"], add_special_tokens=False)
            context = opening + pads + question
            ids = tokenizer.build_inputs_with_special_tokens(context, answer)
            start = ids.index(tokenizer.bos_token_id)
            length = SOURCE_LENGTH + TARGET_LENGTH
            ids = ids[:length] + [tokenizer.pad_token_id] * (length - len(ids))
            labels = [IGNORED] * start + ids[start:]
            labels = [IGNORED if id_ == tokenizer.pad_token_id else id_ for id_ in labels]
            image = process(load_image(str(Path(path).parents[1] / row["img"])))
            tensors = {"image": image, "input_ids": torch.tensor(ids), "labels": torch.tensor(labels)}
            self.rows.append({**tensors, "pre_image": len(opening)})

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, number: int) -> dict[str, Any]:
        return self.rows[number]


def collate(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Stack the rows of a batch."""
    stacked = {name: torch.stack([row[name] for row in rows]) for name in ("image", "input_ids", "labels")}
    return {**stacked, "pre_image": rows[0]["pre_image"]}


def forward_step(rows: Any, model: Any, args: Any, timers: Any) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """Return the loss of the next batch."""
    batch = next(rows)
    dtype = next(parameter.dtype for parameter in model.parameters() if parameter.is_floating_point())
    image, ids, labels = batch["image"].cuda().to(dtype), batch["input_ids"].cuda(), batch["labels"].cuda()
    logits = model(input_ids=ids, image=image, pre_image=batch["pre_image"])[0].float()
    loss = torch.nn.functional.cross_entropy(
        logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten(), ignore_index=IGNORED
    )
    print(f"loss {loss.item()}", flush=True)  # SAT logs only the mean, at a level that is not shown
    return loss, {"loss": loss.detach()}


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("base")
    parser.add_argument("data")
    parser = FineTuneVisualGLMModel.add_model_specific_args(parser)
    known, rest = parser.parse_known_args()
    args = get_args([*rest, "--train-data", known.data])
    args = argparse.Namespace(**{**vars(args), **vars(known)})
    args.device = "cpu"
    model, args = FineTuneVisualGLMModel.from_pretrained(known.base, args)
    args.tokenizer = load_tokenizer("visualglm-tiny")
    args.image_length, args.image_size = model.image_length, model.image_size
    args.device = f"cuda:{args.local_rank or 0}"
    training_main(
        args,
        model_cls=model.to("cuda"),
        forward_step_function=forward_step,
        create_dataset_function=FewShotDataset,
        collate_fn=collate,
    )


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[2]))
    main()
