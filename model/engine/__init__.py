"""Token ids in, token ids out: sampling, the KV cache, and the loop that writes an answer. Knows no text."""

from .batch import Batch
from .config import CHAT, DEMO, HF_CHAT, GenerationConfig
from .generate import generate, generate_all
from .scheduler import Scheduler, get_scheduler
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
