"""Prepare transformers' generation for prompts with pictures, with a preallocated cache and CUDA graphs.

`generate` takes a `Room` for its cache and gives it back in the end; the model keeps one, with its graphs, for the next
generation. All this is for one GPU, its default stream, and modules that `weights_of` knows; the rest runs as written.
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

from ..kernels.torch_ops import QuantizedLinear, record
from .layers_chatglm import (
    GLU,
    GLMBlock,
    Marks,
    PrefixEncoder,
    SelfAttention,
    image_starts,
    position_lines,
    stored_length,
    token_positions,
    visible_tokens,
)

STRIDE = 256  # places
LEAST_FREE = STRIDE // 2  # places that are free at first, so that the next room or graph is not wanted soon


def padded(length: int) -> int:
    """Return the next multiple of STRIDE."""
    return -(-length // STRIDE) * STRIDE


def with_free(length: int) -> int:
    """Return a multiple of STRIDE that leaves some places free."""
    return padded(length + LEAST_FREE)


class Traffic:
    """Counts the generations on a device. One that records has to be alone: torch draws no random numbers meanwhile."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.count = 0

    @contextmanager
    def passing(self) -> Iterator[None]:
        """Count one more; wait for who is recording."""
        with self.lock:
            self.count += 1
        try:
            yield
        finally:
            with self.lock:
                self.count -= 1

    @contextmanager
    def stopped(self) -> Iterator[bool]:
        """Let nobody begin; give whether the caller, itself counted, is alone."""
        with self.lock:
            yield self.count == 1


@functools.cache
def traffic(device: torch.device) -> Traffic:
    """Return the generations of this process on a device."""
    return Traffic()


class Filled:
    """A room's places as the layers see a cache: the new token goes to the place that a tensor names."""

    def __init__(self, states: torch.Tensor, place: torch.Tensor) -> None:
        self.states, self.place = states, place  # [2 * layers, B, H, S, head_dim], [1]

    def get_seq_length(self, number: int = 0) -> int:
        """Return S - 1: with the new token, all places are seen as far as the mask lets them."""
        return self.states.shape[-2] - 1

    def update(self, keys: torch.Tensor, values: torch.Tensor, number: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Put keys and values [B, H, 1, head_dim] of layer `number` in their place; return all [B, H, S, head_dim]."""
        pair = self.states[2 * number], self.states[2 * number + 1]
        for states, new in zip(pair, (keys, values), strict=True):
            states.index_copy_(2, self.place, new.to(states.dtype))
        return pair


class Room:
    """What one step reads and writes, and the graphs that were recorded of it. One generation uses it at a time."""

    def __init__(self, like: torch.Tensor, layers: int, places: int, weights: Any) -> None:
        """Make room for the keys and values of so many layers, each `like` [B, H, T, head_dim], and `places` tokens."""
        rows, heads, _, head_dim = like.shape
        self.rows, self.places, self.weights = rows, places, weights
        # Tensors that are made in inference mode could not be written to outside of it.
        with torch.inference_mode(False), torch.device(like.device):
            self.states = torch.zeros(2 * layers, rows, heads, places, head_dim, dtype=like.dtype)
            self.visible = torch.ones(rows, 1, 1, places, dtype=torch.bool)
            self.index = torch.arange(places)
            self.ids = torch.zeros(rows, 1, dtype=torch.long)
            self.positions = torch.zeros(rows, 2, 1, dtype=torch.long)
            self.place = torch.zeros(1, dtype=torch.long)
        self.graphs: dict[int, tuple[torch.cuda.CUDAGraph, torch.Tensor]] = {}  # places seen -> graph, its logits

    def fill(self, keys_and_values: list[torch.Tensor], attention_mask: torch.Tensor | None) -> None:
        """Copy what a cache holds, [B, H, T, head_dim] each, and what may be seen of it and of the next token."""
        length = keys_and_values[0].shape[-2]
        torch._foreach_copy_([*self.states[..., :length, :].unbind(0)], keys_and_values)
        self.visible.fill_(True)
        if attention_mask is not None:
            self.visible[:, 0, 0, : attention_mask.shape[1]] = attention_mask

    def step(self, model: PreTrainedModel, ids: torch.Tensor, position_ids: torch.Tensor, stored: int) -> torch.Tensor:
        """Return the logits [B, 1, V] of tokens [B, 1] at positions [B, 2, 1], which follow `stored` others."""
        self.ids.copy_(ids)
        self.positions.copy_(position_ids)
        self.place.fill_(stored)
        length = self.seen(stored + 1)
        if length not in self.graphs and not self._record(model, length):
            return self.compute(model, length)
        graph, logits = self.graphs[length]
        graph.replay()
        return logits.clone()  # the next step writes over them

    def seen(self, filled: int) -> int:
        """Return how many places to look at when so many are filled: those of a graph, unless it reads far too many."""
        fitting = [length for length in self.graphs if filled <= length <= 2 * padded(filled)]
        return min(fitting, default=min(with_free(filled), self.places))

    def compute(self, model: PreTrainedModel, length: int) -> torch.Tensor:
        """Compute a step that sees `length` places at most; doing it again changes nothing."""
        mask = (self.index[:length] <= self.place) & self.visible[..., :length]  # [B, 1, 1, length]
        cache = Filled(self.states[..., :length, :], self.place)
        embedded = model.transformer.word_embeddings(self.ids)
        states = model.transformer(
            inputs_embeds=embedded, position_ids=self.positions, mask=mask, past_key_values=cache
        ).last_hidden_state
        logits: torch.Tensor = model.lm_head(states)
        return logits

    def _record(self, model: PreTrainedModel, length: int) -> bool:
        """Record a step, if this is a GPU and nobody else generates on it now; return whether it was done."""
        if not self.states.is_cuda:
            return False
        with torch.cuda.device(self.states.device), traffic(self.states.device).stopped() as is_alone:
            if not is_alone:
                return False
            pool = next((graph.pool() for graph, _ in self.graphs.values()), None)
            self.graphs[length] = record(lambda: self.compute(model, length), pool)
        return True


KNOWN = {
    *(GLMBlock, GLU, PrefixEncoder, QuantizedLinear, SelfAttention),
    *(nn.Embedding, nn.LayerNorm, nn.Linear, nn.ModuleList),
}


def has_graphs(device: torch.device) -> bool:
    """Whether graphs can be recorded and replayed on a device as things are.

    Graphs share the memory that cuBLAS keeps for them, so all of them run on one stream.
    """
    if device.type != "cuda" or torch.is_autocast_enabled("cuda"):
        return False
    return bool(torch.cuda.current_stream(device) == torch.cuda.default_stream(device))


def weights_of(model: PreTrainedModel) -> tuple[Any, ...] | None:
    """Return what tells whether a graph still holds: the model's weights and where they lie.

    None where a step cannot be recorded: unknown modules, such as adapters, do what a graph would not repeat, and
    hooks, such as accelerate's, would not be called.
    """
    modules = [*model.transformer.modules(), model.lm_head]
    if any(module._forward_hooks or module._forward_pre_hooks or "forward" in vars(module) for module in modules):
        return None
    if model.training or not {type(module) for module in modules[1:]} <= KNOWN:
        return None
    weights = [weight for module in modules for weight in module._parameters.values() if weight is not None]
    if len({weight.device for weight in weights}) > 1 or not {type(weight) for weight in weights} <= {nn.Parameter}:
        return None
    return tuple((weight.data_ptr(), weight.dtype, weight.shape) for weight in weights)


class Rooms:
    """What a model keeps for its generations: the largest room that is not in use, with its graphs.

    A copy of the model begins without one.
    """

    def __init__(self) -> None:
        self.records = True  # set to False, a model decodes without graphs
        self.spare: Room | None = None
        self.lock = threading.Lock()

    def __reduce__(self) -> tuple[Any, ...]:
        return Rooms, ()

    def take(self, like: torch.Tensor, layers: int, length: int, weights: Any) -> Room:
        """Return a room for keys `like` [B, H, T, head_dim] and at least `length` tokens; its states are zeros."""
        with self.lock:
            room, self.spare = self.spare, None
        if room is None or room.weights != weights or room.rows != len(like) or room.places < length:
            del room  # before the next one needs memory
            return Room(like, layers, with_free(length), weights)
        room.states.zero_()  # what is masked must still be a number
        return room

    def give_back(self, room: Room) -> None:
        """Keep a room that is no longer in use, unless there is a larger one."""
        if room.states.is_cuda:  # another thread's stream may be the next to use it
            torch.cuda.current_stream(room.states.device).synchronize()
        with self.lock:
            if self.spare is None or self.spare.weights != room.weights or self.spare.places <= room.places:
                self.spare = room


class Steps:
    """The steps of one generation: keeps the cache's keys and values in a room, wherever transformers puts them."""

    def __init__(self, model: PreTrainedModel, weights: Any) -> None:
        self.model, self.weights = model, weights
        self.room: Room | None = None
        self.shown: tuple[torch.Tensor, ...] = ()  # the room's filled part, as the cache's layers have it

    def __deepcopy__(self, memo: Any) -> None:
        """A copy of the cache goes on without."""

    def logits(
        self, cache: Any, ids: torch.Tensor, position_ids: torch.Tensor, attention_mask: torch.Tensor | None
    ) -> torch.Tensor:
        """Return the logits [B, 1, V] of one token more in each row, and put it into the cache."""
        stored = stored_length(cache)
        room = self._room_of(cache, stored, attention_mask)
        logits = room.step(self.model, ids, position_ids, stored)
        self._show(cache, room, stored + 1)
        return logits

    def end(self, cache: Any, is_kept: bool) -> None:
        """Give the room back; a cache that is kept takes its keys and values along."""
        if self.room is None:
            return
        for layer in cache.layers if is_kept else ():
            layer.move(None, (layer.keys.clone(), layer.values.clone()))
        self.model.rooms.give_back(self.room)
        self.room, self.shown = None, ()

    def _room_of(self, cache: Any, stored: int, attention_mask: torch.Tensor | None) -> Room:
        """Return the room that holds what the cache does, which may have been changed, as by beams, or be full."""
        found = [states for layer in cache.layers for states in (layer.keys, layer.values)]
        room, like = self.room, found[0]
        is_own = len(found) == len(self.shown) and all(map(lambda a, b: a is b, found, self.shown))
        if room is not None and is_own and stored < room.places:
            return room
        if room is None or room.rows != len(like) or room.places <= stored:
            room = self.model.rooms.take(like, len(cache.layers), stored + 1, self.weights)
        room.fill(found, attention_mask)
        self.room = room
        return room

    def _show(self, cache: Any, room: Room, length: int) -> None:
        self.shown = room.states[..., :length, :].unbind(0)
        for number, layer in enumerate(cache.layers):
            pair = slice(2 * number, 2 * number + 2)
            layer.move(room.states[pair], self.shown[pair])


@contextmanager
def decoding(model: PreTrainedModel, cache: Any, is_kept: bool) -> Iterator[None]:
    """Let a generation go on from graphs where it can.

    Args:
        cache: the generation's own, a new one of growing layers; None where it has another, or none.
        is_kept: it is handed to the caller in the end.
    """
    with traffic(model.device).passing():
        weights = None
        if cache is not None and model.rooms.records and has_graphs(model.device):
            weights = weights_of(model)
        if cache is None or weights is None:
            yield
            return
        steps = cache.steps = Steps(model, weights)
        try:
            yield
        finally:
            cache.steps = None
            steps.end(cache, is_kept)


def later_logits(
    cache: Any, ids: torch.Tensor, position_ids: torch.Tensor | None, attention_mask: torch.Tensor | None
) -> torch.Tensor | None:
    """Return the logits [B, 1, V] of single tokens [B, 1] after a cache in a room; None where there is no such."""
    steps: Steps | None = getattr(cache, "steps", None)
    if steps is None or position_ids is None or ids.shape[1] != 1 or not stored_length(cache):
        return None
    return steps.logits(cache, ids, position_ids, attention_mask)


ROOM = 256  # tokens by which a layer grows


class GrowingLayer(DynamicLayer):
    """The keys and values [B, H, T, head_dim] of one layer, which are views of a larger tensor.

    Whatever transformers puts in their place, as for beams, is copied into new room at the next token.
    """

    room: torch.Tensor | None = None  # [2, B, H, T or more, head_dim]
    shown: tuple[torch.Tensor, ...] = ()  # the views given out last

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Append keys and values [B, H, N, head_dim]; return all of them."""
        if torch.is_grad_enabled():  # what is written over cannot be gone back through
            joined: tuple[torch.Tensor, torch.Tensor] = super().update(key_states, value_states, *args, **kwargs)
            return joined
        stored = self.get_seq_length()
        self.dtype, self.device, self.is_initialized = key_states.dtype, key_states.device, True
        length = stored + key_states.shape[-2]
        room = self._room_for(length, stored, key_states)
        room[0, :, :, stored:length], room[1, :, :, stored:length] = key_states, value_states
        self.move(room, room[..., :length, :].unbind(0))
        return self.keys, self.values

    def move(self, room: torch.Tensor | None, shown: tuple[torch.Tensor, ...]) -> None:
        """Let keys and values be `shown`, which are views of the room, or have none."""
        self.room, self.shown = room, shown
        self.keys, self.values = shown

    def _room_for(self, length: int, stored: int, states: torch.Tensor) -> torch.Tensor:
        """Return the room, which has places for `length` tokens and holds the `stored` ones."""
        is_own = bool(self.shown) and self.keys is self.shown[0] and self.values is self.shown[1]
        if self.room is not None and is_own and length <= self.room.shape[-2]:
            return self.room
        batch, heads, _, head_dim = states.shape
        room = states.new_empty(2, batch, heads, length + ROOM, head_dim)
        if stored:
            room[0, :, :, :stored], room[1, :, :, :stored] = self.keys, self.values
        return room


def new_cache() -> DynamicCache:
    """Return an empty cache of growing layers, which is for transformers one of its own."""
    cache = DynamicCache()
    cache.layer_class_to_replicate = GrowingLayer
    return cache


class PrefixGenerationMixin:
    """Stands before transformers' GenerationMixin and hands it what it can work with.

    Pictures are encoded once, before beams multiply the prompts, and are given to the network with the prompt only.
    """

    config: Any
    generation_config: Any
    image_encoder: Any
    rooms: Rooms

    @property
    def image_length(self) -> int:  # public name
        """L, how many vectors stand for a picture."""
        return int(self.config.image_length)

    @property
    def image_size(self) -> int:
        """S, the side of the square picture in pixels."""
        return int(self.config.eva_config["image_size"][0])

    @property
    def max_sequence_length(self) -> int:
        """Tokens that the model was trained to read."""
        return int(self.config.max_sequence_length)

    def encode_image(self, images: torch.Tensor) -> torch.Tensor:
        """Return the image embeddings [B, L, D] of pixels [B, 3, S, S]."""
        embeddings: torch.Tensor = self.image_encoder(images)
        return embeddings

    def _apply(self, *args: Any, **kwargs: Any) -> Any:
        """Change the weights' device or dtype, as `to` and `half` do; what was recorded of the old ones goes."""
        self.rooms.spare = None
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
        lines: torch.Tensor | None = None,
        **kwargs: Any,
    ) -> dict[str, Any]:
        """Return the arguments of `forward` for the next step, from the whole ids [B, S] so far.

        transformers' own positions are replaced by this model's; the picture is given with the prompt only. A single
        token after a context of which nothing is hidden needs no mask, and its position is known from `lines`, those
        of `position_lines`.
        """
        past = stored_length(past_key_values)
        is_single = 0 < past == input_ids.shape[1] - 1
        if is_single and lines is not None:
            position_ids = torch.add(lines[..., :1], lines[..., 1:], alpha=past)
        else:
            if attention_mask is None:  # transformers drops one that hides nothing
                attention_mask = torch.ones_like(input_ids)
            position_ids = token_positions(input_ids, attention_mask.bool(), Marks.of(self.config))[..., past:]
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
        """Continue prompts [B, T] as transformers does: greedy, sampling, beams, batches padded on the left.

        Beside transformers' own arguments: `images`, `image_embeds` and `pre_image_length` as in `forward`. A
        `max_length` that the prompt already reaches gives one token and a warning.

        Returns:
            ids [B, T + N], the prompts included, or what `return_dict_in_generate` asks for.
        """
        ids = kwargs.pop("input_ids", None) if inputs is None else inputs
        if ids is None:
            raise ValueError("Give input_ids [B, T]: the prompts, each ending with [gMASK] <sop>.")
        kwargs.pop("position_ids", None)  # the tokenizer's, when it pads; they are computed again
        starts = image_starts(kwargs.pop("pre_image_length", None), len(ids), ids.device)
        images, image_embeds = kwargs.pop("images", None), kwargs.pop("image_embeds", None)
        if images is not None and image_embeds is None:
            image_embeds = self.encode_image(images)
        if image_embeds is not None:
            if len(image_embeds) == 1:  # one row for each prompt, so that beams can multiply them
                image_embeds = image_embeds.expand(len(ids), -1, -1)
            kwargs.update(image_embeds=image_embeds, pre_image_length=starts)
        else:
            starts = torch.full_like(starts, -1)
        hidden = kwargs.pop("attention_mask", None)
        visible = visible_tokens(ids, hidden, starts, self.image_length, self.config.pad_token_id)
        kwargs["attention_mask"], kwargs["hides_tokens"] = visible.long(), not bool(visible.all())
        kwargs["lines"] = position_lines(ids, visible, Marks.of(self.config))
        given = kwargs.get("past_key_values")
        self._add_defaults(args, kwargs)
        cache = None if given is not None else kwargs.get("past_key_values")
        is_kept = kwargs.get("return_dict_in_generate") or self.generation_config.return_dict_in_generate
        generating: Any = super()
        with decoding(self, cache, bool(is_kept)):
            return generating.generate(ids, *args, **self._with_room(ids.shape[1], args, kwargs))

    def _add_defaults(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Add what a caller's own generation_config would say, where there is none."""
        if args or kwargs.get("generation_config") is not None:
            return
        kwargs.setdefault("disable_compile", True)  # keys that grow in each step would be compiled anew in each
        if kwargs.get("use_cache") is not False and kwargs.get("cache_implementation") is None:
            kwargs.setdefault("past_key_values", new_cache())
        for name in ("eos_token_id", "pad_token_id"):  # a directory's generation_config.json need not have them
            if getattr(self.generation_config, name) is None:
                kwargs.setdefault(name, getattr(self.config, name))

    def _with_room(self, length: int, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
        """Return the arguments of `generate` with room for one token at least after a prompt of `length`."""
        config = kwargs.get("generation_config") or (args[0] if args else None) or self.generation_config
        given = kwargs.get("max_length")
        limit = config.max_length if given is None else given
        unlimited = limit is None or (given is None and limit == GenerationConfig().max_length)
        if unlimited or limit > length or kwargs.get("max_new_tokens") or config.max_new_tokens:
            return kwargs
        warnings.warn(
            f"The prompt has {length} tokens, so max_length={limit} leaves room for a single one.", stacklevel=4
        )
        return {**kwargs, "max_length": length + 1, "min_length": 0}
