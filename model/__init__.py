"""VisualGLM: chat about images in Chinese and English.

>>> from model import VisualGLMModel, chat, load_tokenizer
>>> network, args = VisualGLMModel.from_pretrained("visualglm-tiny")
>>> tokenizer = load_tokenizer("visualglm-tiny")
>>> answer, history, image = chat("image.png", network, tokenizer, "描述这张图片。")

The call path of a question, file by file. First the image is encoded:

    chat.py                     the original's arguments -> `Conversation` and `GenerationConfig`; reads the stream
    chat_model.py               conversation + question -> `Request`; answer_stream.py does this for many questions
    images/preprocess.py        path, URL, bytes or PIL image -> pixels, with images/decode.py and images/url_fetch.py
    images/embedding_cache.py   pixels -> image embeddings: cached, and batched across threads
    visualglm.py                the SAT network; hf_chat.py adapts the Hugging Face network
    blip2.py                    the vision encoder: EVA-ViT-g and QFormer

Then chat_model.py has the answer generated, and streaming.py converts each `TokenOutput` to a `StreamChunk`:

    prompt.py                   conversation + question -> token ids; raw answer -> clean text
    engine/scheduler.py         request queue for all threads; the scheduler thread runs the batch
    engine/batch.py             continuous batching: sequences join and leave between decode steps
    engine/prefill.py           padded prefill batches on a GPU
    engine/decoder.py           prefill and decode steps; engine/graph_decoder.py runs them as CUDA graphs
    engine/kv_cache.py          keys and values of all sequences in the batch; sequence_kv_cache.py on a GPU
    engine/layers.py            the transformer layers of the language model
    engine/sampling.py          logits -> the next token of each sequence; engine/logprobs.py scores it if asked
"""

import sys
import warnings
from importlib import import_module
from importlib.util import find_spec
from types import ModuleType
from typing import TYPE_CHECKING, Any

from .aliases import RENAMED, install_aliases
from .sat.import_hook import install_sat_hook

if TYPE_CHECKING:
    from .blip2 import BlipImageEvalProcessor as BlipImageEvalProcessor
    from .chat import (
        chat as chat,
        chat_batch as chat_batch,
        score_batch as score_batch,
        stream_chat as stream_chat,
    )
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
    from .explain import Explanation as Explanation, explain as explain
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
    from .scoring import AnswerScore as AnswerScore
    from .streaming import ScoredToken as ScoredToken
    from .visualglm import VisualGLMModel as VisualGLMModel

# Imported at first access, so that programs that need no torch do not wait for its import.
PUBLIC = {
    "blip2": "BlipImageEvalProcessor",
    "chat": "chat chat_batch score_batch stream_chat",
    "chat_model": "ChatModel SatChatModel StreamChunk Usage",
    "engine": "CHAT DEMO HF_CHAT GenerationConfig",
    "errors": "BusyError CheckpointError GenerationError ImageError PromptTooLongError QuestionError ResourceError "
    "SettingError TokenizerError VisualGLMError",
    "explain": "Explanation explain",
    "hf_chat": "HfChatModel",
    "infer_util": "generate_input get_infer_setting process_image",
    "loading": "load_hf load_sat load_tokenizer",
    "prompt": "CHINESE ENGLISH Conversation Language Turn is_chinese",
    "scoring": "AnswerScore",
    "streaming": "ScoredToken",
    "finetuned": "FineTuneVisualGLMModel",
    "visualglm": "VisualGLMModel",
}
MODULES = {name: module for module, names in PUBLIC.items() for name in names.split()}
__all__ = sorted(MODULES)


class Package(ModuleType):
    """Module type of this package: `model.chat` is always the function `chat`, never the module."""

    def __setattr__(self, name: str, value: Any) -> None:
        """Set an attribute, unless it is a submodule with the name of a public object."""
        if not (name in MODULES and isinstance(value, ModuleType)):
            super().__setattr__(name, value)


if not TYPE_CHECKING:

    def __getattr__(name: str) -> Any:
        """Import a public object or a submodule on demand, also by its former name."""
        if name in MODULES:
            value = getattr(import_module(f".{MODULES[name]}", __name__), name)
            globals()[name] = value
            return value
        for module, names in RENAMED.items():
            if names.get(name) in MODULES and module == f"{__name__}.{MODULES[names[name]]}":
                warnings.warn(
                    f"model.{name} has been renamed; use {names[name]} instead.", DeprecationWarning, stacklevel=2
                )
                return __getattr__(names[name])
        if not name.startswith("_") and find_spec(f".{name}", __name__):
            return import_module(f".{name}", __name__)
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *MODULES})


sys.modules[__name__].__class__ = Package
install_aliases()
install_sat_hook()
