"""Token ids in, token ids out: sampling, the KV cache, and the loop that writes an answer. Knows no text."""

from .batch import Batch, Request, Step
from .config import CHAT, DEMO, HF_CHAT, GenerationConfig
from .engine import generate, generate_all
from .scheduler import Scheduler

__all__ = [
    "CHAT",
    "DEMO",
    "HF_CHAT",
    "Batch",
    "GenerationConfig",
    "Request",
    "Scheduler",
    "Step",
    "generate",
    "generate_all",
]
