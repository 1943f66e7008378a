"""The inference engine, from token ids to token ids: sampling, KV cache, decoding, scheduling. It handles no text."""

from .batch import Batch
from .config import CHAT, DEMO, HF_CHAT, GenerationConfig
from .scheduler import Scheduler, generate, generate_all, get_scheduler
from .sequence import Request, TokenOutput, TokenStream

__all__ = [
    "CHAT",
    "DEMO",
    "HF_CHAT",
    "Batch",
    "GenerationConfig",
    "Request",
    "Scheduler",
    "TokenOutput",
    "TokenStream",
    "generate",
    "generate_all",
    "get_scheduler",
]
