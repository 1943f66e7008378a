"""The texts of the terminal chat, in Chinese and English."""

from dataclasses import dataclass

from model import CHINESE, ENGLISH


@dataclass(frozen=True)
class Texts:
    """The program's texts in one language.

    Attributes:
        welcome: for piped input; `greeting` is for a terminal.
        commands: command -> its arguments, and its explanation.
        labels: names of the facts that /show lists.
        statistics: units and blanks of the note about the speed; a unit is not broken at the end of a line.
    """

    welcome: str
    greeting: str
    loading: str
    model: str
    ask_image: str
    ask_question: str
    placeholder: str
    answer: str
    stopped: str
    truncated: str
    dropped: str
    quit_hint: str
    confirm_quit: str
    goodbye: str
    internal_error: str
    statistics: tuple[str, ...]
    unknown_command: str
    did_you_mean: str
    see_help: str
    needs_argument: str
    new_conversation: str
    image_loaded: str
    undone: str
    nothing_to_undo: str
    nothing_to_retry: str
    set_value: str
    unknown_setting: str
    settings: str
    conversation: str
    random: str
    confirm_overwrite: str
    saved: str
    nothing_to_save: str
    not_saved: str
    no_map: str
    not_read: str
    loaded: str
    keys: str
    commands: dict[str, tuple[str, str]]
    labels: dict[str, str]


TEXTS = {
    CHINESE: Texts(
        welcome="欢迎使用 VisualGLM。输入问题开始对话；clear 重新开始，stop 或 Ctrl-D 退出，Ctrl-C 中断回答。",
        greeting="欢迎使用 VisualGLM。先给出一张图片，再提问；/help 列出命令。",
        loading="VisualGLM：正在载入 {} …",
        model="模型：{}",
        ask_image="请输入图片路径或网址（直接回车则进入纯文本对话）：",
        ask_question="用户：",
        placeholder="输入问题（/help 列出命令）",
        answer="VisualGLM：",
        stopped="（已中断）",
        truncated="（已达到 max_length，回答未完）",
        dropped="对话已超过 max_length：模型不再看到最早的 {count} 轮。",
        quit_hint="输入 stop 或按 Ctrl-D 退出。",
        confirm_quit="要结束对话吗？[y/N] ",
        goodbye="再见。",
        internal_error="程序内部出错（{error}）。这一轮不计入对话；/set verbose on 会显示详情。",
        statistics=("{tokens} 个 token，", "{seconds:.1f} 秒，", "每秒 {rate:.1f} 个 token"),
        unknown_command="没有命令 {name}。",
        did_you_mean="是不是 {name}？",
        see_help="/help 列出命令。",
        needs_argument="{name} 需要 {argument}。",
        new_conversation="新的对话。/undo 回到之前的对话。",
        image_loaded="图片：{name}（{width} x {height}）",
        undone="已撤销。对话现有 {count} 轮。",
        nothing_to_undo="没有可以撤销的。",
        nothing_to_retry="还没有问题可以重新回答。",
        set_value="{name} = {value}",
        unknown_setting="没有设置 {name}。可用的有：{names}。",
        settings="设置",
        conversation="对话",
        random="随机",
        confirm_overwrite="{path} 已存在。要覆盖吗？[y/N] ",
        saved="已保存到 {path}。",
        nothing_to_save="还没有对话可以保存。",
        not_saved="{path} 无法保存：{reason}。",
        no_map="图片没有哪一部分单独决定这个回答，因此没有写 {path}。",
        not_read="{path} 无法读取：{reason}。",
        loaded="已载入 {path}：{count} 轮。",
        keys=(
            'Alt+Enter 换行，或用 """ 开始和结束多行问题；Tab 补全；上下键调出以前的输入。'
            "单独输入图片的路径即可换图片。"
        ),
        commands={
            "/help": ("", "列出命令"),
            "/image": ("路径", "换一张图片，开始新的对话"),
            "/new": ("", "关于同一张图片开始新的对话"),
            "/retry": ("", "重新回答上一个问题"),
            "/undo": ("", "撤销上一轮，或回到之前的对话"),
            "/set": ("名称 值", "修改设置，如 temperature 0.2，或 verbose on"),
            "/show": ("", "显示设置、模型和对话"),
            "/save": ("文件", "保存为可再次载入的 .json，或文字 .md、.txt"),
            "/load": ("文件", "载入保存的对话"),
            "/quit": ("", "结束程序；stop 和 Ctrl-D 也可以"),
        },
        labels={
            "model": "模型",
            "device": "设备",
            "dtype": "数据类型",
            "quantization": "量化",
            "parameters": "参数量",
            "image": "图片",
            "none": "无",
            "bits": "{} 位",
        },
    ),
    ENGLISH: Texts(
        welcome="Welcome to VisualGLM. "
        "Type a question; clear starts over, stop or Ctrl-D quits, Ctrl-C stops an answer.",
        greeting="Welcome to VisualGLM. Give an image, then ask about it; /help lists the commands.",
        loading="VisualGLM: loading {} ...",
        model="Model: {}",
        ask_image="Path or URL of an image (press Enter to chat without one): ",
        ask_question="You: ",
        placeholder="Ask a question (/help lists commands)",
        answer="VisualGLM: ",
        stopped="(stopped)",
        truncated="(max_length reached; the answer is incomplete)",
        dropped="The conversation has grown past max_length: its oldest {count} {turns} are no longer seen.",
        quit_hint="Type stop or press Ctrl-D to quit.",
        confirm_quit="End the chat? [y/N] ",
        goodbye="Goodbye.",
        internal_error="Internal error ({error}). This turn is not part of the conversation; "
        "/set verbose on shows details.",
        statistics=("{tokens} tokens,", " ", "{seconds:.1f} s,", " ", "{rate:.1f} tokens/s"),
        unknown_command="There is no command {name}.",
        did_you_mean="Did you mean {name}?",
        see_help="/help lists the commands.",
        needs_argument="{name} needs {argument}.",
        new_conversation="A new conversation. /undo returns to the one before.",
        image_loaded="Image: {name} ({width} x {height})",
        undone="Undone. The conversation has {count} {turns}.",
        nothing_to_undo="There is nothing to undo.",
        nothing_to_retry="There is no question to answer again.",
        set_value="{name} = {value}",
        unknown_setting="There is no setting {name}. There are {names}.",
        settings="Settings",
        conversation="Conversation",
        random="random",
        confirm_overwrite="{path} exists. Replace it? [y/N] ",
        saved="Saved as {path}.",
        nothing_to_save="There is no conversation to save.",
        not_saved="{path} could not be saved: {reason}.",
        no_map="No part of the image decides this answer by itself, so {path} was not written.",
        not_read="{path} could not be read: {reason}.",
        loaded="Loaded {path}: {count} {turns}.",
        keys=(
            'Alt+Enter begins a new line, or put """ before and after several lines. Tab completes, '
            "the arrow keys bring back earlier input. The path of an image by itself loads it."
        ),
        commands={
            "/help": ("", "list the commands"),
            "/image": ("PATH", "start a new conversation about another image"),
            "/new": ("", "start a new conversation about the same image"),
            "/retry": ("", "answer the last question again"),
            "/undo": ("", "drop the last turn, or return to the conversation before"),
            "/set": ("NAME VALUE", "change a setting: temperature 0.2, verbose on"),
            "/show": ("", "show settings, model and conversation"),
            "/save": ("FILE", "save as .json, which can be loaded again, or as text (.md, .txt)"),
            "/load": ("FILE", "load a saved conversation"),
            "/quit": ("", "end the program, as stop and Ctrl-D do"),
        },
        labels={
            "model": "model",
            "device": "device",
            "dtype": "data type",
            "quantization": "quantization",
            "parameters": "parameters",
            "image": "image",
            "none": "none",
            "bits": "{} bits",
        },
    ),
}


def count_turns(count: int) -> str:
    """Return the English noun for a number of turns."""
    return "turn" if count == 1 else "turns"
