"""The Hugging Face side: configuration, network and tokenizer in plain torch and transformers.

Importing this package registers its classes with transformers' AutoConfig, AutoModel and AutoTokenizer.
"""

from typing import TYPE_CHECKING, Any

import transformers
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, AutoModelForSeq2SeqLM, AutoTokenizer

from .configuration_chatglm import ChatGLMConfig
from .tokenization_chatglm import ChatGLMTokenizer

if TYPE_CHECKING:
    from .modeling_chatglm import ChatGLMForConditionalGenerationWithImage

# The second only in transformers 5, the third only in 4.
IMAGE_CLASSES = ("AutoModelForImageTextToText", "AutoModelForMultimodalLM", "AutoModelForVision2Seq")

__all__ = ["ChatGLMConfig", "ChatGLMForConditionalGenerationWithImage", "ChatGLMTokenizer"]


def __getattr__(name: str) -> Any:
    """Import the model class on first access: transformers' modeling code takes seconds to import."""
    if name != "ChatGLMForConditionalGenerationWithImage":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from .modeling_chatglm import ChatGLMForConditionalGenerationWithImage

    return ChatGLMForConditionalGenerationWithImage


class LazyModel:
    """A proxy that transformers registers in place of the model class, which is imported on first use.

    Loading a tokenizer alone then avoids the two seconds that transformers' modeling code takes to import.
    """

    config_class = ChatGLMConfig

    def __getattr__(self, name: str) -> Any:
        from .modeling_chatglm import ChatGLMForConditionalGenerationWithImage

        return getattr(ChatGLMForConditionalGenerationWithImage, name)


class NoModelsConfig(ChatGLMConfig):
    """A configuration class that no model uses, under which the tokenizer is registered.

    Under ChatGLMConfig itself, transformers 5 would run a directory's own tokenizer file instead of ours.
    """


def register() -> None:
    """Register the classes of this package with the Auto classes, for the model type "chatglm".

    transformers 5 then prefers them to the code in a model's directory, with `trust_remote_code=True` or without;
    transformers 4 prefers them only without `trust_remote_code=True`.
    """
    AutoConfig.register(ChatGLMConfig.model_type, ChatGLMConfig, exist_ok=True)
    AutoTokenizer.register(NoModelsConfig, slow_tokenizer_class=ChatGLMTokenizer, exist_ok=True)
    image_classes = (getattr(transformers, name, None) for name in IMAGE_CLASSES)
    for auto_class in (AutoModel, AutoModelForCausalLM, AutoModelForSeq2SeqLM, *filter(None, image_classes)):
        auto_class.register(ChatGLMConfig, LazyModel(), exist_ok=True)


register()
