"""The page's event handlers: each changes the visitor's session and returns updates of the components."""

import dataclasses
import re
import threading
from collections.abc import Callable, Iterator
from typing import Any

import gradio as gr

from model import CHINESE, ENGLISH, ChatModel, GenerationConfig, SettingError, VisualGLMError

from .blocks import MAX_ANSWERS, MAX_UPLOAD_BYTES, MAX_WAITING, PageBlocks
from .conversation_file import from_json, to_json, to_markdown
from .images import UploadedImage, UploadedImageReader
from .layout import EXAMPLES, EXAMPLES_FOLDER, MAX_QUESTION, SETTINGS, build_components, localized_properties
from .session import MAX_TURNS, ConversationState, MemoryLimiter, Session, Status, TurnState
from .texts import TEXTS, choose_language
from .uploads import UploadError, UploadFolder

PREVIEW_NAME = "picture.jpg"
WORD_JOINER = "\u2060"  # a character of zero width
Updates = dict[Any, Any]

# Lets the browser download a file that the server has written.
SAVE_JS = """(saved) => {
    const link = document.createElement("a");
    link.href = "./gradio_api/file=" + saved.file;
    link.download = saved.name;
    link.click();
}"""


class Page:
    """The page for one model, shared by all visitors; Gradio launches its `blocks`.

    Args:
        model: generates the answers; called by several threads at once.
        config: the initial values of a visitor's settings.
    """

    def __init__(self, model: ChatModel, config: GenerationConfig) -> None:
        self.model = model
        self.config = dataclasses.replace(config, seed=None)  # an empty seed field means a random seed
        examples = [EXAMPLES_FOLDER / name for name, _ in EXAMPLES]
        gr.set_static_paths(examples)  # otherwise Gradio copies them to a folder that all pages of a process share
        self.folder = UploadFolder(examples)
        self.reader = UploadedImageReader(self.folder, model.image_size)
        self.memory_limiter = MemoryLimiter()
        with PageBlocks(self.folder, title="VisualGLM", analytics_enabled=False) as self.blocks:
            self.session = gr.State(Session())  # each visitor gets a copy
            self.components = build_components(config, CHINESE, model.description)
            self._connect_page()
            self._connect_chat()
            self._connect_files()
        # api_open=False: a direct call would bypass the queue and its limits.
        self.blocks.queue(default_concurrency_limit=None, max_size=MAX_WAITING, api_open=False)

    def close(self) -> None:
        """Remove the uploads and stop the processes that decode images."""
        self.reader.close()
        self.folder.remove()

    def _connect_page(self) -> None:
        components = self.components
        all_components = list(components.values())
        self._on(self.blocks.load, self.greet, [], all_components)
        self._on(components["language"].click, self.switch_language, [], all_components)
        outputs = [components[name] for name in ("image", "confirm", "chat", "question")]
        # Dropping an image on another sends two events, the first of which removes the old image; only the last counts.
        # The former name of offer_image stays the public name of the endpoint.
        image = components["image"]
        self._on(image.input, self.offer_image, [image], outputs, "always_last", api_name="offer_picture")
        self._on(components["load"].upload, self.offer_file, [components["load"]], outputs)
        self._on(components["start_new"].click, self.accept, [], outputs)
        self._on(components["keep_old"].click, self.decline, [], outputs)
        for event in (components["clear"].click, components["chat"].clear):
            self._on(event, self.clear, [], outputs)

    def _connect_chat(self) -> None:
        chat, question = self.components["chat"], self.components["question"]
        settings = [self.components[name] for name in SETTINGS]
        outputs = [self.components["image"], chat, question]
        for event, method, inputs in (
            (question.submit, self.ask, [question]),
            (chat.example_select, self.ask_example, []),
            (chat.retry, self.retry, []),
            (chat.edit, self.ask_edited, []),
        ):
            # "multiple": a stopped answer may take a moment to end, and the next question must not wait for it.
            limits = {"concurrency_limit": MAX_ANSWERS, "concurrency_id": "answers"}
            self._on(event, method, [*inputs, *settings], outputs, "multiple", **limits)
        self._on(question.stop, self.stop, [], outputs)
        self._on(chat.undo, self.undo, [], outputs)

    def _connect_files(self) -> None:
        file = self.components["file"]
        for name, method in (("save_json", self.save_json), ("save_markdown", self.save_markdown)):
            saved = self._on(self.components[name].click, method, [], [file])
            saved.success(None, [file], None, js=SAVE_JS)

    def _on(
        self,
        event: Callable[..., Any],
        method: Callable[..., Any],
        inputs: list[Any],
        outputs: list[Any],
        trigger_mode: str = "once",
        **settings: Any,
    ) -> Any:
        """Connect `event` to `method`, which gets the visitor's session and the values of `inputs`."""
        hidden = {"show_progress": "hidden", "api_visibility": "undocumented"}
        return event(method, [self.session, *inputs], outputs, trigger_mode=trigger_mode, **hidden, **settings)

    # Handlers of the page: language, image, files.

    def greet(self, session: Session, request: gr.Request) -> Updates:
        """Show the page in the visitor's language."""
        session.language = choose_language(request.query_params.get("lang"), request.headers.get("accept-language"))
        return self._localize(session)

    def switch_language(self, session: Session) -> Updates:
        """Switch the page between Chinese and English; keep the conversation."""
        session.language = ENGLISH if session.language is CHINESE else CHINESE
        return self._localize(session)

    def _localize(self, session: Session) -> Updates:
        """Return updates that show all texts in the session's language."""
        texts = {
            name: dict(values)
            for name, values in localized_properties(session.language, self.model.description).items()
        }
        texts["chat"]["value"] = self._messages(session)
        return {self.components[name]: gr.update(**values) for name, values in texts.items()}

    def offer_image(self, session: Session, path: str | None) -> Updates:
        """Start a conversation about the image at `path` (None: without an image), or ask before replacing one."""
        updates = self._offer(session, lambda: ConversationState(self.reader.from_file(path) if path else None))
        if path is None:
            # The browser has removed the image already. If another was dropped on it, that may be shown by now.
            del updates[self.components["image"]]
        return updates

    def offer_file(self, session: Session, path: str | None) -> Updates:
        """Continue the conversation in the file at `path`, or ask before replacing one."""
        return self._offer(session, lambda: self._read_conversation(path))

    def _read_conversation(self, path: str | None) -> ConversationState:
        return from_json(self.folder.read(path or "", MAX_UPLOAD_BYTES), self.reader)

    def _offer(self, session: Session, make: Callable[[], ConversationState]) -> Updates:
        session.upload_read = upload_read = threading.Event()
        try:
            conversation = make()
            was_opened = session.offer(conversation)
        except VisualGLMError as error:
            self._warn(session, str(error))
            conversation = session.offered or session.conversation
            return {self.components["image"]: self._show_image(conversation.image)}
        finally:
            upload_read.set()
        self.memory_limiter.update(session)
        if was_opened:
            return self._show_all(session)
        return {
            self.components["image"]: self._show_image(conversation.image),
            self.components["confirm"]: gr.update(visible=True),
            self.components["question"]: gr.update(interactive=False),
        }

    def _show_image(self, image: UploadedImage | None) -> Any:
        """Return the update of the image component that shows an image's preview."""
        try:
            return gr.update(value=image and self.folder.save(image.preview, PREVIEW_NAME))
        except UploadError:  # already logged; the conversation continues without its preview
            return gr.update(value=None)

    def _warn(self, session: Session, message: str) -> None:
        gr.Warning(message, title=TEXTS[session.language].unusable)

    def accept(self, session: Session) -> Updates:
        """Open the offered conversation."""
        session.open(session.offered or session.conversation)
        return self._show_all(session)

    def decline(self, session: Session) -> Updates:
        """Drop the offered conversation and show the current one again."""
        session.offered = None
        return self._show_all(session)

    def clear(self, session: Session) -> Updates:
        """Start a new conversation with the same image."""
        session.open(ConversationState(session.conversation.image))
        return self._show_all(session)

    def _show_all(self, session: Session) -> Updates:
        return {
            self.components["image"]: self._show_image(session.conversation.image),
            self.components["confirm"]: gr.update(visible=False),
            **self._show(session, interactive=True),
        }

    # Handlers of the conversation.

    def ask(self, session: Session, question: str, *settings: float | None) -> Iterator[Updates]:
        """Answer a question that the visitor typed."""
        if question.strip():
            yield from self._answer(session, question.strip(), settings, value="")

    def ask_example(self, session: Session, event: gr.SelectData, *settings: float | None) -> Iterator[Updates]:
        """Open an example's image and answer its question."""
        if not 0 <= event.index < len(EXAMPLES):
            return
        name, questions = EXAMPLES[event.index]
        session.open(ConversationState(self.reader.from_file(str(EXAMPLES_FOLDER / name))))
        yield {self.components["image"]: self._show_image(session.conversation.image)}
        yield from self._answer(session, questions[session.language], settings)

    def retry(self, session: Session, event: gr.RetryData, *settings: float | None) -> Iterator[Updates]:
        """Answer a question again."""
        if question := session.remove_from(turn_index(event)):
            yield from self._answer(session, question, settings)

    def ask_edited(self, session: Session, event: gr.EditData, *settings: float | None) -> Iterator[Updates]:
        """Answer an edited question; it replaces its turn and all later turns."""
        question = event.value.replace(WORD_JOINER, "").strip()
        if len(question) > MAX_QUESTION:
            self._warn(session, TEXTS[session.language].too_long.format(count=MAX_QUESTION))
        else:
            session.remove_from(turn_index(event))
            if question:
                yield from self._answer(session, question, settings)
        yield self._show(session)

    def undo(self, session: Session, event: gr.UndoData) -> Updates:
        """Remove a turn and put its question back into the text field."""
        question = session.remove_from(turn_index(event))
        return self._show(session, value=question)

    def stop(self, session: Session) -> Updates:
        """Stop the running answer."""
        session.stop()
        return self._show(session)

    def _answer(
        self, session: Session, question: str, settings: tuple[float | None, ...], **field: Any
    ) -> Iterator[Updates]:
        """Answer `question`; the first update also sets the properties `field` of the text field."""
        try:
            config = self.config.replace(**dict(zip(SETTINGS, settings, strict=True)))
        except SettingError as error:
            self._warn(session, str(error))
            return
        if session.upload_read is not None:
            session.upload_read.wait()  # a question sent while an image is decoded is about that image
        texts = TEXTS[session.language]
        if session.was_dropped:
            session.was_dropped = False
            self._warn(session, texts.removed)
            yield {**self._show(session), self.components["image"]: gr.update(value=None)}
            return
        conversation = session.conversation
        if len(conversation.turns) >= MAX_TURNS:
            self._warn(session, texts.too_many_turns.format(count=MAX_TURNS))
            return
        for _ in session.ask(self.model, question, config):
            if session.conversation is conversation:
                yield self._show(session, **field)
            field = {}
        self.memory_limiter.update(session)

    def _show(self, session: Session, **field: Any) -> Updates:
        """Return updates of the chat and of the text field, whose button is Stop during an answer, else Send."""
        running = any(turn.status is Status.RUNNING for turn in session.conversation.turns)
        return {
            self.components["chat"]: self._messages(session),
            self.components["question"]: gr.update(submit_btn=not running, stop_btn=running, **field),
        }

    def _messages(self, session: Session) -> list[dict[str, str]]:
        """Return the chat component's messages: two for each turn, so that message index // 2 is the turn index."""
        messages = []
        for turn in session.conversation.turns:
            messages.append({"role": "user", "content": as_plain_text(turn.question)})
            text = as_plain_text(describe_answer(turn, session))
            if text or turn.status is not Status.RUNNING:
                messages.append({"role": "assistant", "content": text})
        return messages

    # Handlers that save the conversation.

    def save_json(self, session: Session) -> dict[str, str]:
        """Save the conversation as a file that can be loaded again."""
        text, is_original = to_json(session.conversation, self.folder)
        if not is_original:
            self._warn(session, TEXTS[session.language].preview_saved)
        return self._write("visualglm.json", text)

    def save_markdown(self, session: Session) -> dict[str, str]:
        """Save the conversation's text as Markdown."""
        return self._write("visualglm.md", to_markdown(session.conversation, session.language))

    def _write(self, name: str, text: str) -> dict[str, str]:
        """Write a file to the upload folder; return the value that makes the browser download it."""
        try:
            return {"name": name, "file": self.folder.save(text.encode(), name)}
        except UploadError as error:
            raise gr.Error(str(error), print_exception=False) from error


def as_plain_text(text: str) -> str:
    """Return `text` so that the chat shows each character of it.

    The chat component interprets what looks like a tag, and would fetch an image that it names. The "<" of a tag and
    the "&" of an entity are plain characters unless a name or punctuation follows, so a zero-width character is put
    after them.
    """
    return re.sub("([<&])(?=[a-zA-Z#!/?])", rf"\1{WORD_JOINER}", text)


def describe_answer(turn: TurnState, session: Session) -> str:
    """Return an answer as the chat shows it, with a note about its status."""
    note = TEXTS[session.language].status_note(turn)
    return "\n\n".join(filter(None, [turn.answer, note]))


def turn_index(event: gr.RetryData | gr.UndoData | gr.EditData) -> int:
    """Return the index of the turn whose message an event is about; -1 for none."""
    return int(event.index) // 2
