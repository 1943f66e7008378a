"""Tells transformers' AutoConfig, AutoModel and AutoTokenizer about the classes of this package."""

from typing import Any

from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, AutoModelForSeq2SeqLM, AutoTokenizer

from .configuration_chatglm import ChatGLMConfig
from .tokenization_chatglm import ChatGLMTokenizer


class LazyModel:
    """Stands for the model's class where transformers keeps it, and imports it when it is used.

    transformers' modelling code takes two seconds to import, which who wants a tokenizer need not wait for.
    """

    config_class = ChatGLMConfig

    def __getattr__(self, name: str) -> Any:
        from .modeling_chatglm import ChatGLMForConditionalGenerationWithImage

        return getattr(ChatGLMForConditionalGenerationWithImage, name)


class NoModelsConfig(ChatGLMConfig):
    """A configuration that no model has; it gives the tokenizer a place in transformers' list.

    Under ChatGLMConfig itself, transformers 5 would run a directory's own tokenizer file in spite of ours.
    """


def register() -> None:
    """Let the Auto classes find this package's for every directory of the type "chatglm".

    transformers 5 then prefers them to a directory's own code, `trust_remote_code=True` or not; transformers 4
    only does without `trust_remote_code=True`.
    """
    AutoConfig.register(ChatGLMConfig.model_type, ChatGLMConfig, exist_ok=True)
    AutoTokenizer.register(NoModelsConfig, slow_tokenizer_class=ChatGLMTokenizer, exist_ok=True)
    for auto_class in (AutoModel, AutoModelForCausalLM, AutoModelForSeq2SeqLM):
        auto_class.register(ChatGLMConfig, LazyModel(), exist_ok=True)
