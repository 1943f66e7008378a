"""Parameters of chat completions that this server does not support: only values without effect are accepted.

Clients and load generators for other servers send many of these parameters with their default values.
"""

from collections.abc import Mapping, Sequence

from .api_errors import ApiError
from .schemas import CompletionRequest

Values = Mapping[str, Sequence[object]]  # parameter -> values without effect; null has no effect for any parameter

NO_OP_VALUES: Values = {
    # OpenAI
    "audio": (),
    "frequency_penalty": (0,),
    "function_call": ("none", "auto"),
    "functions": ([],),
    "logit_bias": ({},),
    "modalities": (["text"],),
    "prediction": (),
    "presence_penalty": (0,),
    "reasoning_effort": ("none",),
    "response_format": ({"type": "text"},),
    "service_tier": ("auto", "default"),
    "store": (False,),
    "tool_choice": ("none", "auto"),
    "tools": ([],),
    "web_search_options": (),
    # other servers, sampling
    "bad_words": ([],),
    "best_of": (1,),
    "do_sample": (True,),
    "dry_multiplier": (0,),
    "early_stopping": (False,),
    "ignore_eos": (False,),
    "length_penalty": (1,),
    "min_p": (0,),
    "min_tokens": (0,),
    "mirostat": (0,),
    "no_repeat_ngram_size": (0,),
    "num_beams": (1,),
    "stop_token_ids": ([],),
    "tfs_z": (1,),
    "top_a": (0,),
    "typical_p": (1,),
    "use_beam_search": (False,),
    "xtc_probability": (0,),
    # other servers, prompts and responses
    "add_generation_prompt": (True,),
    "add_special_tokens": (False,),
    "allowed_token_ids": (),
    "chat_template": (),
    "chat_template_kwargs": ({}, {"enable_thinking": False}),
    "continue_final_message": (False,),
    "continuous_usage_stats": (False,),
    "documents": ([],),
    "echo": (False,),
    "enable_thinking": (False,),
    "include_reasoning": (False, True),
    "include_stop_str_in_output": (False,),
    "mm_processor_kwargs": ({},),
    "priority": (0,),
    "prompt_logprobs": (0,),
    "return_token_ids": (False,),
    "return_tokens_as_token_ids": (False,),
    "separate_reasoning": (False, True),
    "skip_special_tokens": (True,),
    "spaces_between_special_tokens": (True, False),
    "thinking": ({"type": "disabled"},),
    "truncate_prompt_tokens": (),
}
# Ignored with any value, because they do not change the answer.
IGNORED_FIELDS = (
    "cache_prompt",
    "cache_salt",
    "metadata",
    "parallel_tool_calls",
    "prompt_cache_key",
    "prompt_cache_retention",
    "request_id",
    "safety_identifier",
)
MESSAGE_NO_OP_VALUES: Values = {
    "annotations": ([],),
    "audio": (),
    "function_call": (),
    "prefix": (False,),
    "refusal": (),
    "tool_calls": ([],),
    "type": ("message",),
}
# Fields that other servers add to an answer, and that clients send back with the next question.
MESSAGE_IGNORED_FIELDS = (
    "id",
    "name",
    "provider_specific_fields",
    "reasoning",
    "reasoning_content",
    "reasoning_details",
    "status",
)
STREAM_NO_OP_VALUES: Values = {"include_obfuscation": (False, True)}


def check_parameters(body: CompletionRequest) -> None:
    """Reject parameters that would change the answer but are not supported.

    Raises:
        ApiError: 400; the message names the parameter.
    """
    _check_extra(body.model_extra, NO_OP_VALUES, IGNORED_FIELDS, "")
    for number, message in enumerate(body.messages):
        _check_extra(message.model_extra, MESSAGE_NO_OP_VALUES, MESSAGE_IGNORED_FIELDS, f"messages.{number}.")
    if body.stream_options is not None:
        _check_extra(body.stream_options.model_extra, STREAM_NO_OP_VALUES, (), "stream_options.")
        if not body.stream and body.stream_options.include_usage:
            reason = "stream_options requires stream. Leave it out, or set stream."
            raise ApiError(400, reason, code="invalid_value", param="stream_options")
    if body.top_logprobs and not body.logprobs:
        reason = "top_logprobs requires logprobs. Leave it out, or set logprobs."
        raise ApiError(400, reason, code="invalid_value", param="top_logprobs")
    if body.max_tokens and body.max_completion_tokens and body.max_tokens != body.max_completion_tokens:
        reason = "max_tokens and max_completion_tokens differ. Give one of them."
        raise ApiError(400, reason, code="invalid_value", param="max_tokens")


def _check_extra(extra: Mapping[str, object] | None, no_op: Values, ignored: Sequence[str], where: str) -> None:
    for name, value in (extra or {}).items():
        if value is None or name in ignored or any(_equal(value, allowed) for allowed in no_op.get(name, ())):
            continue
        shown = where + name[:100]
        reason = "is not supported by this model" if name in no_op else "is unknown"
        raise ApiError(400, f"{shown} {reason}. Leave it out.", code="unsupported_parameter", param=shown)


def _equal(value: object, allowed: object) -> bool:
    """Return whether two JSON values are equal; unlike in Python, false does not equal 0."""
    numbers = isinstance(value, int | float) and isinstance(allowed, int | float)
    return value == allowed and (isinstance(value, bool) is isinstance(allowed, bool) or not numbers)
