"""Extend transformers' `generate`: prompts with images, a preallocated KV cache, decoding with CUDA graphs.

`generate` acquires `DecodeBuffers` for its KV cache and releases them at the end; the model keeps one set, with its
captured graphs, for the next generation. CUDA graphs need a single GPU, its default stream, and no modules but those
in `CAPTURABLE_MODULES`; any other model is decoded without them.
"""

import functools
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from transformers import GenerationConfig, PreTrainedModel
from transformers.cache_utils import DynamicCache, DynamicLayer

from ..kernels.torch_ops import QuantizedLinear, capture
from .configuration_chatglm import FormerName
from .layers_chatglm import (
    GLU,
    GLMBlock,
    PrefixEncoder,
    SelfAttention,
    SpecialTokenIds,
    image_starts,
    linear_positions,
    stored_length,
    token_positions,
    visible_tokens,
)

CAPACITY_STEP = 256  # tokens; capacities and attended lengths are multiples of it
MIN_HEADROOM = CAPACITY_STEP // 2  # free tokens at first, so that larger buffers or another graph are not needed soon


def round_up(length: int) -> int:
    """Return the smallest multiple of CAPACITY_STEP that is at least `length`."""
    return -(-length // CAPACITY_STEP) * CAPACITY_STEP


def with_headroom(length: int) -> int:
    """Return a multiple of CAPACITY_STEP that is at least `length` + MIN_HEADROOM."""
    return round_up(length + MIN_HEADROOM)


class DeviceUsage:
    """Counts active generations per device: capture needs the device exclusively, because it blocks torch's RNG."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.count = 0

    @contextmanager
    def active(self) -> Iterator[None]:
        """Count one more generation in the block; wait while a graph is captured."""
        with self.lock:
            self.count += 1
        try:
            yield
        finally:
            with self.lock:
                self.count -= 1

    @contextmanager
    def exclusive(self) -> Iterator[bool]:
        """Let no generation begin in the block; yield whether the caller's, itself counted, is the only one."""
        with self.lock:
            yield self.count == 1


@functools.cache
def device_usage(device: torch.device) -> DeviceUsage:
    """Return the counter of the generations of this process on a device."""
    return DeviceUsage()


class StaticCacheView:
    """Presents DecodeBuffers as a transformers cache: the new token goes to the index that a tensor holds."""

    def __init__(self, states: torch.Tensor, write_index: torch.Tensor) -> None:
        self.states, self.write_index = states, write_index  # [2 * layers, B, H, S, head_dim], [1]

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Return S - 1, so that, with the new token, attention spans all S positions; the mask selects among them."""
        return self.states.shape[-2] - 1

    def update(self, keys: torch.Tensor, values: torch.Tensor, layer_idx: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Write keys and values [B, H, 1, head_dim] of a layer at the write index; return all [B, H, S, head_dim]."""
        pair = self.states[2 * layer_idx], self.states[2 * layer_idx + 1]
        for states, new in zip(pair, (keys, values), strict=True):
            states.index_copy_(2, self.write_index, new.to(states.dtype))
        return pair


class DecodeBuffers:
    """Input and KV buffers of a decode step, and its captured graphs; used by one generation at a time."""

    def __init__(self, like: torch.Tensor, layers: int, capacity: int, fingerprint: Any) -> None:
        """Allocate buffers for `capacity` tokens in `layers` layers, whose keys are `like` [B, H, T, head_dim]."""
        batch_size, heads, _, head_dim = like.shape
        self.batch_size, self.capacity, self.fingerprint = batch_size, capacity, fingerprint
        # Tensors created in inference mode could not be written to outside of it.
        with torch.inference_mode(False), torch.device(like.device):
            self.states = torch.zeros(2 * layers, batch_size, heads, capacity, head_dim, dtype=like.dtype)
            self.visible = torch.ones(batch_size, 1, 1, capacity, dtype=torch.bool)
            self.index = torch.arange(capacity)
            self.ids = torch.zeros(batch_size, 1, dtype=torch.long)
            self.positions = torch.zeros(batch_size, 2, 1, dtype=torch.long)
            self.write_index = torch.zeros(1, dtype=torch.long)
        self.graphs: dict[int, tuple[torch.cuda.CUDAGraph, torch.Tensor]] = {}  # attended length -> graph, its logits

    def fill(self, keys_and_values: list[torch.Tensor], attention_mask: torch.Tensor | None) -> None:
        """Copy the keys and values of a cache, [B, H, T, head_dim] each, and the mask [B, T or T + 1] of its tokens."""
        length = keys_and_values[0].shape[-2]
        torch._foreach_copy_([*self.states[..., :length, :].unbind(0)], keys_and_values)
        self.visible.fill_(True)
        if attention_mask is not None:
            self.visible[:, 0, 0, : attention_mask.shape[1]] = attention_mask

    def step(self, model: PreTrainedModel, ids: torch.Tensor, position_ids: torch.Tensor, stored: int) -> torch.Tensor:
        """Return the logits [B, 1, V] of tokens [B, 1] at positions [B, 2, 1], which follow `stored` cached tokens."""
        self.ids.copy_(ids)
        self.positions.copy_(position_ids)
        self.write_index.fill_(stored)
        length = self.attended_length(stored + 1)
        if length not in self.graphs and not self._capture(model, length):
            return self.compute(model, length)
        graph, logits = self.graphs[length]
        graph.replay()
        return logits.clone()  # the next step overwrites them

    def attended_length(self, filled: int) -> int:
        """Return the length to attend to for `filled` tokens.

        This is a captured graph's, unless that is more than twice the rounded-up number of tokens.
        """
        fitting = [length for length in self.graphs if filled <= length <= 2 * round_up(filled)]
        return min(fitting, default=min(with_headroom(filled), self.capacity))

    def compute(self, model: PreTrainedModel, length: int) -> torch.Tensor:
        """Compute a step that attends to the first `length` tokens; computing it twice gives the same state."""
        mask = (self.index[:length] <= self.write_index) & self.visible[..., :length]  # [B, 1, 1, length]
        cache = StaticCacheView(self.states[..., :length, :], self.write_index)
        embedded = model.transformer.word_embeddings(self.ids)
        states = model.transformer(
            inputs_embeds=embedded, position_ids=self.positions, mask=mask, past_key_values=cache
        ).last_hidden_state
        logits: torch.Tensor = model.lm_head(states)
        return logits

    def _capture(self, model: PreTrainedModel, length: int) -> bool:
        """Capture a step if this is a GPU on which no other generation runs; return whether it was captured."""
        if not self.states.is_cuda:
            return False
        with torch.cuda.device(self.states.device), device_usage(self.states.device).exclusive() as is_exclusive:
            if not is_exclusive:
                return False
            pool = next((graph.pool() for graph, _ in self.graphs.values()), None)
            self.graphs[length] = capture(lambda: self.compute(model, length), pool)
        return True


CAPTURABLE_MODULES = {
    *(GLMBlock, GLU, PrefixEncoder, QuantizedLinear, SelfAttention),
    *(nn.Embedding, nn.LayerNorm, nn.Linear, nn.ModuleList),
}


def supports_graphs(device: torch.device) -> bool:
    """Return whether graphs can be captured and replayed on a device now.

    They need the device's default stream: the graphs share cuBLAS's workspace, so all of them run on one stream.
    """
    if device.type != "cuda" or torch.is_autocast_enabled("cuda"):
        return False
    return bool(torch.cuda.current_stream(device) == torch.cuda.default_stream(device))


def weights_fingerprint(model: PreTrainedModel) -> tuple[Any, ...] | None:
    """Return addresses, dtypes and shapes of the weights: a graph is valid as long as they stay the same.

    None if a step cannot be captured: a graph would not repeat the work of unknown modules, such as adapters, and
    would not call hooks, such as accelerate's.
    """
    modules = [*model.transformer.modules(), model.lm_head]
    if any(module._forward_hooks or module._forward_pre_hooks or "forward" in vars(module) for module in modules):
        return None
    if model.training or not {type(module) for module in modules[1:]} <= CAPTURABLE_MODULES:
        return None
    weights = [weight for module in modules for weight in module._parameters.values() if weight is not None]
    if len({weight.device for weight in weights}) > 1 or not {type(weight) for weight in weights} <= {nn.Parameter}:
        return None
    return tuple((weight.data_ptr(), weight.dtype, weight.shape) for weight in weights)


class GraphCache:
    """Keeps a model's largest idle DecodeBuffers, with their graphs, between generations; a copied model has none."""

    records = FormerName("enabled")

    def __init__(self) -> None:
        self.enabled = True  # False makes the model decode without CUDA graphs
        self.idle: DecodeBuffers | None = None
        self.lock = threading.Lock()

    def __reduce__(self) -> tuple[Any, ...]:
        return GraphCache, ()

    def acquire(self, like: torch.Tensor, layers: int, length: int, fingerprint: Any) -> DecodeBuffers:
        """Return zeroed buffers for keys `like` [B, H, T, head_dim] and at least `length` tokens."""
        with self.lock:
            buffers, self.idle = self.idle, None
        wanted = fingerprint, len(like)
        if buffers is None or (buffers.fingerprint, buffers.batch_size) != wanted or buffers.capacity < length:
            del buffers  # free its memory before the next allocation
            return DecodeBuffers(like, layers, with_headroom(length), fingerprint)
        buffers.states.zero_()  # a masked NaN would still spread: 0 * NaN is NaN
        return buffers

    def release(self, buffers: DecodeBuffers) -> None:
        """Keep buffers that are no longer in use, unless larger ones are kept already."""
        if buffers.states.is_cuda:  # another thread's stream may be the next to use them
            torch.cuda.current_stream(buffers.states.device).synchronize()
        with self.lock:
            idle = self.idle
            if idle is None or idle.fingerprint != buffers.fingerprint or idle.capacity <= buffers.capacity:
                self.idle = buffers


class GraphDecoding:
    """Decodes one generation with DecodeBuffers, and shows their keys and values in transformers' cache."""

    def __init__(self, model: PreTrainedModel, fingerprint: Any) -> None:
        self.model, self.fingerprint = model, fingerprint
        self.buffers: DecodeBuffers | None = None
        self.views: tuple[torch.Tensor, ...] = ()  # the filled part of the buffers, as the cache's layers have it

    def __deepcopy__(self, memo: Any) -> None:
        """Return None: a copied cache is decoded without graphs."""

    def logits(
        self, cache: Any, ids: torch.Tensor, position_ids: torch.Tensor, attention_mask: torch.Tensor | None
    ) -> torch.Tensor:
        """Return the logits [B, 1, V] of one new token per sequence, and append its keys and values to the cache."""
        stored = stored_length(cache)
        buffers = self._buffers_for(cache, stored, attention_mask)
        logits = buffers.step(self.model, ids, position_ids, stored)
        self._show_in_cache(cache, buffers, stored + 1)
        return logits

    def end(self, cache: Any, is_kept: bool) -> None:
        """Release the buffers; a cache that the caller keeps gets copies of its keys and values."""
        if self.buffers is None:
            return
        for layer in cache.layers if is_kept else ():
            layer.set_views(None, (layer.keys.clone(), layer.values.clone()))
        self.model.graph_cache.release(self.buffers)
        self.buffers, self.views = None, ()

    def _buffers_for(self, cache: Any, stored: int, attention_mask: torch.Tensor | None) -> DecodeBuffers:
        """Return buffers with the cache's content, copied again if it was changed, as by beams, or if they are full."""
        found = [states for layer in cache.layers for states in (layer.keys, layer.values)]
        buffers, like = self.buffers, found[0]
        is_own = len(found) == len(self.views) and all(map(lambda a, b: a is b, found, self.views))
        if buffers is not None and is_own and stored < buffers.capacity:
            return buffers
        if buffers is None or buffers.batch_size != len(like) or buffers.capacity <= stored:
            buffers = self.model.graph_cache.acquire(like, len(cache.layers), stored + 1, self.fingerprint)
        buffers.fill(found, attention_mask)
        self.buffers = buffers
        return buffers

    def _show_in_cache(self, cache: Any, buffers: DecodeBuffers, length: int) -> None:
        self.views = buffers.states[..., :length, :].unbind(0)
        for layer_idx, layer in enumerate(cache.layers):
            pair = slice(2 * layer_idx, 2 * layer_idx + 2)
            layer.set_views(buffers.states[pair], self.views[pair])


@contextmanager
def use_graphs(model: PreTrainedModel, cache: Any, is_kept: bool) -> Iterator[None]:
    """Decode with CUDA graphs in the block, if the model and its device allow it.

    Args:
        cache: the generation's own cache, new, of `PreallocatedLayer`s; None if it has another cache, or none.
        is_kept: whether the caller gets the cache at the end.
    """
    with device_usage(model.device).active():
        fingerprint = None
        if cache is not None and model.graph_cache.enabled and supports_graphs(model.device):
            fingerprint = weights_fingerprint(model)
        if cache is None or fingerprint is None:
            yield
            return
        decoding = cache.graph_decoding = GraphDecoding(model, fingerprint)
        try:
            yield
        finally:
            cache.graph_decoding = None
            decoding.end(cache, is_kept)


def decode_with_graph(
    cache: Any, ids: torch.Tensor, position_ids: torch.Tensor | None, attention_mask: torch.Tensor | None
) -> torch.Tensor | None:
    """Return the logits [B, 1, V] of tokens [B, 1] after a cache; None if it is not decoded with graphs."""
    decoding: GraphDecoding | None = getattr(cache, "graph_decoding", None)
    if decoding is None or position_ids is None or ids.shape[1] != 1 or not stored_length(cache):
        return None
    return decoding.logits(cache, ids, position_ids, attention_mask)


LAYER_GROWTH = 256  # free tokens of a layer's new buffer


class PreallocatedLayer(DynamicLayer):
    """Keys and values [B, H, T, head_dim] of one layer, as views of a larger buffer: appending copies no cache.

    If transformers replaces them, as beam search does, the next token copies them into a new buffer.
    """

    buffer: torch.Tensor | None = None  # [2, B, H, T or more, head_dim]
    views: tuple[torch.Tensor, ...] = ()  # the keys and values returned last

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Append keys and values [B, H, N, head_dim]; return all of them."""
        if torch.is_grad_enabled():  # autograd needs the tensors that writing in place would overwrite
            joined: tuple[torch.Tensor, torch.Tensor] = super().update(key_states, value_states, *args, **kwargs)
            return joined
        stored = self.get_seq_length()
        self.dtype, self.device, self.is_initialized = key_states.dtype, key_states.device, True
        length = stored + key_states.shape[-2]
        buffer = self._buffer_for(length, stored, key_states)
        buffer[0, :, :, stored:length], buffer[1, :, :, stored:length] = key_states, value_states
        self.set_views(buffer, buffer[..., :length, :].unbind(0))
        return self.keys, self.values

    def set_views(self, buffer: torch.Tensor | None, views: tuple[torch.Tensor, ...]) -> None:
        """Set keys and values to `views`, which are views of the buffer, or tensors of their own without one."""
        self.buffer, self.views = buffer, views
        self.keys, self.values = views

    def _buffer_for(self, length: int, stored: int, states: torch.Tensor) -> torch.Tensor:
        """Return a buffer that has the capacity for `length` tokens and holds the `stored` ones."""
        is_own = bool(self.views) and self.keys is self.views[0] and self.values is self.views[1]
        if self.buffer is not None and is_own and length <= self.buffer.shape[-2]:
            return self.buffer
        batch_size, heads, _, head_dim = states.shape
        buffer = states.new_empty(2, batch_size, heads, length + LAYER_GROWTH, head_dim)
        if stored:
            buffer[0, :, :, :stored], buffer[1, :, :, :stored] = self.keys, self.values
        return buffer


def new_cache() -> DynamicCache:
    """Return an empty DynamicCache whose layers are `PreallocatedLayer`s."""
    cache = DynamicCache()
    cache.layer_class_to_replicate = PreallocatedLayer
    return cache


class PrefixGenerationMixin:
    """Precedes transformers' GenerationMixin and prepares its inputs: images, positions, masks, cache.

    Images are encoded once, before beam search multiplies the prompts, and reach the network with the prompt only.
    """

    config: Any
    generation_config: Any
    image_encoder: Any
    graph_cache: GraphCache
    embed_pixel_values: Any

    rooms = FormerName("graph_cache")

    def encode_image(self, images: torch.Tensor) -> torch.Tensor:
        """Return the image embeddings [B, L, D] of pixels [B, 3, S, S]."""
        embeddings: torch.Tensor = self.image_encoder(images)
        return embeddings

    def _apply(self, *args: Any, **kwargs: Any) -> Any:
        """Change the weights' device or dtype, as `to` and `half` do; drop the graphs captured with the old ones."""
        self.graph_cache.idle = None
        module: Any = super()
        return module._apply(*args, **kwargs)

    def prepare_inputs_for_generation(
        self,
        input_ids: torch.Tensor,
        past_key_values: Any = None,
        attention_mask: torch.Tensor | None = None,
        image_embeds: torch.Tensor | None = None,
        pre_image_length: torch.Tensor | None = None,
        hides_tokens: bool = True,
        position_coefficients: torch.Tensor | None = None,
        **kwargs: Any,
    ) -> dict[str, Any]:
        """Return the arguments of `forward` for the next step, from the complete ids [B, S] so far.

        The model's own positions replace transformers'; image embeddings are passed with the prompt only. A single
        token after a context without hidden tokens needs no mask, and its position follows from
        `position_coefficients`, which `linear_positions` returned.
        """
        past = stored_length(past_key_values)
        is_single = 0 < past == input_ids.shape[1] - 1
        if is_single and position_coefficients is not None:
            position_ids = torch.add(position_coefficients[..., :1], position_coefficients[..., 1:], alpha=past)
        else:
            if attention_mask is None:  # transformers drops a mask that hides nothing
                attention_mask = torch.ones_like(input_ids)
            special_ids = SpecialTokenIds.from_config(self.config)
            position_ids = token_positions(input_ids, attention_mask.bool(), special_ids)[..., past:]
        inputs = {
            "input_ids": input_ids[:, past:].contiguous(),
            "position_ids": position_ids,
            "attention_mask": attention_mask if hides_tokens or not is_single else None,
            "past_key_values": past_key_values,
            "use_cache": kwargs.get("use_cache"),
            "logits_to_keep": kwargs.get("logits_to_keep", 0),
            "output_hidden_states": kwargs.get("output_hidden_states"),
            "output_attentions": kwargs.get("output_attentions"),
        }
        if past:
            return inputs
        return {**inputs, "image_embeds": image_embeds, "pre_image_length": pre_image_length}

    @torch.no_grad()
    def generate(self, inputs: torch.Tensor | None = None, *args: Any, **kwargs: Any) -> Any:
        """Continue prompts [B, T] as transformers does: greedy, sampling, beam search, left-padded batches.

        Accepts transformers' arguments, and the arguments for images of `forward`. If the
        prompt already reaches `max_length`, one token is generated, with a warning.

        Returns:
            ids [B, T + N], the prompts included, or the output object if `return_dict_in_generate` is set.
        """
        ids = kwargs.pop("input_ids", None) if inputs is None else inputs
        if ids is None:
            raise ValueError("Give input_ids [B, T]: the prompts, each ending with [gMASK] <sop>.")
        kwargs.pop("position_ids", None)  # the tokenizer adds them when it pads; they are computed again
        starts = image_starts(kwargs.pop("pre_image_length", None), len(ids), ids.device)
        images, image_embeds = kwargs.pop("images", None), kwargs.pop("image_embeds", None)
        pixel_values = kwargs.pop("pixel_values", None)
        if pixel_values is not None and images is None and image_embeds is None:
            image_embeds, starts = self.embed_pixel_values(ids, pixel_values)
        if images is not None and image_embeds is None:
            image_embeds = self.encode_image(images)
        if image_embeds is not None:
            if len(image_embeds) == 1:  # one per prompt, so that beam search can multiply them
                image_embeds = image_embeds.expand(len(ids), -1, -1)
            kwargs.update(image_embeds=image_embeds, pre_image_length=starts)
        else:
            starts = torch.full_like(starts, -1)
        hidden = kwargs.pop("attention_mask", None)
        visible = visible_tokens(ids, hidden, starts, self.config.image_length, self.config.pad_token_id)
        kwargs["attention_mask"], kwargs["hides_tokens"] = visible.long(), not bool(visible.all())
        special_ids = SpecialTokenIds.from_config(self.config)
        kwargs["position_coefficients"] = linear_positions(ids, visible, special_ids)
        given = kwargs.get("past_key_values")
        self._add_defaults(args, kwargs)
        cache = None if given is not None else kwargs.get("past_key_values")
        is_kept = kwargs.get("return_dict_in_generate") or self.generation_config.return_dict_in_generate
        generating: Any = super()
        with use_graphs(self, cache, bool(is_kept)):
            return generating.generate(ids, *args, **self._allow_one_token(ids.shape[1], args, kwargs))

    def _add_defaults(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Add defaults that a caller's own generation_config would override, if there is none."""
        if args or kwargs.get("generation_config") is not None:
            return
        kwargs.setdefault("disable_compile", True)  # keys that grow in each step would be compiled again in each
        if kwargs.get("use_cache") is not False and kwargs.get("cache_implementation") is None:
            kwargs.setdefault("past_key_values", new_cache())
        for name in ("eos_token_id", "pad_token_id"):  # a directory's generation_config.json may lack them
            if getattr(self.generation_config, name) is None:
                kwargs.setdefault(name, getattr(self.config, name))

    def _allow_one_token(self, length: int, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
        """Return the arguments of `generate`, max_length raised to allow one token after a prompt of `length`."""
        config = kwargs.get("generation_config") or (args[0] if args else None) or self.generation_config
        given = kwargs.get("max_length")
        limit = config.max_length if given is None else given
        unlimited = limit is None or (given is None and limit == GenerationConfig().max_length)
        if unlimited or limit > length or kwargs.get("max_new_tokens") or config.max_new_tokens:
            return kwargs
        warnings.warn(f"The prompt has {length} tokens, so max_length={limit} allows only one new token.", stacklevel=4)
        return {**kwargs, "max_length": length + 1, "min_length": 0}
