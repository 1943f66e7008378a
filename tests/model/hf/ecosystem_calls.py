"""Calls that programs for any vision-language model make, in a process that has only transformers.

Arguments: an exported directory, an image, a folder to save in. Prints a JSON object: the result of each call, or its
error.
"""

import json
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace

for name in ("model", "sat", "finetune", "visualglm"):
    sys.modules[name] = None  # type: ignore[assignment]  # importing it fails

import torch  # noqa: E402
import transformers  # noqa: E402
from transformers import (  # noqa: E402
    AutoImageProcessor,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    AutoProcessor,
    AutoTokenizer,
    BitsAndBytesConfig,
    LogitsProcessor,
    LogitsProcessorList,
    StoppingCriteria,
    StoppingCriteriaList,
    TextStreamer,
    Trainer,
    TrainingArguments,
    pipeline,
)

directory, image_path, folder = sys.argv[1:]
IS_4 = transformers.__version__.startswith("4.")
QUESTION = "图片里有几个物体？"
MESSAGES = [{"role": "user", "content": [{"type": "image", "path": image_path}, {"type": "text", "text": QUESTION}]}]
GREEDY = {"do_sample": False, "max_new_tokens": 20, "max_length": None, "repetition_penalty": 1.0}
ENCODE = {"add_generation_prompt": True, "tokenize": True, "return_dict": True, "return_tensors": "pt"}


def load(auto_class=AutoModelForImageTextToText, path=directory, **settings):
    """Load the directory's model."""
    settings = {"dtype": torch.float32, **settings}
    return auto_class.from_pretrained(path, trust_remote_code=True, **settings).eval()


processor = AutoProcessor.from_pretrained(directory, trust_remote_code=True)
tokenizer = AutoTokenizer.from_pretrained(directory, trust_remote_code=True)
model = load()
inputs = processor.apply_chat_template(MESSAGES, **ENCODE)
length = inputs["input_ids"].shape[1]
expected = model.generate(**inputs, **GREEDY)


class Same(LogitsProcessor):
    """Changes no score."""

    def __call__(self, input_ids, scores):
        return scores


class Stop(StoppingCriteria):
    """Stops after two tokens."""

    def __call__(self, input_ids, scores, **kwargs):
        return torch.full((len(input_ids),), input_ids.shape[1] >= length + 2)


def answer(ids):
    """Return the text after the prompt."""
    return processor.decode(ids[0, length:], skip_special_tokens=True).strip()


def generated(used=None, **settings):
    """Generate with more settings; return whether the tokens are the expected ones."""
    return torch.equal((used or model).generate(**inputs, **{**GREEDY, **settings}), expected)


def image_processor():
    from PIL import Image

    pixels = AutoImageProcessor.from_pretrained(directory, trust_remote_code=True)(Image.open(image_path))
    return torch.equal(pixels["pixel_values"], inputs["pixel_values"])


def chat():
    settings = {"do_sample": False, "min_length": 0, "repetition_penalty": 1.0}
    return model.chat(tokenizer, image_path, QUESTION, [], **settings)[0] == answer(expected)


def text_and_image():
    text = processor.apply_chat_template(MESSAGES, add_generation_prompt=True)
    found = processor(images=[image_path], text=[text], return_tensors="pt")
    return all(torch.equal(found[name], inputs[name]) for name in inputs)


def image_text_pipeline():
    pipe = pipeline("image-text-to-text", model=directory, trust_remote_code=True, dtype=torch.float32)
    settings = {"do_sample": False, "max_length": None, "max_new_tokens": 20}
    found = pipe(text=MESSAGES, return_full_text=False, generate_kwargs=settings)[0]["generated_text"]
    return found.strip() == answer(expected)


def text_pipeline():
    pipe = pipeline("text-generation", model=directory, trust_remote_code=True)
    found = pipe([{"role": "user", "content": "你好"}], max_new_tokens=5, do_sample=False)[0]["generated_text"][-1]
    return found["role"] == "assistant" and bool(found["content"])


def causal():
    ids = tokenizer.apply_chat_template([{"role": "user", "content": "你好"}], **ENCODE)
    return load(AutoModelForCausalLM).generate(**ids, **GREEDY).shape[1] > ids["input_ids"].shape[1]


def outputs():
    names = ("output_attentions", "output_hidden_states", "output_logits", "output_scores")
    found = model.generate(**inputs, **GREEDY, return_dict_in_generate=True, **dict.fromkeys(names, True))
    sums = [one.sum(dim=-1) for step in found.attentions for one in step]
    is_complete = len(found.logits) == len(found.hidden_states) == found.sequences.shape[1] - length
    return is_complete and all(torch.allclose(one, torch.ones_like(one), atol=1e-4) for one in sums)


def sequences():
    found = model.generate(**inputs, do_sample=True, max_length=None, max_new_tokens=3, num_return_sequences=3)
    return list(found.shape) == [3, length + 3]


def features():
    found = model.get_image_features(inputs["pixel_values"])
    return list((found if IS_4 else found.pooler_output).shape) == [1, 32, model.config.hidden_size]


def padded(side):
    chats = [
        MESSAGES,
        [{"role": "user", "content": "你好"}],
        [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": [{"type": "image", "path": image_path}, {"type": "text", "text": "What?"}]},
            {"role": "assistant", "content": "A circle."},
            {"role": "user", "content": "How many?"},
        ],
    ]
    settings = {"padding_side": side} if IS_4 else {"processor_kwargs": {"padding_side": side}}
    batch = processor.apply_chat_template(chats, **ENCODE, padding=True, **settings)
    logits = model(**batch).logits
    for row, one in enumerate(chats):
        alone = model(**processor.apply_chat_template(one, **ENCODE)).logits[0]
        assert torch.allclose(logits[row][batch["attention_mask"][row].bool()], alone, atol=1e-3)
    return True


def four_bits():
    used = load(quantization_config=BitsAndBytesConfig(load_in_4bit=True))
    return type(used.transformer.layers[0].mlp.dense_h_to_4h).__name__ == "Linear4bit" and bool(answer(
        used.generate(**inputs, **GREEDY)
    ))  # fmt: skip


def saved():
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    again = AutoProcessor.from_pretrained(folder, trust_remote_code=True)
    used = AutoModelForImageTextToText.from_pretrained(folder, trust_remote_code=True, dtype=torch.float32)
    ids = again.apply_chat_template(MESSAGES, **ENCODE)
    return torch.equal(used.generate(**ids, **GREEDY), expected)


def trained():
    chat = [*MESSAGES, {"role": "assistant", "content": "两个。"}]
    row = processor.apply_chat_template(
        chat, tokenize=True, return_dict=True, return_tensors="pt", return_assistant_tokens_mask=True
    )
    row["labels"] = row["input_ids"].where(row.pop("assistant_masks").bool(), -100)
    options = {"eval_strategy": "steps", "eval_steps": 1, "save_strategy": "no", "report_to": [], "use_cpu": True}
    trainer = Trainer(
        load(),
        TrainingArguments(
            f"{folder}-run", max_steps=3, gradient_checkpointing=True, remove_unused_columns=False, **options
        ),
        train_dataset=[dict(row)] * 4,
        eval_dataset=[dict(row)],
        data_collator=lambda rows: {name: torch.cat([row[name] for row in rows]) for name in rows[0]},
    )
    before = trainer.evaluate()["eval_loss"]
    trainer.train()
    return trainer.evaluate()["eval_loss"] < before


def commit(repo_id, operations, **settings):
    """Copy the files of a commit to the folder `repo_id`, which stands for a repository of the hub."""
    for one in operations:
        target = Path(repo_id, one.path_in_repo)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(one.path_or_fileobj, target)


def pushed():
    repository, hub = "owner/pushed", transformers.utils.hub
    api = hub if IS_4 else hub.hf_api()
    api.create_commit = commit
    api.create_repo = lambda repo_id, **_: SimpleNamespace(repo_id=repo_id)
    model.push_to_hub(repository)
    processor.push_to_hub(repository)
    again = AutoProcessor.from_pretrained(repository, trust_remote_code=True)
    return generated(load(path=repository)) and torch.equal(
        again.apply_chat_template(MESSAGES, **ENCODE)["input_ids"], inputs["input_ids"]
    )


CALLS = {
    "AutoImageProcessor": image_processor,
    "chat": chat,
    "processor": text_and_image,
    "image-text-to-text": image_text_pipeline,
    "text-generation": text_pipeline,
    "AutoModelForCausalLM": causal,
    "logits_processor": lambda: generated(logits_processor=LogitsProcessorList([Same()])),
    "stopping_criteria": lambda: (
        model.generate(**inputs, **GREEDY, stopping_criteria=StoppingCriteriaList([Stop()])).shape[1] == length + 2
    ),
    "streamer": lambda: generated(streamer=TextStreamer(tokenizer, skip_prompt=True)),
    "assistant_model": lambda: generated(assistant_model=load()),
    "prompt_lookup_num_tokens": lambda: generated(prompt_lookup_num_tokens=3),
    "num_return_sequences": sequences,
    "outputs": outputs,
    "get_image_features": features,
    "eager": lambda: generated(load(attn_implementation="eager")),
    "sdpa": lambda: generated(load(attn_implementation="sdpa")),
    "dtype": lambda: load(dtype="auto").dtype == torch.float16,
    "device_map": lambda: generated(load(device_map="auto")),
    "padding left": lambda: padded("left"),
    "padding right": lambda: padded("right"),
    "quantization_config": four_bits,
    "save_pretrained": saved,
    "push_to_hub": pushed,
    "Trainer": trained,
}


def attempt(call):
    """Return the result of a call, or its error as text."""
    try:
        return call()
    except Exception as error:
        return f"{type(error).__name__}: {error}"


if __name__ == "__main__":
    print()
    print(json.dumps({"version": transformers.__version__, **{name: attempt(call) for name, call in CALLS.items()}}))
