"""One tensor's name in the Hugging Face format and in SAT's."""

IMAGE_PREFIX, SAT_IMAGE_PREFIX = "image_encoder.", "mixins.eva.model."
# HF name -> SAT name where they differ by more than a prefix.
RENAMED = {"lm_head.weight": "mixins.chatglm-final.lm_head.weight"}
SAT_RENAMED = {sat_name: hf_name for hf_name, sat_name in RENAMED.items()}
# Computed from the configuration, never loaded.
RECOMPUTED = "rotary_emb.inv_freq"
# Older SAT models own a table that no forward pass reads.
IGNORED = frozenset({"transformer.position_embeddings.weight"})


def is_loaded(name: str) -> bool:
    """Whether the tensor called `name` in either format is part of the model."""
    return name not in IGNORED and not name.endswith(RECOMPUTED)


def to_sat_name(name: str) -> str | None:
    """Return the SAT name of an HF tensor, None for one that is computed instead of loaded."""
    if name.endswith(RECOMPUTED):
        return None
    if name.startswith(IMAGE_PREFIX):
        return SAT_IMAGE_PREFIX + name.removeprefix(IMAGE_PREFIX)
    return RENAMED.get(name, name)


def to_hf_name(name: str) -> str:
    """Return the HF name of a SAT tensor."""
    if name.startswith(SAT_IMAGE_PREFIX):
        return IMAGE_PREFIX + name.removeprefix(SAT_IMAGE_PREFIX)
    return SAT_RENAMED.get(name, name)


def is_language_qkv(name: str) -> bool:
    """Whether `name` is a query-key-value tensor of the language model, whose rows lie in one of two orders."""
    stem, _, kind = name.rpartition(".")
    module = stem.removesuffix(".original")  # where LoRA wraps the layer
    return (
        name.startswith("transformer.layers.")
        and module.endswith(".attention.query_key_value")
        and kind in ("weight", "bias")
    )
