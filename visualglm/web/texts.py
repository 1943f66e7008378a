"""The texts of the page, in Chinese and English."""

from dataclasses import dataclass

from model import CHINESE, ENGLISH, Language

from .session import Status, TurnState


@dataclass(frozen=True)
class Texts:
    """The page's texts in one language.

    Attributes:
        settings: sampling setting -> its label and explanation.
    """

    subtitle: str
    other_language: str
    image: str
    drop_image: str
    chat: str
    welcome: str
    ask: str
    confirm: str
    start_new: str
    keep_old: str
    clear: str
    settings_title: str
    settings: dict[str, tuple[str, str]]
    seed_placeholder: str
    files_title: str
    save_json: str
    save_markdown: str
    load: str
    unusable: str
    stopped: str
    truncated: str
    failed: str
    internal_error: str
    dropped: str
    removed: str
    preview_saved: str
    too_long: str
    too_many_turns: str

    def status_note(self, turn: TurnState) -> str:
        """Return the note below an answer that explains its status, "" if there is none."""
        notes = {
            Status.STOPPED: self.stopped,
            Status.TRUNCATED: self.truncated,
            Status.FAILED: self.failed.format(error=turn.error),
            Status.INTERNAL_ERROR: self.internal_error.format(error=turn.error),
        }
        parts = [notes.get(turn.status, "")]
        if turn.dropped_turns:
            parts.append(self.dropped.format(count=turn.dropped_turns))
        return "\n".join(filter(None, parts))


TEXTS = {
    CHINESE: Texts(
        subtitle="上传一张图片，用中文或英文与模型对话；也可以不带图片直接对话。",
        other_language="English",
        image="图片",
        drop_image="把图片拖到这里、按 Ctrl+V 粘贴，或点击选择",
        chat="对话",
        welcome="## 图片里有什么？\n上传图片后提问，或选择下面的示例。",
        ask="输入问题，按回车发送",
        confirm="这会开始新的对话，当前对话将被清除。",
        start_new="开始新对话",
        keep_old="保留当前对话",
        clear="清空对话",
        settings_title="生成设置",
        settings={
            "max_length": ("max_length", "提示词与回答合计的最大 token 数，包括图片占用的 token"),
            "top_p": ("top_p", "只从累计概率达到该值的最小 token 集合里采样；1 表示全部"),
            "top_k": ("top_k", "只从概率最大的 k 个 token 里采样；0 表示全部"),
            "temperature": ("temperature", "越大越随机；0 表示每一步都取概率最大的 token"),
            "repetition_penalty": ("repetition_penalty", "降低回答里已出现的 token 的概率；1 表示不降低"),
            "seed": ("seed", "填写整数后，回答可以复现"),
        },
        seed_placeholder="随机",
        files_title="保存与载入",
        save_json="保存对话（可再次载入）",
        save_markdown="保存文字（Markdown）",
        load="载入对话",
        unusable="无法使用",
        stopped="■ 已停止，这一轮不计入对话。",
        truncated="■ 已达到 max_length，回答未完。",
        failed="⚠ {error}\n这一轮不计入对话。",
        internal_error="⚠ 程序内部出错，编号 {error}，详情见服务器日志。这一轮不计入对话。",
        dropped="ℹ 对话长度已超过 max_length，最早的 {count} 轮不再发给模型。",
        removed="服务器内存不足，之前的对话已被清除。请重新上传图片，或载入已保存的对话。",
        preview_saved="图片的原文件已不在服务器上，保存的是缩小后的副本。",
        too_long="问题最多 {count} 个字符，请缩短。",
        too_many_turns="对话已有 {count} 轮，请开始新的对话。",
    ),
    ENGLISH: Texts(
        subtitle="Upload an image and chat about it in English or Chinese, or chat without an image.",
        other_language="中文",
        image="Image",
        drop_image="Drop an image here, paste one with Ctrl+V, or click to choose",
        chat="Conversation",
        welcome="## What is in the image?\nUpload an image and ask a question, or choose an example.",
        ask="Ask a question; Enter sends it",
        confirm="This starts a new conversation; the current one will be deleted.",
        start_new="Start a new one",
        keep_old="Keep this one",
        clear="Clear conversation",
        settings_title="Generation settings",
        settings={
            "max_length": ("max_length", "Maximum tokens of prompt and answer together, including the image"),
            "top_p": ("top_p", "Sample from the smallest set of tokens whose probabilities reach this sum; 1 for all"),
            "top_k": ("top_k", "Sample from the k most likely tokens; 0 for all"),
            "temperature": ("temperature", "Higher is more random; 0 always takes the most likely token"),
            "repetition_penalty": (
                "repetition_penalty",
                "Lowers the probability of tokens that the answer already has; 1 for no effect",
            ),
            "seed": ("seed", "An integer makes answers reproducible"),
        },
        seed_placeholder="random",
        files_title="Save and load",
        save_json="Save conversation (can be loaded again)",
        save_markdown="Save text (Markdown)",
        load="Load conversation",
        unusable="Cannot be used",
        stopped="■ Stopped; this turn is not part of the conversation.",
        truncated="■ max_length reached; the answer is incomplete.",
        failed="⚠ {error}\nThis turn is not part of the conversation.",
        internal_error="⚠ Internal error {error}; see the server's log. This turn is not part of the conversation.",
        dropped="ℹ The conversation exceeds max_length: the model no longer sees its oldest turns ({count}).",
        removed=(
            "The server ran low on memory and removed the conversation. "
            "Upload the image again, or load a saved conversation."
        ),
        preview_saved="The uploaded image is no longer on the server; a smaller copy was saved instead.",
        too_long="A question has at most {count} characters. Shorten it.",
        too_many_turns="The conversation has {count} turns already. Start a new one.",
    ),
}


def choose_language(wanted: str | None, accepted: str | None) -> Language:
    """Return the page's language: from `?lang=`, the browser's first supported language, or Chinese.

    Args:
        wanted: value of the query parameter `lang`.
        accepted: the browser's Accept-Language header.
    """
    for code in (wanted, *(accepted or "").split(",")):
        for language in (CHINESE, ENGLISH):
            if code and code.strip().lower().startswith(language.code):
                return language
    return CHINESE
