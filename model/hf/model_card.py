"""The model card that an exported directory gets as its README.md, if it has none."""

CARD = """---
library_name: transformers
pipeline_tag: image-text-to-text
language:
- zh
- en
tags:
- visualglm
- custom_code
---

# A VisualGLM model

A model of the architecture of VisualGLM-6B: it answers questions about one image, in Chinese and English. The image
encoder (EVA-ViT, Q-Former) makes embeddings of the image, and ChatGLM-6B answers. Its sizes are in `config.json`.

## Use

```python
from transformers import AutoModelForImageTextToText, AutoProcessor

processor = AutoProcessor.from_pretrained("DIRECTORY", trust_remote_code=True)
model = AutoModelForImageTextToText.from_pretrained("DIRECTORY", trust_remote_code=True, dtype="auto")
content = [{"type": "image", "path": "image.jpg"}, {"type": "text", "text": "Describe the image."}]
inputs = processor.apply_chat_template(
    [{"role": "user", "content": content}],
    add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt",
)
ids = model.generate(**inputs.to(model.device), max_new_tokens=256)
print(processor.decode(ids[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True))
```

`trust_remote_code=True` runs the Python files of this directory. Answers may be wrong; do not rely on them unchecked.

## License

The code in this directory is under the Apache License 2.0. The weights have the license of the model that they come
from. The published weights of VisualGLM-6B, and weights trained from them, have a Model License of their own: read it
before any use, in particular commercial use. The weights of visualglm-tiny are under the Apache License 2.0.
"""
