"""VisualGLM: a model that talks about a picture, in Chinese and English.

>>> from model import VisualGLMModel, chat, load_tokenizer
>>> network, args = VisualGLMModel.from_pretrained("visualglm-tiny")
>>> tokenizer = load_tokenizer("visualglm-tiny")
>>> answer, history, image = chat("picture.png", network, tokenizer, "描述这张图片。")
"""

from .blip2 import BlipImageEvalProcessor
from .chat import chat, chat_batch, stream_chat
from .chat_model import ChatModel, SatChatModel
from .engine import CHAT, DEMO, HF_CHAT, GenerationConfig
from .errors import (
    BusyError,
    CheckpointError,
    GenerationError,
    ImageError,
    PromptTooLongError,
    QuestionError,
    ResourceError,
    SettingError,
    TokenizerError,
    VisualGLMError,
)
from .hf_chat import HfChatModel
from .infer_util import generate_input, get_infer_setting, process_image
from .loading import load_hf, load_sat, load_tokenizer
from .pieces import Piece, Usage
from .prompt import CHINESE, ENGLISH, Conversation, Language, Turn, is_chinese
from .sat.finetuned import FineTuneVisualGLMModel
from .visualglm import VisualGLMModel

__all__ = [
    "CHAT",
    "CHINESE",
    "DEMO",
    "ENGLISH",
    "HF_CHAT",
    "BlipImageEvalProcessor",
    "BusyError",
    "ChatModel",
    "CheckpointError",
    "Conversation",
    "FineTuneVisualGLMModel",
    "GenerationConfig",
    "GenerationError",
    "HfChatModel",
    "ImageError",
    "Language",
    "Piece",
    "PromptTooLongError",
    "QuestionError",
    "ResourceError",
    "SatChatModel",
    "SettingError",
    "TokenizerError",
    "Turn",
    "Usage",
    "VisualGLMError",
    "VisualGLMModel",
    "chat",
    "chat_batch",
    "generate_input",
    "get_infer_setting",
    "is_chinese",
    "load_hf",
    "load_sat",
    "load_tokenizer",
    "process_image",
    "stream_chat",
]
