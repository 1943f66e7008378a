"""What the terminal program says, in both languages."""

from dataclasses import dataclass

from model import CHINESE, ENGLISH


@dataclass(frozen=True)
class Words:
    """What the program says in one language."""

    welcome: str
    model: str
    ask_picture: str
    ask_question: str
    answer: str
    stopped: str
    cut_short: str
    how_to_end: str
    goodbye: str


WORDS = {
    CHINESE: Words(
        "欢迎使用 VisualGLM。输入问题开始对话；clear 重新开始，stop 或 Ctrl-D 退出，Ctrl-C 中断回答。",
        "模型：{}",
        "请输入图片路径或网址（直接回车则进入纯文本对话）：",
        "用户：",
        "VisualGLM：",
        "（已中断）",
        "（已达到 max_length，回答未完）",
        "输入 stop 或按 Ctrl-D 退出。",
        "再见。",
    ),
    ENGLISH: Words(
        "Welcome to VisualGLM. Type a question; clear starts over, stop or Ctrl-D ends, Ctrl-C stops an answer.",
        "Model: {}",
        "Path or URL of a picture (Enter for a talk without one): ",
        "You: ",
        "VisualGLM: ",
        "(stopped)",
        "(max_length reached; the answer is not complete)",
        "Type stop or press Ctrl-D to end.",
        "Goodbye.",
    ),
}
