"""The Hugging Face network as a ChatModel, on the same engine as the SAT network."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from .chat_model import Answer, SatChatModel
from .description import UNNAMED, Description
from .engine import GenerationConfig
from .errors import VisualGLMError
from .kernels.linear import Called, Linear, bind_dense
from .prompt import Conversation
from .quantization.linear import bind_quantized


class HfNetwork:
    """A ChatGLMForConditionalGenerationWithImage with the properties that the engine asks for, see `Network`."""

    qkv_by_head = True  # as the rows of query_key_value lie in its checkpoints
    has_foreign_mixins = False  # it has none at all

    def __init__(self, model: Any) -> None:
        self.model = model
        self.heads: int = model.config.num_attention_heads

    @property
    def transformer(self) -> Any:
        return self.model.transformer

    @property
    def lm_head(self) -> nn.Module:
        return self.model.lm_head  # type: ignore[no-any-return]

    @property
    def image_part(self) -> nn.Module:
        return self.model.image_encoder  # type: ignore[no-any-return]

    @property
    def residual_scale(self) -> float:
        return self.transformer.layers[0].alpha  # type: ignore[no-any-return]

    @property
    def prefix(self) -> Sequence[torch.Tensor]:
        """Keys and values [2, H, P, head_dim] of P-tuning for each layer, which the tokens of every row see."""
        return self.transformer.prefix()  # type: ignore[no-any-return]

    @property
    def device(self) -> torch.device:
        return self.model.device  # type: ignore[no-any-return]

    @property
    def dtype(self) -> torch.dtype:
        return self.model.dtype  # type: ignore[no-any-return]

    @property
    def image_length(self) -> int:
        return self.model.image_length  # type: ignore[no-any-return]

    @property
    def image_size(self) -> int:
        return self.model.image_size  # type: ignore[no-any-return]

    @property
    def max_sequence_length(self) -> int:
        return self.model.max_sequence_length  # type: ignore[no-any-return]

    @property
    def vocabulary(self) -> int:
        return self.model.config.vocab_size  # type: ignore[no-any-return]

    def encode_image(self, pixels: torch.Tensor) -> torch.Tensor:
        """Return the image embeddings [B, L, D] of pixels [B, 3, S, S]."""
        return self.model.encode_image(pixels)  # type: ignore[no-any-return]

    def bind_linear(self, module: nn.Module) -> Linear:
        """Return how to call a linear layer."""
        if type(module) is nn.Linear:
            return bind_dense(module)
        return Called(module) if getattr(module, "weight_scale", None) is None else bind_quantized(module)

    def embed_tokens(self, token_ids: torch.Tensor) -> torch.Tensor:
        """Embed tokens [N]; return [N, D]."""
        return F.embedding(token_ids, self.transformer.word_embeddings.weight)

    def embed(self, token_ids: torch.Tensor, images: torch.Tensor | None, image_start: int) -> torch.Tensor:
        """Embed one prompt [1, T] whose picture, if any, has embeddings [1, L, D]; return [1, T, D]."""
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
        """Run the whole model, hooks and all, with the arguments and results of the SAT model. It has its own mask."""
        output = self.model(
            input_ids,
            position_ids=position_ids,
            image_embeds=image_embeddings,
            pre_image_length=pre_image,
            past_key_values=past_key_values[0] if past_key_values else None,
            use_cache=True,
        )
        return output.logits, {"past_key_values": output.past_key_values}


class HfChatModel:
    """The Hugging Face network as a ChatModel. Unlike on the SAT side, the penalty counts the prompt's tokens too.

    Args:
        network: a ChatGLMForConditionalGenerationWithImage.
        tokenizer: a ChatGLMTokenizer.
        rows, most_waiting, description, sampling: as of `SatChatModel`.
    """

    def __init__(
        self,
        network: Any,
        tokenizer: Any,
        *,
        rows: int | None = None,
        most_waiting: int | None = None,
        description: Description = UNNAMED,
        sampling: Mapping[str, Any] | None = None,
    ) -> None:
        self.network = network
        self.tokenizer = tokenizer
        self.sampling = dict(sampling or {})
        self.description = description
        self.engine = SatChatModel(
            HfNetwork(network), tokenizer, rows=rows, most_waiting=most_waiting, penalize_prompt=True
        )

    @property
    def image_size(self) -> int:
        """Side of the square image that the network sees, in pixels."""
        return self.engine.image_size

    def stream_answer(
        self, conversation: Conversation, question: str, config: GenerationConfig, *, pause_s: float = 0.0
    ) -> Answer:
        """Answer `question` about the conversation's picture, piece by piece; see `SatChatModel.stream_answer`."""
        return self.engine.stream_answer(conversation, question, config, pause_s=pause_s)

    def warm_up(self) -> None:
        """On a GPU, do what the first answer would have to wait for; see `SatChatModel.warm_up`."""
        self.engine.warm_up()

    def answer_batch(
        self, asked: Sequence[tuple[Conversation, str]], config: GenerationConfig, rows: int = 16
    ) -> list[str | VisualGLMError]:
        """Answer many questions side by side; see `SatChatModel.answer_batch`."""
        return self.engine.answer_batch(asked, config, rows)
