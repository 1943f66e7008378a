"""What the page says, in both languages."""

from dataclasses import dataclass

from model import CHINESE, ENGLISH, Language

from .session import Exchange, Status


@dataclass(frozen=True)
class Texts:
    """The wording in one language; `settings` has a name and an explanation for each setting of an answer."""

    subtitle: str
    other_language: str
    picture: str
    drop_picture: str
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
    cut: str
    failed: str
    broken: str
    dropped: str
    removed: str
    preview_saved: str
    too_long: str
    too_many_turns: str

    def note(self, exchange: Exchange) -> str:
        """Return what is to be said about an answer, "" for nothing."""
        notes = {
            Status.STOPPED: self.stopped,
            Status.CUT: self.cut,
            Status.FAILED: self.failed.format(error=exchange.error),
            Status.BROKEN: self.broken.format(error=exchange.error),
        }
        parts = [notes.get(exchange.status, "")]
        if exchange.dropped_turns:
            parts.append(self.dropped.format(count=exchange.dropped_turns))
        return "\n".join(filter(None, parts))


TEXTS = {
    CHINESE: Texts(
        subtitle="放一张图片，用中文或英文和模型聊聊它；不放图片也可以聊。",
        other_language="English",
        picture="图片",
        drop_picture="把图片拖到这里、按 Ctrl+V 粘贴，或点击选择",
        chat="对话",
        welcome="## 想知道图里有什么？\n放一张图片然后提问，或者从下面选一个例子。",
        ask="输入问题，按回车发送",
        confirm="换图片会开始新的对话，现在的对话将被清除。",
        start_new="开始新对话",
        keep_old="保留现在的对话",
        clear="清空对话",
        settings_title="生成设置",
        settings={
            "max_length": ("max_length", "提示词与回答合计的最大 token 数，图片的也算在内"),
            "top_p": ("top_p", "只从概率之和达到这个值的最少几个词里采样；1 表示全部"),
            "top_k": ("top_k", "只从概率最大的这么多个词里采样；0 表示全部"),
            "temperature": ("temperature", "越大越随意；0 表示每一步都取概率最大的词"),
            "repetition_penalty": ("repetition_penalty", "压低回答里已经出现过的词；1 表示不压低"),
            "seed": ("seed", "填一个整数，回答就可以重现"),
        },
        seed_placeholder="随机",
        files_title="保存与载入",
        save_json="保存对话（可再次载入）",
        save_markdown="保存文字（Markdown）",
        load="载入对话",
        unusable="无法使用",
        stopped="■ 已停止，这一轮不计入对话。",
        cut="■ 已达到 max_length，回答未完。",
        failed="⚠ {error}\n这一轮不计入对话。",
        broken="⚠ 程序内部出错，编号 {error}，详情见服务器日志。这一轮不计入对话。",
        dropped="ℹ 对话长度已超过 max_length，最早的 {count} 轮不再发给模型。",
        removed="服务器内存不足，之前的对话已被清除。请重新上传图片，或载入保存的对话。",
        preview_saved="图片的原文件已不在服务器上，保存的是缩小后的副本。",
        too_long="问题最多 {count} 个字符，请缩短。",
        too_many_turns="对话已有 {count} 轮，请开始新的对话。",
    ),
    ENGLISH: Texts(
        subtitle="Give the model a picture and talk about it, in English or Chinese; or talk without one.",
        other_language="中文",
        picture="Picture",
        drop_picture="Drop a picture here, paste one with Ctrl+V, or click to choose",
        chat="Conversation",
        welcome="## What is in the picture?\nAdd a picture and ask, or take one of these examples.",
        ask="Ask a question, Enter sends it",
        confirm="Another picture starts a new conversation; this one will be gone.",
        start_new="Start a new one",
        keep_old="Keep this one",
        clear="Clear conversation",
        settings_title="Settings of the answers",
        settings={
            "max_length": ("max_length", "Most tokens of prompt and answer together, the picture's included"),
            "top_p": ("top_p", "Sample among the fewest words whose probabilities reach this sum; 1 for all"),
            "top_k": ("top_k", "Sample among this many most likely words; 0 for all"),
            "temperature": ("temperature", "Higher is freer; 0 always takes the most likely word"),
            "repetition_penalty": ("repetition_penalty", "Lowers words that the answer already has; 1 for none"),
            "seed": ("seed", "A whole number makes answers repeatable"),
        },
        seed_placeholder="random",
        files_title="Save and load",
        save_json="Save conversation (can be loaded again)",
        save_markdown="Save the words (Markdown)",
        load="Load conversation",
        unusable="This cannot be used",
        stopped="■ Stopped; this round is not part of the conversation.",
        cut="■ max_length reached; the answer is not complete.",
        failed="⚠ {error}\nThis round is not part of the conversation.",
        broken="⚠ The program has met a bug; the server's log has it under {error}. "
        "This round is not part of the conversation.",
        dropped="ℹ The conversation has grown past max_length: its oldest turns ({count}) are no longer seen.",
        removed="The server needed memory and removed the conversation. Upload the picture again, or load a saved one.",
        preview_saved="The uploaded picture is no longer on the server; a smaller copy was saved instead.",
        too_long="A question has at most {count} characters. Shorten it.",
        too_many_turns="The conversation has {count} turns already. Start a new one.",
    ),
}


def choose_language(wanted: str | None, accepted: str | None) -> Language:
    """Return the page's language: `?lang=` if it names one, else the browser's first, else Chinese.

    Args:
        wanted: what stands after `?lang=`.
        accepted: the browser's Accept-Language header.
    """
    for code in (wanted, *(accepted or "").split(",")):
        for language in (CHINESE, ENGLISH):
            if code and code.strip().lower().startswith(language.code):
                return language
    return CHINESE
