"""Words a question with random variation: template, names of things, and writing style."""

from tiny.words.sentences import Language, Rng, expand, pick, templates_of
from visualglm.scenes.vocabulary import NOUNS, add_article, make_plural, names_of

ALIAS_RATE = 0.25  # share of questions that use a synonym of a kind
SHORT_COLOR_RATE = 0.25  # share of Chinese questions that say 红球 or 红的球 instead of 红色的球
LATE_COLOR_RATE = 0.04  # share of English questions that say "the ball that is red"
GENERIC_MEASURE_RATE = 0.12  # share of questions that use 个 instead of the proper measure word
CARELESS_RATE = 0.25  # threshold below which punctuation is dropped
POLITE_RATE = 0.4  # threshold below which politeness is added
OTHER_COLOR_RATE = 0.1  # share of questions that use a synonym of a color, if it has one
OTHER_REGION_RATE = 0.6  # share of questions that sample among all names of a region or side
PERIODS = {"zh": "？?。.！!", "en": "?.!"}
POLITE = ("请", "你", "能", "告诉", "麻烦", "帮", "可以", "我", "说", "看")

ZH_THINGS = ("物体", "东西", "物体", "东西", "物品")
EN_THINGS = ("thing", "object", "item")


def word_question(rng: Rng, language: Language, topic: str, **fields: str) -> str:
    """Return a question on a topic, with the fields of its template filled in."""
    return vary_style(expand(rng, language, pick(rng, templates_of(language)[topic]), fields), rng, language)


def name_fields(rng: Rng, language: Language, kind: str | None, color: str | None = None) -> dict[str, str]:
    """Return the template fields of a thing; without a kind, of anything of that color."""
    return (_name_chinese if language == "zh" else _name_english)(rng, kind, color)


def other_fields(rng: Rng, language: Language, kind: str, color: str | None = None) -> dict[str, str]:
    """Return the template fields of the second thing of a question."""
    fields = name_fields(rng, language, kind, color)
    return {"other": fields["name"], "other_measure": fields.get("measure", "")}


def region_field(rng: Rng, language: Language, region: str) -> dict[str, str]:
    """Return {place}: 左上角 | in the top left corner, or another name of the region."""
    return {"place": _pick_region(rng, names_of(language, "regions", region))}


def side_field(rng: Rng, language: Language, side: str) -> dict[str, str]:
    """Return {side}: 左边 | to the left of, or another name of the side."""
    return {"side": _pick_region(rng, names_of(language, "sides", side))}


def _pick_region(rng: Rng, names: list[str]) -> str:
    return pick(rng, names) if rng.random() < OTHER_REGION_RATE else names[0]


def color_field(rng: Rng, language: Language, color: str) -> dict[str, str]:
    """Return {colour}: 红色 | red."""
    return {"colour": _pick_color(rng, language, color)}


def way_fields(rng: Rng, language: Language, way: str) -> dict[str, str]:
    """Return {more} and {most} for "larger" or "smaller": 大 | bigger, biggest"""
    if language == "zh":
        word = "大" if way == "larger" else "小"
        return {"more": word, "most": word}
    word = "small" if way == "smaller" else pick(rng, ("larg", "bigg"))
    return {"more": f"{word}er", "most": f"{word}est"}


def _pick_color(rng: Rng, language: Language, color: str) -> str:
    name, *others = names_of(language, "colours", color)
    return others[0] if others and rng.random() < OTHER_COLOR_RATE else name


def _name_chinese(rng: Rng, kind: str | None, color: str | None) -> dict[str, str]:
    if kind is None:
        noun, measure = pick(rng, ZH_THINGS), "个"
    else:
        others = NOUNS[kind].zh_others
        noun = pick(rng, others) if rng.random() < ALIAS_RATE else NOUNS[kind].zh
        measure = "个" if rng.random() < GENERIC_MEASURE_RATE else NOUNS[kind].measure
    name = noun
    if color is not None:
        full = _pick_color(rng, "zh", color)
        name = f"{full}的{noun}"
        if rng.random() < SHORT_COLOR_RATE:
            short = pick(rng, ("{}的{}", "{}色{}", "{}色{}", "{}的{}" if kind is None else "{}{}"))
            name = short.format(full[0], noun)
    return {"name": name, "measure": measure, "one": f"一{measure}{name}", "kinds": name, "any": name}


def _name_english(rng: Rng, kind: str | None, color: str | None) -> dict[str, str]:
    word = None if color is None else _pick_color(rng, "en", color)
    if kind is None:
        name = f"{word} {pick(rng, EN_THINGS)}"
        one = pick(rng, (f"anything {word}", f"something {word}", add_article(name)))
        return {"name": name, "one": one, "kinds": f"{name}s", "any": f"{name}s"}
    noun, plural = NOUNS[kind].en, NOUNS[kind].plural
    if NOUNS[kind].en_others and rng.random() < ALIAS_RATE:
        noun = pick(rng, NOUNS[kind].en_others)
        plural = make_plural(noun)
    if word is None:
        return {"name": noun, "one": add_article(noun), "kinds": plural, "any": plural}
    name, kinds = f"{word} {noun}", f"{word} {plural}"
    one = add_article(name)
    if rng.random() < LATE_COLOR_RATE:
        name, one, kinds = f"{noun} that is {word}", f"{add_article(noun)} that is {word}", f"{plural} that are {word}"
    return {"name": name, "one": one, "kinds": kinds, "any": kinds}


def vary_style(question: str, rng: Rng, language: Language, polite: bool = True) -> str:
    """Vary a question: lower case, missing punctuation or, if `polite`, polite phrases."""
    chance = rng.random()
    if not polite and CARELESS_RATE < chance < POLITE_RATE:
        return question
    return (_vary_chinese if language == "zh" else _vary_english)(question, chance)


def _vary_chinese(question: str, chance: float) -> str:
    if chance < 0.1:
        return question.replace("？", "?").replace("。", "").replace("，", ",")
    if chance < 0.25:
        return question.rstrip(PERIODS["zh"])
    if chance < 0.33 and question.endswith("？") and not question.startswith(POLITE):
        return f"请问{question}"
    if chance < 0.36 and question.endswith("？") and not question.startswith(POLITE):
        return f"请问，{question}"
    if chance < 0.38 and question.endswith("。"):
        return f"{question[:-1]}，谢谢。" if chance < 0.37 else question.replace("。", "！")
    return question


def _vary_english(question: str, chance: float) -> str:
    end = question[-1] if question[-1] in PERIODS["en"] else ""
    if chance < 0.08:
        return question[0].lower() + question[1:]
    if chance < 0.16:
        return question.rstrip(PERIODS["en"])
    if chance < 0.26:
        return question[0].lower() + question[1:].rstrip(PERIODS["en"])
    if chance < 0.29 and end and "lease" not in question:
        return f"{question[:-1]}, please{end}"
    if chance < 0.31 and end and "lease" not in question and not question.startswith("I"):
        return f"Please, {question[0].lower()}{question[1:]}"
    return question
