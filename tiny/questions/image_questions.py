"""One function per kind of question about the things of a scene; `sample_example` chooses among them."""

from tiny.questions import choices
from tiny.words.phrasing import (
    color_field,
    name_fields,
    other_fields,
    region_field,
    side_field,
    way_fields,
    word_question,
)
from tiny.words.sentences import Language, Rng, pick
from visualglm.scenes import REGIONS, Scene, Thing, region_of
from visualglm.scenes.answers import describe_briefly, describe_in_detail, describe_plainly, word_absence, word_answer
from visualglm.scenes.facts import Example, Facts, answer_facts
from visualglm.scenes.relations import OPPOSITES, are_confusable, find_extreme

STYLES = {"describe": describe_plainly, "describe_detail": describe_in_detail, "describe_short": describe_briefly}
STYLE_ENDS = (0.45, 0.8, 1.0)  # cumulative shares of the styles
REGION_RATE = 0.25  # share of "objects" questions about one region
EMPTY_RATE = 0.33  # share of the questions about one region that are about an empty one
EXTREMES = {"larger": "largest", "smaller": "smallest"}
OCCUPIED_RATE = 0.8  # probability that a "relation" question is restricted to occupied sides, if there are any


def answer(name: str, language: Language, question: str, query: Facts, scene: Scene) -> Example:
    """Return the question as an example with its answer.

    Raises:
        ValueError: the answer is ambiguous in this scene.
    """
    facts = answer_facts(query, scene)
    if facts is None:
        raise ValueError(f"{question!r} has no unique answer in {scene.to_json()}.")
    return Example(name, language, (), question, word_answer(language, facts), facts)


def ask_describe(scene: Scene, rng: Rng, language: Language) -> Example:
    """Ask for a description; the wording requests one of three styles."""
    chance = rng.random()
    topic = next(name for name, end in zip(STYLES, STYLE_ENDS, strict=True) if chance < end)
    return describe_as(topic, scene, rng, language)


def describe_as(topic: str, scene: Scene, rng: Rng, language: Language) -> Example:
    """Return a description in one of the STYLES."""
    facts = answer_facts(Facts("things"), scene)
    assert facts is not None
    question = word_question(rng, language, topic)
    return Example("describe", language, (), question, STYLES[topic](language, facts), facts)


def ask_objects(scene: Scene, rng: Rng, language: Language) -> Example:
    """Ask for the things in the image, or in one region."""
    if rng.random() >= REGION_RATE:
        return answer("objects", language, word_question(rng, language, "objects"), Facts("things"), scene)
    full, empty = choices.list_regions(scene)
    region = pick(rng, full if full and (not empty or rng.random() >= EMPTY_RATE) else empty)
    question = word_question(rng, language, "region", **region_field(rng, language, region))
    return answer("objects", language, question, Facts("things", region=region), scene)


def ask_color(scene: Scene, rng: Rng, language: Language) -> Example:
    """Ask for the color of the only thing of its kind, or in a region."""
    chance = rng.random()
    if chance < 0.13:
        occupied = [region_of(thing) for thing in scene.things]
        full = [region for region in choices.list_regions(scene)[0] if occupied.count(region) == 1]
        if full:
            region = pick(rng, full)
            question = word_question(rng, language, "region_colour", **region_field(rng, language, region))
            return answer("colour", language, question, Facts("colour", region=region), scene)
    thing = pick(rng, choices.list_unique(scene))
    if chance < 0.25:
        return _claim_color(scene, rng, language, thing)
    return ask_color_of(scene, rng, language, thing.kind)


def ask_color_of(scene: Scene, rng: Rng, language: Language, kind: str) -> Example:
    """Ask for the color of the only thing of that kind."""
    question = word_question(rng, language, "colour", **name_fields(rng, language, kind))
    return answer("colour", language, question, Facts("colour", kind=kind), scene)


def _claim_color(scene: Scene, rng: Rng, language: Language, thing: Thing) -> Example:
    """Ask whether the thing has a claimed color."""
    claim = thing.color if rng.random() < 0.5 else choices.pick_other_color(rng, scene, thing)
    fields = {**name_fields(rng, language, thing.kind), **color_field(rng, language, claim)}
    question = word_question(rng, language, "claim_colour", **fields)
    return answer("colour", language, question, Facts("colour", kind=thing.kind, claim=claim), scene)


def ask_where(scene: Scene, rng: Rng, language: Language) -> Example:
    """Ask for the region of a thing, named by kind, color, or both."""
    chance, alone = rng.random(), choices.list_unique_colors(scene)
    if chance < 0.07 and alone:
        color = pick(rng, alone).color
        question = word_question(rng, language, "where", **name_fields(rng, language, None, color))
        return answer("where", language, question, Facts("where", color=color), scene)
    kind, named = choices.sample_name(rng, scene, thing := pick(rng, scene.things), 0.4)
    if chance < 0.17:
        return _claim_where(scene, rng, language, thing, named)
    return ask_where_of(scene, rng, language, kind, named)


def ask_where_of(scene: Scene, rng: Rng, language: Language, kind: str, color: str | None) -> Example:
    """Ask for the region of the only thing of that kind and color."""
    question = word_question(rng, language, "where", **name_fields(rng, language, kind, color))
    return answer("where", language, question, Facts("where", kind=kind, color=color), scene)


def _claim_where(scene: Scene, rng: Rng, language: Language, thing: Thing, color: str | None) -> Example:
    """Ask whether the thing is in a claimed region."""
    true = region_of(thing)
    wrong = [region for region in REGIONS if region != true and not are_confusable(region, true)]
    claim = true if rng.random() < 0.5 else pick(rng, wrong)
    fields = {**name_fields(rng, language, thing.kind, color), **region_field(rng, language, claim)}
    question = word_question(rng, language, "claim_where", **fields)
    return answer("where", language, question, Facts("where", kind=thing.kind, color=color, claim=claim), scene)


def ask_count(scene: Scene, rng: Rng, language: Language) -> Example:
    """Ask how many things there are: in all, of a kind, of a color, or of both."""
    chance = rng.random()
    if chance < 0.4:
        return answer("count", language, word_question(rng, language, "count_all"), Facts("count"), scene)
    thing, there = pick(rng, scene.things), rng.random() < 0.75
    if chance < 0.75:
        return ask_count_of(scene, rng, language, thing.kind if there else choices.pick_missing_kind(rng, scene), None)
    if chance < 0.92:
        color = thing.color if there else choices.pick_missing_color(rng, scene)
        return ask_count_of(scene, rng, language, None, color)
    color = thing.color if there else choices.pick_other_color(rng, scene, thing)
    return ask_count_of(scene, rng, language, thing.kind, color)


def ask_count_of(scene: Scene, rng: Rng, language: Language, kind: str | None, color: str | None) -> Example:
    """Ask how many things there are of that kind and color."""
    question = word_question(rng, language, "count_kind", **name_fields(rng, language, kind, color))
    return answer("count", language, question, Facts("count", kind=kind, color=color), scene)


def ask_exists(scene: Scene, rng: Rng, language: Language) -> Example:
    """Ask whether there is a thing of a kind, color, or both; half of the answers are yes."""
    there, chance = rng.random() < 0.5, rng.random()
    if chance < 0.2:
        color = pick(rng, scene.things).color if there else choices.pick_missing_color(rng, scene)
        return ask_existence(scene, rng, language, None, color)
    if not there:
        return ask_existence(scene, rng, language, *choices.pick_missing_name(rng, scene))
    thing = pick(rng, scene.things)
    return ask_existence(scene, rng, language, thing.kind, thing.color if chance < 0.6 else None)


def ask_existence(scene: Scene, rng: Rng, language: Language, kind: str | None, color: str | None) -> Example:
    """Ask whether there is a thing of that kind and color."""
    question = word_question(rng, language, "exists", **name_fields(rng, language, kind, color))
    return answer("exists", language, question, Facts("exists", kind=kind, color=color), scene)


def ask_absent(scene: Scene, rng: Rng, language: Language) -> Example:
    """Ask a question that presupposes an absent thing; the answer says that it is absent."""
    kind, color = choices.pick_missing_name(rng, scene)
    chance = rng.random()
    fields = name_fields(rng, language, kind, color)
    if chance < 0.2:
        topic, fields = "relation", other_fields(rng, language, kind, color)
        fields |= side_field(rng, language, pick(rng, ("left", "right", "above", "below")))
    elif chance < 0.35:
        topic = pick(rng, ("which", "whether"))
        fields |= way_fields(rng, language, pick(rng, ("larger", "smaller")))
        there = other_fields(rng, language, *choices.sample_name(rng, scene, pick(rng, scene.things)))
        fields |= there
        if rng.random() < 0.5:
            fields["name"], fields["other"] = fields["other"], fields["name"]
    else:
        topic = "where" if color or chance < 0.65 else "colour"
    question = word_question(rng, language, topic, **fields)
    facts = Facts("exists", False, kind, color)
    return Example("absent", language, (), question, word_absence(language, kind, color), facts)


def ask_larger(scene: Scene, rng: Rng, language: Language) -> Example:
    """Ask which of two things is larger or smaller, whether one is, or which is the largest or smallest."""
    chance, way = rng.random(), pick(rng, tuple(EXTREMES))
    if chance < 0.27 and find_extreme(scene.things, EXTREMES[way]):
        question = word_question(rng, language, "extreme", **way_fields(rng, language, way))
        return answer("larger", language, question, Facts("extreme", way=EXTREMES[way]), scene)
    pair = pick(rng, choices.list_size_pairs(scene))
    one, other = pair if rng.random() < 0.5 else pair[::-1]
    return ask_larger_of(scene, rng, language, one, other, way, chance < 0.55)


def ask_larger_of(
    scene: Scene, rng: Rng, language: Language, one: Thing, other: Thing, way: str, whether: bool
) -> Example:
    """Ask which of the two is larger or smaller, or whether the first one is."""
    name, second = choices.sample_name(rng, scene, one), choices.sample_name(rng, scene, other)
    fields = {**name_fields(rng, language, *name), **other_fields(rng, language, *second)}
    fields |= way_fields(rng, language, way)
    question = word_question(rng, language, "whether" if whether else "which", **fields)
    kind, color = name
    query = Facts("is_larger" if whether else "larger", kind=kind, color=color, other=second, way=way)
    return answer("larger", language, question, query, scene)


def ask_relation(scene: Scene, rng: Rng, language: Language) -> Example:
    """Ask which things are on one side of a thing, or whether one thing is on a side of another."""
    pairs = choices.list_side_pairs(scene) if rng.random() < 0.25 else []
    if pairs:
        return _ask_is_beside(scene, rng, language, *pick(rng, pairs))
    references = choices.list_references(scene)
    filled = [reference for reference in references if reference[2]]
    thing, side, _ = pick(rng, filled if filled and rng.random() < OCCUPIED_RATE else references)
    return ask_relation_of(scene, rng, language, thing, side)


def ask_relation_of(scene: Scene, rng: Rng, language: Language, thing: Thing, side: str) -> Example:
    """Ask which things are on the side `side` of the thing."""
    name = choices.sample_name(rng, scene, thing)
    fields = {**other_fields(rng, language, *name), **side_field(rng, language, side)}
    question = word_question(rng, language, "relation", **fields)
    return answer("relation", language, question, Facts("relation", other=name, way=side), scene)


def _ask_is_beside(scene: Scene, rng: Rng, language: Language, thing: Thing, other: Thing, true_side: str) -> Example:
    """Ask whether the thing is on its true side, or on the opposite one."""
    side = true_side if rng.random() < 0.5 else OPPOSITES[true_side]
    (kind, color), second = choices.sample_name(rng, scene, thing), choices.sample_name(rng, scene, other)
    fields = {
        **name_fields(rng, language, kind, color),
        **other_fields(rng, language, *second),
        **side_field(rng, language, side),
    }
    question = word_question(rng, language, "is_beside", **fields)
    query = Facts("is_beside", kind=kind, color=color, other=second, way=side)
    return answer("relation", language, question, query, scene)
