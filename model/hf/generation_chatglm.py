"""What transformers' generation needs to know of prompts with pictures and of two-dimensional positions."""

import warnings
from typing import Any

import torch
from transformers import GenerationConfig

from .cache_chatglm import new_cache
from .graph_chatglm import Rooms, decoding
from .layers_chatglm import stored_length
from .prefix_chatglm import Marks, image_starts, position_lines, token_positions, visible_tokens


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
        return self.image_encoder(images)  # type: ignore[no-any-return]

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
