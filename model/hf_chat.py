"""Run the Hugging Face network as a ChatModel, on the same engine as the SAT network."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import nn

from .aliases import former_keywords
from .chat_model import NetworkChatModel
from .description import UNNAMED, Description
from .kernels.linear import Linear, LinearAdapter, bind_dense
from .prompt import Tokenizer
from .quantization.quantize import bind_quantized

if TYPE_CHECKING:
    from .hf.modeling_chatglm import ChatGLMForConditionalGenerationWithImage


class HfNetwork:
    """Adapter of the Hugging Face network to the engine's `Network` protocol."""

    qkv_interleaved = True  # the row order of query_key_value in Hugging Face checkpoints
    has_foreign_mixins = False  # only SAT networks have mixins

    def __init__(self, model: "ChatGLMForConditionalGenerationWithImage") -> None:
        self.model = model
        self.num_heads: int = model.config.num_attention_heads

    @property
    def transformer(self) -> Any:
        return self.model.transformer

    @property
    def lm_head(self) -> nn.Module:
        return self.model.lm_head

    @property
    def vision_encoder(self) -> nn.Module:
        encoder: nn.Module = self.model.image_encoder
        return encoder

    @property
    def residual_scale(self) -> float:
        return float(self.transformer.layers[0].alpha)

    @property
    def prefix(self) -> Sequence[torch.Tensor]:
        """P-tuning keys and values [2, H, P, head_dim] of each layer, which every sequence attends to."""
        return self.model.transformer.prefix()

    @property
    def device(self) -> torch.device:
        device: torch.device = self.model.device
        return device

    @property
    def dtype(self) -> torch.dtype:
        dtype: torch.dtype = self.model.dtype
        return dtype

    @property
    def image_length(self) -> int:
        return self.model.image_length

    @property
    def image_size(self) -> int:
        return self.model.image_size

    @property
    def max_sequence_length(self) -> int:
        return self.model.max_sequence_length

    @property
    def vocab_size(self) -> int:
        return int(self.model.config.vocab_size)

    def encode_image(self, pixels: torch.Tensor) -> torch.Tensor:
        """Return the image embeddings [B, L, D] of pixels [B, 3, S, S]."""
        return self.model.encode_image(pixels)

    def bind_linear(self, module: nn.Module) -> Linear:
        """Return a function that computes a linear layer."""
        if type(module) is nn.Linear:
            return bind_dense(module)
        return LinearAdapter(module) if getattr(module, "weight_scale", None) is None else bind_quantized(module)

    def embed_tokens(self, token_ids: torch.Tensor) -> torch.Tensor:
        """Embed tokens [N]; return [N, D]."""
        return F.embedding(token_ids, self.transformer.word_embeddings.weight)

    def embed(self, token_ids: torch.Tensor, images: torch.Tensor | None, image_start: int) -> torch.Tensor:
        """Embed one prompt [1, T] and insert its image embeddings [1, L, D], if any; return [1, T, D]."""
        embeddings = self.embed_tokens(token_ids)
        if images is not None:
            embeddings[:, image_start : image_start + images.shape[1]] = images
        return embeddings

    def __call__(
        self,
        input_ids: torch.Tensor,
        position_ids: torch.Tensor,
        attention_mask: torch.Tensor,
        image_embeddings: torch.Tensor | None = None,
        pre_image: int | None = None,
        past_key_values: Sequence[Any] = (),
    ) -> tuple[Any, ...]:
        """Run the complete model with all its hooks, with the arguments and results of the SAT model.

        `attention_mask` is ignored: the Hugging Face network builds its own prefix mask.
        """
        output = self.model(
            input_ids,
            position_ids=position_ids,
            image_embeds=image_embeddings,
            pre_image_length=pre_image,
            past_key_values=past_key_values[0] if past_key_values else None,
            use_cache=True,
        )
        return output.logits, {"past_key_values": output.past_key_values}


class HfChatModel(NetworkChatModel):  # public name
    """The Hugging Face network as a ChatModel; the repetition penalty includes the prompt, unlike on the SAT side.

    Args:
        network: a ChatGLMForConditionalGenerationWithImage.
        tokenizer, max_batch_size, max_queue_size, description, sampling: see `NetworkChatModel`.
    """

    @former_keywords(rows="max_batch_size", most_waiting="max_queue_size")
    def __init__(
        self,
        network: "ChatGLMForConditionalGenerationWithImage",
        tokenizer: Tokenizer,
        *,
        max_batch_size: int | None = None,
        max_queue_size: int | None = None,
        description: Description = UNNAMED,
        sampling: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(
            HfNetwork(network),
            tokenizer,
            max_batch_size=max_batch_size,
            max_queue_size=max_queue_size,
            penalize_prompt=True,
            description=description,
            sampling=sampling,
        )
        self.network = network
