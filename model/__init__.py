"""VisualGLM: a model that talks about a picture, in Chinese and English.

>>> from model import VisualGLMModel, chat, load_tokenizer
>>> network, args = VisualGLMModel.from_pretrained("visualglm-tiny")
>>> tokenizer = load_tokenizer("visualglm-tiny")
>>> answer, history, image = chat("picture.png", network, tokenizer, "描述这张图片。")

The way of a question, file by file. First the picture:

    chat.py                     the original's arguments -> a conversation and a `GenerationConfig`; reads the stream
    chat_model.py               conversation + question -> a request to the engine; tokens -> pieces of the answer
    images/embedding_cache.py   pixels -> image embeddings, each picture once, whichever thread asks
    visualglm.py                the SAT network; hf_chat.py is its twin on the Hugging Face side
    blip2.py                    EVA-ViT-g and QFormer, the vision encoder

Then the answer, from chat_model.py again:

    prompt.py                   conversation + question -> token ids; the model's words -> what a person reads
    engine/scheduler.py         a queue of requests from any thread; its own thread works on the batch
    engine/batch.py             rows that begin and end between steps
    engine/decoder.py           prefill and decode, with a KV cache; engine/graph_decoder.py on a GPU
    engine/layers.py            walks the layers of the language model
    engine/sampling.py          logits -> the next token of each row
"""

import sys
import warnings
from importlib import import_module
from importlib.util import find_spec
from types import ModuleType
from typing import TYPE_CHECKING, Any

from .aliases import install_aliases
from .former_names import RENAMED
from .sat.import_hook import install_sat_hook

if TYPE_CHECKING:
    from .blip2 import BlipImageEvalProcessor as BlipImageEvalProcessor
    from .chat import chat as chat, chat_batch as chat_batch, stream_chat as stream_chat
    from .chat_model import (
        ChatModel as ChatModel,
        SatChatModel as SatChatModel,
        StreamChunk as StreamChunk,
        Usage as Usage,
    )
    from .engine import CHAT as CHAT, DEMO as DEMO, HF_CHAT as HF_CHAT, GenerationConfig as GenerationConfig
    from .errors import (
        BusyError as BusyError,
        CheckpointError as CheckpointError,
        GenerationError as GenerationError,
        ImageError as ImageError,
        PromptTooLongError as PromptTooLongError,
        QuestionError as QuestionError,
        ResourceError as ResourceError,
        SettingError as SettingError,
        TokenizerError as TokenizerError,
        VisualGLMError as VisualGLMError,
    )
    from .finetuned import FineTuneVisualGLMModel as FineTuneVisualGLMModel
    from .hf_chat import HfChatModel as HfChatModel
    from .infer_util import (
        generate_input as generate_input,
        get_infer_setting as get_infer_setting,
        process_image as process_image,
    )
    from .loading import load_hf as load_hf, load_sat as load_sat, load_tokenizer as load_tokenizer
    from .prompt import (
        CHINESE as CHINESE,
        ENGLISH as ENGLISH,
        Conversation as Conversation,
        Language as Language,
        Turn as Turn,
        is_chinese as is_chinese,
    )
    from .visualglm import VisualGLMModel as VisualGLMModel

# Imported when they are first asked for, so that what needs no torch does not wait for it.
PUBLIC = {
    "blip2": "BlipImageEvalProcessor",
    "chat": "chat chat_batch stream_chat",
    "chat_model": "ChatModel SatChatModel StreamChunk Usage",
    "engine": "CHAT DEMO HF_CHAT GenerationConfig",
    "errors": "BusyError CheckpointError GenerationError ImageError PromptTooLongError QuestionError ResourceError "
    "SettingError TokenizerError VisualGLMError",
    "hf_chat": "HfChatModel",
    "infer_util": "generate_input get_infer_setting process_image",
    "loading": "load_hf load_sat load_tokenizer",
    "prompt": "CHINESE ENGLISH Conversation Language Turn is_chinese",
    "finetuned": "FineTuneVisualGLMModel",
    "visualglm": "VisualGLMModel",
}
MODULES = {name: module for module, names in PUBLIC.items() for name in names.split()}
__all__ = sorted(MODULES)


class Package(ModuleType):
    """This package, whose `chat` is the function `chat` whether or not the module `model.chat` is imported."""

    def __setattr__(self, name: str, value: Any) -> None:
        """Set an attribute, but leave out a module that has a public name."""
        if not (name in MODULES and isinstance(value, ModuleType)):
            super().__setattr__(name, value)


if not TYPE_CHECKING:

    def __getattr__(name: str) -> Any:
        """Import a public name or a module, also by its former name."""
        if name in MODULES:
            value = getattr(import_module(f".{MODULES[name]}", __name__), name)
            globals()[name] = value
            return value
        for module, names in RENAMED.items():
            if names.get(name) in MODULES and module == f"{__name__}.{MODULES[names[name]]}":
                warnings.warn(f"model.{name} is now model.{names[name]}.", DeprecationWarning, stacklevel=2)
                return __getattr__(names[name])
        if not name.startswith("_") and find_spec(f".{name}", __name__):
            return import_module(f".{name}", __name__)
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *MODULES})


sys.modules[__name__].__class__ = Package
install_aliases()
install_sat_hook()
