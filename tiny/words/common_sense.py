"""The usual colours of things of the world; no name of a kind that we draw hides in any of them."""

from tiny.asking.answers import say_usual_colour
from tiny.words.vocabulary import Language
from tiny.words.wordings import Rng, expand, pick

WORLD = (  # Chinese, English with its article, colour
    ("草地", "grass", "green"),
    ("草", "the grass", "green"),
    ("天空", "the sky", "blue"),
    ("晴朗的天空", "a clear sky", "blue"),
    ("夜晚", "the night", "black"),
    ("夜空", "the night sky", "black"),
    ("雪", "snow", "white"),
    ("大海", "the sea", "blue"),
    ("海水", "the ocean", "blue"),
    ("砖墙", "a brick wall", "red"),
    ("牛奶", "milk", "white"),
    ("云", "a cloud", "white"),
    ("盐", "salt", "white"),
    ("天鹅", "a swan", "white"),
    ("煤", "coal", "black"),
    ("乌鸦", "a crow", "black"),
    ("香蕉", "a banana", "yellow"),
    ("柠檬", "a lemon", "yellow"),
    ("太阳", "the sun", "yellow"),
    ("向日葵", "a sunflower", "yellow"),
    ("沙漠", "the desert", "yellow"),
    ("西红柿", "a tomato", "red"),
    ("草莓", "a strawberry", "red"),
    ("血", "blood", "red"),
    ("樱桃", "a cherry", "red"),
    ("胡萝卜", "a carrot", "orange"),
    ("南瓜", "a pumpkin", "orange"),
    ("茄子", "an eggplant", "purple"),
    ("葡萄", "a grape", "purple"),
    ("薰衣草", "lavender", "purple"),
    ("叶子", "a leaf", "green"),
    ("黄瓜", "a cucumber", "green"),
    ("青蛙", "a frog", "green"),
    ("菠菜", "spinach", "green"),
)
ZH_WORLD = (
    "{it}[@what_colour][@end]？",
    "{it}[通常|一般|平时][是什么颜色的|是什么颜色|什么颜色]？",
    "你知道{it}[是什么颜色|的颜色]吗？",
    "[@tell]{it}[的颜色|是什么颜色]。",
    "{it}的颜色[是什么|呢]？",
)
EN_WORLD = (
    "What [@colour] is {it}?",
    "What is the [@colour] of {it}?",
    "What [@colour] is {it} [usually|normally|typically]?",
    "[What|Which] [@colour] does {it} have?",
    "[@can] [what color|what colour] {it} is?",
    "[@tell] the [@colour] of {it}.",
    "{it} is [what|which] [@colour]?",
)


def pick_world_question(rng: Rng, language: Language) -> tuple[str, str, str]:
    """A question about something of the world, its answer and the colour in it."""
    zh, en, colour = pick(rng, WORLD)
    it = zh if language == "zh" else en
    question = expand(rng, language, pick(rng, ZH_WORLD if language == "zh" else EN_WORLD), {"it": it})
    return question, say_usual_colour(language, it, colour), colour
