"""PageInfo: the model, settings and limits that the server sends to the client."""

from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from model import CHINESE, ENGLISH, ChatModel, GenerationConfig, Language
from model.command_line import make_printable
from model.model_facts import ModelFacts

from .examples import EXAMPLES, choose_suggestions
from .images import LIMITS
from .schemas import MAX_ANSWER, MAX_QUESTION, MAX_TURNS
from .settings import describe_settings

LANGUAGES: tuple[Language, ...] = (CHINESE, ENGLISH)


def read_version() -> str:
    """Return the version of the installed project; "" if it runs from a checkout that is not installed."""
    try:
        return version("visualglm")
    except PackageNotFoundError:
        return ""


def model_facts(model: ChatModel) -> ModelFacts:
    """Return the facts about a model; unknown ones if it has no attribute `facts`."""
    facts = getattr(model, "facts", None)
    return facts if isinstance(facts, ModelFacts) else ModelFacts()


def model_info(model: ChatModel) -> dict[str, Any]:
    """Return the model's name, training domain, size and placement."""
    facts, description = model_facts(model), model.description
    return {
        "name": make_printable(description.name),
        "description": by_code({item: make_printable(description.knowledge.get(item.code, "")) for item in LANGUAGES}),
        "parameters": facts.parameters,
        "image_size": model.image_size,
        "device": facts.device,
        "dtype": facts.dtype,
        "quantization": None if facts.quantized_bits is None else f"{facts.quantized_bits}-bit",
    }


def model_names(models: Sequence[ChatModel]) -> list[str]:
    """Return the name of each model; models of the same name are distinguished by their quantization."""
    names = [make_printable(model.description.name) for model in models]
    if len(set(names)) == len(names):
        return names
    described = [model_info(model) for model in models]
    return [
        f"{item['name']} ({item['quantization'] or item['dtype'] or number})"
        for number, item in enumerate(described, 1)
    ]


def by_code(values: dict[Language, Any]) -> dict[str, Any]:
    """Return a dictionary by language code."""
    return {language.code: value for language, value in values.items()}


def make_page_info(models: Sequence[ChatModel], config: GenerationConfig, features: dict[str, bool]) -> dict[str, Any]:
    """Return the page's PageInfo, without the visitor's name.

    Args:
        models: the model, and the one that it is compared with, if any.
        config: defaults of the settings.
        features: which optional parts of the page are enabled.
    """
    return {
        "version": read_version(),
        "user": None,
        "model": model_info(models[0]),
        "models": model_names(models),
        "settings": describe_settings(config),
        "limits": {
            "question": MAX_QUESTION,
            "image_bytes": LIMITS.max_bytes,
            "turns": MAX_TURNS,
            "answer": MAX_ANSWER,
        },
        "examples": [
            {
                "image": f"page/examples/{example.name}",
                "preview": f"page/examples/{example.preview_name}",
                "questions": by_code(example.questions),
                "title": by_code(example.title),
            }
            for example in EXAMPLES
        ],
        "suggestions": by_code(choose_suggestions(models[0].description)),
        "features": features,
    }
