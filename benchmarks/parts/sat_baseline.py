"""SAT's own generation on the same network, called as in the original's chat()."""

import contextlib
import time
import warnings
from collections.abc import Iterator
from typing import Any

import torch
from PIL import Image

from benchmarks.parts.prompts import Answer, Case
from model import DEMO, SatChatModel

# isort: split
import sat.model.official.chatglm_model as sat_chatglm
import sat.mpu.utils as sat_utils
from sat.generation.autoregressive_sampling import filling_sequence
from sat.generation.sampling_strategies import BaseStrategy
from sat.model.cached_autoregressive_model import CachedAutoregressiveMixin
from sat.model.position_embedding.rotary_embeddings import RotaryEmbedding

WARM_UP_TOKENS = 8
SCRIPTED = ((sat_chatglm, "gelu_impl"), (sat_chatglm, "apply_rotary_pos_emb_index"), (sat_utils, "gelu_impl"))


class TimedStrategy(BaseStrategy):
    """SAT's sampling, which records the time of each token."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.times: list[float] = []

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Sample a token."""
        result = super().forward(*args, **kwargs)  # synchronizes: it compares the token with the end token
        self.times.append(time.perf_counter())
        return result


class SatGeneration:
    """SAT's filling_sequence, called as in the original's chat(), on its own network."""

    def __init__(self, model: SatChatModel) -> None:
        self.model = model
        self.network = model.network
        self.network.add_mixin("auto-regressive", CachedAutoregressiveMixin())
        width = self.network.rotary.dim
        rotary = RotaryEmbedding(width)  # SAT's, which caches its tables
        rotary.inv_freq = rotary.inv_freq.half().float()  # rounded to half precision, as in the original
        self.network.get_mixin("chatglm-attn").rotary_emb = rotary.to(self.network.device)
        self.network.eval()

    def greedy(self, case: Case, image: Image.Image | torch.Tensor) -> list[int]:
        """Return the greedy tokens."""
        return self.generate(case, image, self.strategy(top_k=1))[1]

    def answer(self, case: Case, image: Image.Image | torch.Tensor, seed: int) -> Answer:
        """Answer with the demos' sampling; nothing is cached for the next question."""
        torch.manual_seed(seed)
        names = ("temperature", "top_k", "top_p", "repetition_penalty")
        strategy = self.strategy(**{name: getattr(DEMO, name) for name in names})
        started = time.perf_counter()
        prompt_tokens, _ = self.generate(case, image, strategy)
        first, last = strategy.times[0], strategy.times[-1]
        return Answer(prompt_tokens, first - started, (case.tokens - 1) / (last - first), first - started)

    def strategy(self, **settings: Any) -> TimedStrategy:
        """Return SAT's sampling with the end token forbidden."""
        return TimedStrategy(invalid_slices=[self.model.tokenizer.eos_token_id], **settings)

    @torch.no_grad()
    def generate(self, case: Case, image: Image.Image | torch.Tensor, strategy: TimedStrategy) -> tuple[int, list[int]]:
        """Generate; return the prompt's length and the new tokens."""
        pixels = self.model.image_cache.to_pixels(image).to(self.network.device, self.network.dtype)
        prompt = self.model.encode_prompt(case.conversation(image), case.question, DEMO)
        length = len(prompt.token_ids)
        sequence = torch.tensor(prompt.token_ids + [-1] * case.tokens, device=self.network.device)
        output, _ = filling_sequence(
            self.network,
            sequence,
            batch_size=1,
            strategy=strategy,
            get_masks_and_position_ids=lambda ids: masks_and_positions(ids, length - 1),
            image=pixels,
            pre_image=prompt.image_start,
        )
        return length, output[0, length:].tolist()


def masks_and_positions(ids: torch.Tensor, context: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return tokens [1, L], mask [1, 1, L, L] and positions [1, 2, L] for a prompt with <sop> at `context`."""
    length = len(ids)
    mask = torch.ones(1, 1, length, length, device=ids.device).tril_()
    mask[..., :context] = 1
    count = torch.arange(length, device=ids.device)
    positions = torch.stack((count.clamp(max=context - 1), (count - context + 1).clamp(min=0)))
    return ids[None], mask, positions[None]


@contextlib.contextmanager
def scripted_functions() -> Iterator[None]:
    """Compile SAT's functions by torch.jit.script in the block, as its decorators would."""
    originals = [getattr(module, name) for module, name in SCRIPTED]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        compiled = [torch.jit.script(function) for function in originals]
    for (module, name), function in zip(SCRIPTED, compiled, strict=True):
        setattr(module, name, function)
    try:
        yield
    finally:
        for (module, name), function in zip(SCRIPTED, originals, strict=True):
            setattr(module, name, function)


class ScriptedSatGeneration:
    """SAT's generation with scripted functions, its state when it is imported alone."""

    def __init__(self, plain: SatGeneration) -> None:
        self.plain = plain

    def greedy(self, case: Case, image: Image.Image | torch.Tensor) -> list[int]:
        """Return the greedy tokens."""
        with scripted_functions():
            return self.plain.greedy(case, image)

    def answer(self, case: Case, image: Image.Image | torch.Tensor, seed: int) -> Answer:
        """Answer with the demos' sampling, after a warm-up that compiles."""
        with scripted_functions():
            self.plain.greedy(Case(case.question, WARM_UP_TOKENS, case.turns, case.language), image)
            return self.plain.answer(case, image, seed)
