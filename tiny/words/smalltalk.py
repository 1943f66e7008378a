"""What people say that is not about a picture, and the replies."""

from tiny.words.en_smalltalk import EN_TOPICS
from tiny.words.topic import Topic
from tiny.words.vocabulary import Language
from tiny.words.zh_smalltalk import ZH_TOPICS


def topics_of(language: Language) -> dict[str, Topic]:
    """Every topic of small talk by its name; the names are the same in both languages."""
    return ZH_TOPICS if language == "zh" else EN_TOPICS
