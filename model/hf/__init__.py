"""The Hugging Face side: configuration, network and tokenizer in plain torch and transformers.

Importing this package registers its classes with transformers' AutoConfig, AutoModel and AutoTokenizer.
"""

from typing import TYPE_CHECKING, Any

from .configuration_chatglm import ChatGLMConfig
from .registration import register
from .tokenization_chatglm import ChatGLMTokenizer

if TYPE_CHECKING:
    from .modeling_chatglm import ChatGLMForConditionalGenerationWithImage

__all__ = ["ChatGLMConfig", "ChatGLMForConditionalGenerationWithImage", "ChatGLMTokenizer"]


def __getattr__(name: str) -> Any:
    """Import the model's class when it is asked for: transformers' modelling code takes seconds."""
    if name != "ChatGLMForConditionalGenerationWithImage":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from .modeling_chatglm import ChatGLMForConditionalGenerationWithImage

    return ChatGLMForConditionalGenerationWithImage


register()
