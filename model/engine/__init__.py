"""Token ids in, token ids out: sampling, the KV cache, and the loop that writes an answer. Knows no text."""

from .batch import Batch
from .config import CHAT, DEMO, HF_CHAT, GenerationConfig
from .engine import generate, generate_all
from .request import Request, Step
from .scheduler import Scheduler
from .sharing import scheduler_of
from .tickets import Steps

__all__ = [
    "CHAT",
    "DEMO",
    "HF_CHAT",
    "Batch",
    "GenerationConfig",
    "Request",
    "Scheduler",
    "Step",
    "Steps",
    "generate",
    "generate_all",
    "scheduler_of",
]
