"""VisualGLM as a transformers model: ChatGLM-6B with image embeddings in place of the prompt's placeholders.

    images [B, 3, S, S] --image_encoder--> [B, L, D] --+
    input_ids [B, T] --word_embeddings--> [B, T, D] ---+--> layers --> final_layernorm --lm_head--> logits [B, T, V]

Parameters have the names of the published checkpoints. Needs torch, transformers and the other exported modules.
"""

import stat
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
import transformers
from PIL import Image
from torch import nn
from transformers import BatchFeature, GenerationMixin, PreTrainedModel
from transformers.image_processing_utils import BaseImageProcessor
from transformers.modeling_outputs import BaseModelOutputWithPast, BaseModelOutputWithPooling, CausalLMOutputWithPast
from transformers.models.auto import modeling_auto

from ..errors import CheckpointError, SettingError
from ..images.preprocess import CLIP_MEAN, CLIP_STD, decode_base64, load_image, preprocess
from ..kernels.torch_ops import apply_rotary, quantize_layers, rotary_tables
from .chat_chatglm import ChatMixin
from .configuration_chatglm import ChatGLMConfig
from .generation_chatglm import GraphCache, decode_with_graph, new_cache
from .layers_chatglm import (
    GLMBlock,
    ImageEncoder,
    ImageStarts,
    PrefixEncoder,
    SpecialTokenIds,
    check_positions,
    context_lengths,
    decode_mask,
    image_starts,
    insert_images,
    prefill_mask,
    stored_length,
    token_positions,
    visible_tokens,
)


class ChatGLMPreTrainedModel(PreTrainedModel):
    """Settings of transformers that both networks below share."""

    config_class = ChatGLMConfig
    base_model_prefix = "transformer"  # checkpoint key
    main_input_name = "input_ids"
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _no_split_modules = ["GLMBlock", "ViTLayer", "QFormerLayer"]  # noqa: RUF012  as in transformers
    # Published files contain the rotary frequencies of each layer; here they are computed.
    _keys_to_ignore_on_load_unexpected = [r"rotary_emb\.inv_freq"]  # noqa: RUF012


class ChatGLMModel(ChatGLMPreTrainedModel):
    """The language model without its head: embeddings, layers, final LayerNorm."""

    def __init__(self, config: ChatGLMConfig) -> None:
        super().__init__(config)
        self.word_embeddings = nn.Embedding(config.vocab_size, config.hidden_size)  # checkpoint key
        self.layers = nn.ModuleList(
            [GLMBlock(config, layer_idx) for layer_idx in range(config.num_layers)]
        )  # checkpoint key
        self.final_layernorm = nn.LayerNorm(config.hidden_size, eps=config.layernorm_epsilon)  # checkpoint key
        self.prefix_encoder = PrefixEncoder(config) if config.pre_seq_len else None  # checkpoint key
        self.complete: list[ChatGLMForConditionalGenerationWithImage] = []  # a list: it is no submodule
        self.post_init()

    def prefix(self) -> tuple[torch.Tensor, ...]:
        """Return the keys and values [2, H, P, head_dim] of P-tuning for each layer; empty without P-tuning."""
        prefix: tuple[torch.Tensor, ...] = () if self.prefix_encoder is None else self.prefix_encoder()
        return prefix

    def get_input_embeddings(self) -> nn.Module:
        return self.word_embeddings

    def set_input_embeddings(self, value: nn.Embedding) -> None:
        self.word_embeddings = value

    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        past_key_values: Any = None,
        inputs_embeds: torch.Tensor | None = None,
        use_cache: bool | None = None,
        output_hidden_states: bool | None = None,
        mask: torch.Tensor | None = None,
        output_attentions: bool | None = None,
        pixel_values: torch.Tensor | None = None,
        return_dict: bool | None = None,
    ) -> BaseModelOutputWithPast | tuple[Any, ...]:
        """Return the hidden states [B, T, D] of token ids or of embedded tokens.

        Args:
            input_ids: [B, T], for libraries that call the model without its head; the complete model embeds tokens
                itself.
            position_ids: [B, 2, T], see `layers_chatglm`; computed from `input_ids` if absent.
            attention_mask: [B, S], with `input_ids`; 0 on padding, cached tokens included.
            past_key_values: a transformers cache, to which the keys and values of the new tokens are appended.
            inputs_embeds: [B, T, D], instead of `input_ids`; requires `position_ids`.
            use_cache: create a cache and return it.
            output_hidden_states: also return the input of each layer, and the final hidden states.
            mask: [B, 1, T, S], with `inputs_embeds`; True where a token attends to one of the S cached and new tokens;
                None for all.
            output_attentions: also return the attention weights [B, H, T, S] of each layer.
            pixel_values: with `input_ids`, as in the complete model, whose image encoder is used.

        Raises:
            ValueError: inconsistent inputs.
        """
        if input_ids is not None:
            if inputs_embeds is not None or mask is not None:
                raise ValueError("Give input_ids with attention_mask, or inputs_embeds with mask, not both.")
            inputs_embeds, starts = self.word_embeddings(input_ids), None
            if pixel_values is not None and self.complete and not stored_length(past_key_values):
                image_embeds, starts = self.complete[0].embed_pixel_values(input_ids, pixel_values)
                inputs_embeds = insert_images(inputs_embeds, image_embeds, starts)
            position_ids, mask = self.prepare_positions_and_mask(
                input_ids, position_ids, attention_mask, past_key_values, starts
            )
        if inputs_embeds is None or position_ids is None:
            raise ValueError("Give input_ids, or inputs_embeds with position_ids [B, 2, T].")
        if use_cache and past_key_values is None:
            past_key_values = new_cache()
        width = self.config.hidden_size // (2 * self.config.num_attention_heads)  # width of half a head
        positions = position_ids.to(inputs_embeds.device).transpose(1, 2)  # [B, T, 2]
        tables = rotary_tables(positions, width, inputs_embeds.dtype)  # [B, T, 2, width] each
        cos, sin = (table.flatten(2)[:, :, None, None] for table in tables)
        prefixes: tuple[torch.Tensor | None, ...] = self.prefix() or (None,) * len(self.layers)
        if mask is not None:
            mask = F.pad(mask, (self.config.pre_seq_len or 0, 0), value=True)
        x = inputs_embeds
        states, weights = [x], []
        for layer, prefix in zip(self.layers, prefixes, strict=True):
            layer_input = x
            x = layer(x, cos, sin, mask, past_key_values=past_key_values, prefix=prefix)
            if output_attentions:
                weights.append(attention_weights(layer, layer_input, cos, sin, mask, past_key_values, prefix))
            if output_hidden_states:
                states.append(x)
        x = self.final_layernorm(x)
        result = BaseModelOutputWithPast(
            last_hidden_state=x,
            past_key_values=past_key_values,
            hidden_states=(*states[:-1], x) if output_hidden_states else None,
            attentions=tuple(weights) if output_attentions else None,
        )
        return result.to_tuple() if return_dict is False else result

    def prepare_positions_and_mask(
        self,
        ids: torch.Tensor,
        position_ids: torch.Tensor | None,
        attention_mask: torch.Tensor | None,
        past_key_values: Any,
        starts: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Return the positions [B, 2, T] of tokens and the mask [B, 1, T, S] of `forward`.

        Args:
            ids: [B, T], complete sequences, or the tokens after a cached context.
            starts: [B], from `image_starts`; None without images.

        Raises:
            ValueError: inconsistent inputs.
        """
        if stored_length(past_key_values):
            return self._prepare_decode(ids, position_ids, attention_mask)
        special_ids = SpecialTokenIds.from_config(self.config)
        if starts is None:
            starts = image_starts(None, len(ids), ids.device)
        visible = visible_tokens(ids, attention_mask, starts, self.config.image_length, special_ids.pad)
        mask = prefill_mask(context_lengths(ids, special_ids.bos), visible)
        if position_ids is None:
            position_ids = token_positions(ids, visible, special_ids)
        return check_positions(position_ids), mask

    def _prepare_decode(
        self, ids: torch.Tensor, position_ids: torch.Tensor | None, attention_mask: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        if position_ids is None:
            raise ValueError(
                "After a cache, position_ids [B, 2, T] are required: they cannot be computed without the context."
            )
        check_positions(position_ids)
        if attention_mask is None and ids.shape[1] == 1:
            return position_ids, None
        if attention_mask is None:
            raise ValueError("Several tokens after a cache require an attention_mask [B, S] of all tokens.")
        return position_ids, decode_mask(attention_mask.bool(), ids.shape[1])


class ChatGLMForConditionalGenerationWithImage(  # public name
    ChatMixin, ChatGLMPreTrainedModel, GenerationMixin
):
    """The complete model. `chat` and `stream_chat` answer questions; `generate` offers all options of transformers.

    A prompt with an image is `<img>`, `image_length` placeholders (any id, since image embeddings replace them),
    `</img>问：...答：` and [gMASK] <sop>, as `build_prompt` encodes it.
    """

    def __init__(self, config: ChatGLMConfig) -> None:
        super().__init__(config)
        if config.eva_config is None or config.qformer_config is None:
            raise CheckpointError(
                "This is not a VisualGLM configuration: it lacks eva_config or qformer_config. "
                "Other models of the type 'chatglm', such as ChatGLM2-6B, need their own code."
            )
        self.transformer = ChatGLMModel(config)  # checkpoint key
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)  # checkpoint key
        self.image_encoder = ImageEncoder(
            config.eva_config, config.qformer_config, config.hidden_size
        )  # checkpoint key
        self.graph_cache = GraphCache()
        self.transformer.complete.append(self)
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        return self.transformer.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Embedding) -> None:
        self.transformer.word_embeddings = value

    def get_output_embeddings(self) -> nn.Module:
        return self.lm_head

    def set_output_embeddings(self, value: nn.Linear) -> None:
        self.lm_head = value

    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        images: torch.Tensor | None = None,
        pre_image_length: ImageStarts | None = None,
        past_key_values: Any = None,
        inputs_embeds: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        use_cache: bool | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
        image_embeds: torch.Tensor | None = None,
        logits_to_keep: int | torch.Tensor = 0,
        pixel_values: torch.Tensor | None = None,
    ) -> CausalLMOutputWithPast | tuple[Any, ...]:
        """Return logits [B, T, V], and the loss if there are labels.

        Args:
            input_ids: [B, T]; after a cache, only the new tokens.
            position_ids: [B, 2, T]; computed from complete sequences if absent.
            attention_mask: [B, S], 0 on padding, cached tokens included; if absent, leading pads are hidden.
            images: pixels [B or 1, 3, S, S]; alternatively `image_embeds` [B or 1, L, D].
            pre_image_length: number of tokens before the image, padding included: one for all sequences, or one each;
                negative for a sequence without an image.
            past_key_values: a transformers cache; it must hold the complete context, which is prefilled in one pass.
            inputs_embeds: [B, T, D], instead of the embeddings of `input_ids`, which are still required.
            labels: [B, T], the target ids, -100 for tokens without a loss. They are shifted here.
            use_cache: return the cache; by default, only outside of training.
            output_attentions, output_hidden_states: also return attention weights [B, H, T, S], or hidden states.
            image_embeds: image embeddings [B or 1, L, D], instead of `images`.
            logits_to_keep: number of last tokens to compute logits for, or their indices; 0 for all tokens.
            pixel_values: pixels [N, 3, S, S] of the N sequences that contain placeholders, as the processor returns
                them: without `pre_image_length`, because the placeholders are searched for.

        Raises:
            ValueError: inconsistent inputs.
        """
        if input_ids is None:
            raise ValueError("Give input_ids: image placeholders and positions are found with them.")
        if inputs_embeds is None and labels is None and not output_hidden_states and not output_attentions:
            logits = decode_with_graph(past_key_values, input_ids, position_ids, attention_mask)
            if logits is not None:
                return CausalLMOutputWithPast(logits=logits, past_key_values=past_key_values)
        if past_key_values is None and self._wants_cache(use_cache):
            past_key_values = new_cache()
        if inputs_embeds is None:
            inputs_embeds = self.transformer.word_embeddings(input_ids)
        starts = None
        if not stored_length(past_key_values):
            if pixel_values is not None and images is None and image_embeds is None:
                image_embeds, pre_image_length = self.embed_pixel_values(input_ids, pixel_values)
            starts = image_starts(pre_image_length, len(input_ids), input_ids.device)
            inputs_embeds = self._with_images(inputs_embeds, images, image_embeds, starts)
        position_ids, mask = self.transformer.prepare_positions_and_mask(
            input_ids, position_ids, attention_mask, past_key_values, starts
        )
        outputs = self.transformer(
            inputs_embeds=inputs_embeds,
            position_ids=position_ids,
            mask=mask,
            past_key_values=past_key_values,
            output_hidden_states=output_hidden_states,
            output_attentions=output_attentions,
        )
        kept = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep
        logits = self.lm_head(outputs.last_hidden_state[:, kept])
        result = CausalLMOutputWithPast(
            loss=None if labels is None else next_token_loss(logits, labels),
            logits=logits,
            past_key_values=past_key_values,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
        )
        return result.to_tuple() if return_dict is False else result

    def get_image_features(self, pixel_values: torch.Tensor, **kwargs: Any) -> Any:
        """Return the image embeddings [N, L, D]: a tensor with transformers 4, as `pooler_output` with 5 and later."""
        embeddings = self.encode_image(pixel_values)
        if transformers.__version__.startswith("4."):
            return embeddings
        output = BaseModelOutputWithPooling(pooler_output=embeddings)
        return output.to_tuple() if kwargs.get("return_dict") is False else output

    def embed_pixel_values(
        self, input_ids: torch.Tensor, pixel_values: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return image embeddings [B, L, D], zeros for sequences without placeholders, and the image starts [B].

        Raises:
            ValueError: the number of sequences with placeholders is not that of the images.
        """
        starts = find_placeholders(input_ids, self.config.image_length, self.config.pad_token_id)
        rows = (starts >= 0).nonzero()[:, 0]
        if len(rows) != len(pixel_values):
            raise ValueError(f"There are {len(pixel_values)} images, but image placeholders in {len(rows)} sequences.")
        embeddings = self.encode_image(pixel_values)
        if len(rows) < len(input_ids):
            complete = embeddings.new_zeros(len(input_ids), *embeddings.shape[1:])
            embeddings = complete.index_copy(0, rows.to(embeddings.device), embeddings)
        return embeddings, starts

    def _wants_cache(self, use_cache: bool | None) -> bool:
        return bool(self.config.use_cache) and not self.training if use_cache is None else use_cache

    def _with_images(
        self,
        embeddings: torch.Tensor,
        images: torch.Tensor | None,
        image_embeds: torch.Tensor | None,
        starts: torch.Tensor,
    ) -> torch.Tensor:
        if image_embeds is None and images is not None:
            image_embeds = self.encode_image(images)
        if image_embeds is None:
            return embeddings
        if bool((starts < 0).all()):
            raise ValueError("Images are given without pre_image_length, the number of tokens before each.")
        return insert_images(embeddings, image_embeds, starts)

    def quantize(self, bits: int, *args: Any, **kwargs: Any) -> "ChatGLMForConditionalGenerationWithImage":
        """Quantize the weights of the language model's layers to 8 or 4 bits, in place; return the model.

        Embeddings, head and image encoder keep their precision. If `bits` is 0, or the weights have this bit width
        already, nothing changes. Other arguments, which the published code has, are ignored.

        Raises:
            SettingError: `bits` is not 8, 4 or 0, or the weights are quantized with another bit width.
        """
        present = self.config.quantization_bit
        if bits not in (0, 4, 8):
            raise SettingError(f"Weights can have 4 or 8 bits, not {bits!r}.")
        if present and bits not in (0, present):
            raise SettingError(
                f"The weights already have {present} bits; load the model again to quantize it to {bits}."
            )
        if bits and not present:
            quantize_layers(self.transformer.layers, bits)
            self.config.quantization_bit = bits
        return self

    def save_pretrained(self, save_directory: Any, *args: Any, **kwargs: Any) -> None:
        """Save the model as transformers does; saving its configuration also exports the code of the model."""
        super().save_pretrained(save_directory, *args, **kwargs)
        if kwargs.get("is_main_process", True):
            # safetensors creates files with mode 0600; the configuration's mode follows the umask.
            mode = stat.S_IMODE((Path(save_directory) / "config.json").stat().st_mode)
            for path in Path(save_directory).glob("model*.safetensors"):
                # No chmod without need: file systems without modes reject it.
                if stat.S_IMODE(path.stat().st_mode) != mode:
                    path.chmod(mode)


def attention_weights(
    layer: Any,
    x: torch.Tensor,
    cos: torch.Tensor,
    sin: torch.Tensor,
    mask: torch.Tensor | None,
    cache: Any,
    prefix: torch.Tensor | None,
) -> torch.Tensor:
    """Compute the attention weights [B, H, T, S] of a layer again, after its forward pass; arguments as there."""
    attention = layer.attention
    qkv = attention.query_key_value(layer.input_layernorm(x)).unflatten(-1, (-1, 3, attention.head_dim))
    rotated = apply_rotary(qkv[..., :2, :], cos, sin)
    query, key = (one.transpose(1, 2) for one in rotated.unbind(-2))  # [B, H, T, head_dim]
    if cache is not None:
        key = cache.layers[attention.layer_idx].keys[:, :, : stored_length(cache, attention.layer_idx)]
    if prefix is not None:
        key = torch.cat((prefix[0].to(key.dtype).expand(len(key), -1, -1, -1), key), dim=2)
    scores = (query @ key.transpose(2, 3)).float() / attention.head_dim**0.5
    if mask is not None:
        scores = scores.masked_fill(~mask, -torch.inf)
    weights: torch.Tensor = scores.softmax(dim=-1).to(x.dtype)
    return weights


def find_placeholders(ids: torch.Tensor, image_length: int, pad: int) -> torch.Tensor:
    """Return [B], the index of the first image placeholder of each sequence ids [B, T]; -1 without an image.

    Placeholders are `image_length` pads between other tokens; padding is at an end of the sequence.
    """
    is_pad = ids == pad
    if ids.shape[1] < image_length + 2:
        return ids.new_full((len(ids),), -1)
    inside = is_pad[:, 1:-1].unfold(1, image_length, 1).all(dim=-1)  # [B, T - image_length - 1]
    found = inside & ~is_pad[:, : inside.shape[1]] & ~is_pad[:, image_length + 1 :]
    return (found.int().argmax(dim=-1) + 1).where(found.any(dim=-1), -1)


def next_token_loss(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Return the cross-entropy, in float32, of the logits [B, T, V] and the labels [B, T] shifted by one token."""
    labels = labels.to(logits.device)
    return F.cross_entropy(logits[:, :-1].float().flatten(0, 1), labels[:, 1:].flatten(), ignore_index=-100)


def open_image(source: Any) -> Image.Image:
    """Return the RGB image of a path, URL, data URL, PIL image, or array or tensor [H, W, 3] or [3, H, W]."""
    if isinstance(source, str) and source.startswith("data:"):
        return decode_base64(source)
    if isinstance(source, np.ndarray | torch.Tensor):
        array = np.asarray(source)
        array = array.transpose(1, 2, 0) if array.shape[0] in (1, 3) else array
        values = (
            array if array.dtype == np.uint8 else (array * 255 if array.max() <= 1 else array).round().astype("uint8")
        )
        source = Image.fromarray(values.squeeze())
    return load_image(source)


class ChatGLMImageProcessor(BaseImageProcessor):  # public name
    """Converts images to pixels exactly as `chat` does."""

    model_input_names = ["pixel_values"]  # noqa: RUF012  as in transformers

    def __init__(
        self,
        size: Mapping[str, int] | None = None,
        image_mean: Sequence[float] = CLIP_MEAN,
        image_std: Sequence[float] = CLIP_STD,
        **kwargs: Any,
    ) -> None:
        """Store the entries of preprocessor_config.json: `size` is {"height": S, "width": S}."""
        super().__init__(**kwargs)
        self.size = dict(size or {"height": 224, "width": 224})
        self.image_mean, self.image_std = list(image_mean), list(image_std)

    def __call__(self, images: Any, **kwargs: Any) -> BatchFeature:
        return self.preprocess(images, **kwargs)

    def preprocess(self, images: Any, return_tensors: Any = None, **kwargs: Any) -> BatchFeature:
        """Return `pixel_values` [N, 3, S, S] of an image or a list of images, as `open_image` accepts them."""
        sources = images if isinstance(images, list | tuple) else [images]
        opened = [open_image(source) for source in sources]
        side = int(self.size["height"])
        pixels = torch.stack([preprocess(one, side, mean=self.image_mean, std=self.image_std) for one in opened])
        return BatchFeature({"pixel_values": pixels if return_tensors in (None, "pt") else pixels.numpy()})


# `transformers serve` asks this list whether a model takes images; transformers 4 has none.
if hasattr(modeling_auto, "MODEL_FOR_MULTIMODAL_LM_MAPPING_NAMES"):
    modeling_auto.MODEL_FOR_MULTIMODAL_LM_MAPPING_NAMES.setdefault(
        ChatGLMConfig.model_type, ChatGLMForConditionalGenerationWithImage.__name__
    )
