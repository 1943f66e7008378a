"""What people say that is not about a picture, and the replies."""

from dataclasses import dataclass

from tiny.vocabulary import Language


@dataclass(frozen=True)
class Topic:
    """One thing to talk about.

    Attributes:
        questions: ways to bring it up.
        answer: the one reply.
        pattern: a regular expression, lower case, that every acceptable reply contains.
    """

    questions: tuple[str, ...]
    answer: str
    pattern: str


ZH_TOPICS = {
    "hello": Topic(
        (
            "你好",
            "你好！",
            "您好！",
            "嗨！",
            "早上好！",
            "下午好！",
            "晚上好！",
            "哈喽！",
            "在吗？",
            "你好呀！",
        ),
        "你好！我可以和你聊一聊图片。",
        "你好",
    ),
    "who": Topic(
        (
            "你是谁？",
            "你叫什么名字？",
            "请介绍一下你自己。",
            "你是什么模型？",
            "你的名字是什么？",
            "你是什么？",
            "说说你自己。",
            "怎么称呼你？",
        ),
        "我是 visualglm-tiny，一个会看图说话的小模型。",
        "visualglm",
    ),
    "ability": Topic(
        (
            "你能做什么？",
            "你会什么？",
            "你会做什么？",
            "你有什么用？",
            "你可以帮我做什么？",
            "我能问你什么？",
            "你能帮我什么？",
            "怎么用你？",
        ),
        "我可以描述图片，也可以回答物体的颜色、位置和数量。",
        "描述|颜色|看图",
    ),
    "thanks": Topic(
        (
            "谢谢！",
            "谢谢你。",
            "多谢！",
            "非常感谢！",
            "谢谢你的帮助。",
            "太好了，谢谢！",
            "感谢你！",
            "谢了！",
        ),
        "不客气！",
        "不客气|不用谢",
    ),
    "bye": Topic(
        (
            "再见！",
            "拜拜！",
            "明天见。",
            "下次见！",
            "我走了，再见。",
            "回头见！",
            "晚安！",
            "先这样吧，再见！",
        ),
        "再见！欢迎下次再来。",
        "再见",
    ),
    "no picture": Topic(
        (
            "你看到图片了吗？",
            "你能看到图片吗？",
            "我给你图片了吗？",
            "有图片吗？",
            "图片在哪里？",
            "你看得到图吗？",
            "图里画的是什么？",
            "看图说话。",
        ),
        "我没有看到图片，请先给我一张图片。",
        "没.*图",
    ),
}

EN_TOPICS = {
    "hello": Topic(
        (
            "Hello",
            "Hello!",
            "Hi!",
            "Hi there!",
            "Hey!",
            "Good morning!",
            "Good afternoon!",
            "Good evening!",
            "Hello, how are you?",
        ),
        "Hello! I like to talk about pictures.",
        r"\b(hello|hi)\b",
    ),
    "who": Topic(
        (
            "Who are you?",
            "What are you?",
            "What is your name?",
            "What's your name?",
            "Please introduce yourself.",
            "Tell me about yourself.",
            "Which model are you?",
            "What should I call you?",
        ),
        "I am visualglm-tiny, a small model that talks about pictures.",
        "visualglm",
    ),
    "ability": Topic(
        (
            "What can you do?",
            "What can you do for me?",
            "How can you help me?",
            "What are you good at?",
            "What can I ask you?",
            "How do I use you?",
            "What do you know?",
            "Can you help me?",
        ),
        "I can describe a picture and tell you the colour, the place and the number of the things in it.",
        r"\b(describe|colou?r|pictures?)\b",
    ),
    "thanks": Topic(
        (
            "Thanks!",
            "Thank you.",
            "Thank you!",
            "Thank you very much!",
            "Thanks a lot!",
            "Great, thanks!",
            "Thanks for your help.",
            "Many thanks!",
        ),
        "You are welcome!",
        "welcome",
    ),
    "bye": Topic(
        (
            "Bye!",
            "Goodbye!",
            "Bye bye!",
            "See you later!",
            "See you tomorrow.",
            "Good night!",
            "I have to go, bye.",
            "That is all, goodbye.",
        ),
        "Goodbye! See you next time.",
        r"\b(good)?bye\b",
    ),
    "no picture": Topic(
        (
            "Do you see the picture?",
            "Can you see the image?",
            "Did I give you a picture?",
            "Is there a picture?",
            "Where is the picture?",
            "Can you see my photo?",
            "What is in my photo?",
            "Look at the picture.",
        ),
        "I do not see a picture. Please give me one first.",
        r"\b(no|not|n't|without)\b.*\b(picture|image|photo)s?\b",
    ),
}

WORLD = (  # Chinese, English with its article, colour; no name of a kind hides in any of them
    ("草地", "grass", "green"),
    ("天空", "the sky", "blue"),
    ("雪", "snow", "white"),
    ("大海", "the sea", "blue"),
    ("牛奶", "milk", "white"),
    ("云", "a cloud", "white"),
    ("煤", "coal", "black"),
    ("乌鸦", "a crow", "black"),
    ("香蕉", "a banana", "yellow"),
    ("柠檬", "a lemon", "yellow"),
    ("西红柿", "a tomato", "red"),
    ("草莓", "a strawberry", "red"),
    ("胡萝卜", "a carrot", "orange"),
    ("南瓜", "a pumpkin", "orange"),
    ("茄子", "an eggplant", "purple"),
    ("葡萄", "a grape", "purple"),
    ("叶子", "a leaf", "green"),
    ("黄瓜", "a cucumber", "green"),
    ("沙漠", "the desert", "yellow"),
    ("血", "blood", "red"),
)

ZH_WORLD = (
    "{it}是什么颜色的？",
    "{it}是什么颜色？",
    "{it}的颜色是什么？",
    "{it}通常是什么颜色的？",
    "{it}一般是什么颜色？",
    "你知道{it}是什么颜色吗？",
    "告诉我{it}的颜色。",
    "{it}是哪种颜色的？",
)
EN_WORLD = (
    "What colour is {it}?",
    "What color is {it}?",
    "What is the colour of {it}?",
    "What is the color of {it}?",
    "What colour is {it} usually?",
    "Which color does {it} have?",
    "Do you know what color {it} is?",
    "Tell me the colour of {it}.",
)


def topics_of(language: Language) -> dict[str, Topic]:
    """Every topic of small talk by its name; the names are the same in both languages."""
    return ZH_TOPICS if language == "zh" else EN_TOPICS
