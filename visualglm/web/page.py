"""The page: what a click does to the visitor's session, and what is then shown of it."""

import dataclasses
import re
import threading
from collections.abc import Callable, Iterator
from typing import Any

import gradio as gr

from model import CHINESE, ENGLISH, ChatModel, GenerationConfig, SettingError, VisualGLMError

from .blocks import MAX_ANSWERS, MAX_UPLOAD_BYTES, MAX_WAITING, PageBlocks
from .conversation_file import from_json, to_json, to_markdown
from .layout import EXAMPLES, EXAMPLES_FOLDER, MAX_QUESTION, SETTINGS, lay_out, words
from .picture import Picture, PictureReader
from .session import MAX_TURNS, Dialogue, Exchange, Session, Status, Visitors
from .texts import TEXTS, choose_language
from .uploads import UploadError, UploadFolder

PREVIEW_NAME = "picture.jpg"
WORD_JOINER = "\u2060"  # takes no room
Updates = dict[Any, Any]

# Makes the browser save a file that the server has written.
SAVE_JS = """(saved) => {
    const link = document.createElement("a");
    link.href = "./gradio_api/file=" + saved.file;
    link.download = saved.name;
    link.click();
}"""


class Page:
    """The page on one model, shared by all visitors; `blocks` is what Gradio launches.

    Args:
        model: answers, for several threads at a time.
        config: the settings that a visitor finds.
    """

    def __init__(self, model: ChatModel, config: GenerationConfig) -> None:
        self.model = model
        self.config = dataclasses.replace(config, seed=None)  # an empty field means none
        examples = [EXAMPLES_FOLDER / name for name, _ in EXAMPLES]
        gr.set_static_paths(examples)  # else Gradio copies them into a folder that all pages of a process share
        self.folder = UploadFolder(examples)
        self.reader = PictureReader(self.folder, model.image_size)
        self.visitors = Visitors()
        with PageBlocks(self.folder, title="VisualGLM", analytics_enabled=False) as self.blocks:
            self.session = gr.State(Session())  # each visitor gets a copy
            self.parts = lay_out(config, CHINESE, model.description)
            self._connect_page()
            self._connect_chat()
            self._connect_files()
        # api_open=False: what is called past the queue would be past its bounds.
        self.blocks.queue(default_concurrency_limit=None, max_size=MAX_WAITING, api_open=False)

    def close(self) -> None:
        """Remove the uploads and end the processes that decode pictures."""
        self.reader.close()
        self.folder.remove()

    def _connect_page(self) -> None:
        parts = self.parts
        everything = list(parts.values())
        self._on(self.blocks.load, self.greet, [], everything)
        self._on(parts["language"].click, self.switch_language, [], everything)
        shown = [parts[name] for name in ("picture", "confirm", "chat", "question")]
        # A picture dropped on another takes that away first: two events, and the last is what counts.
        self._on(parts["picture"].input, self.offer_picture, [parts["picture"]], shown, "always_last")
        self._on(parts["load"].upload, self.offer_file, [parts["load"]], shown)
        self._on(parts["start_new"].click, self.accept, [], shown)
        self._on(parts["keep_old"].click, self.decline, [], shown)
        for event in (parts["clear"].click, parts["chat"].clear):
            self._on(event, self.clear, [], shown)

    def _connect_chat(self) -> None:
        chat, question = self.parts["chat"], self.parts["question"]
        settings = [self.parts[name] for name in SETTINGS]
        shown = [self.parts["picture"], chat, question]
        for event, method, inputs in (
            (question.submit, self.ask, [question]),
            (chat.example_select, self.ask_example, []),
            (chat.retry, self.retry, []),
            (chat.edit, self.ask_edited, []),
        ):
            # A stopped answer may take a moment to end; the next question does not wait for that.
            limits = {"concurrency_limit": MAX_ANSWERS, "concurrency_id": "answers"}
            self._on(event, method, [*inputs, *settings], shown, "multiple", **limits)
        self._on(question.stop, self.stop, [], shown)
        self._on(chat.undo, self.undo, [], shown)

    def _connect_files(self) -> None:
        file = self.parts["file"]
        for name, method in (("save_json", self.save_json), ("save_markdown", self.save_markdown)):
            saved = self._on(self.parts[name].click, method, [], [file])
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
        """Let `event` call `method` with the visitor's session and what `inputs` hold."""
        hidden = {"show_progress": "hidden", "api_visibility": "undocumented"}
        return event(method, [self.session, *inputs], outputs, trigger_mode=trigger_mode, **hidden, **settings)

    # What happens to the page as a whole.

    def greet(self, session: Session, request: gr.Request) -> Updates:
        """Show the page in the visitor's language."""
        session.language = choose_language(request.query_params.get("lang"), request.headers.get("accept-language"))
        return self._speak(session)

    def switch_language(self, session: Session) -> Updates:
        """Show the page in the other language. The conversation goes on."""
        session.language = ENGLISH if session.language is CHINESE else CHINESE
        return self._speak(session)

    def _speak(self, session: Session) -> Updates:
        said = {name: dict(properties) for name, properties in words(session.language, self.model.description).items()}
        said["chat"]["value"] = self._messages(session)
        return {self.parts[name]: gr.update(**properties) for name, properties in said.items()}

    def offer_picture(self, session: Session, path: str | None) -> Updates:
        """Start a conversation about the picture at `path` (None to go on without one), if nothing is lost by it."""
        updates = self._offer(session, lambda: Dialogue(self.reader.from_file(path) if path else None))
        if path is None:
            # The place is empty already; and if a picture was dropped on another, the new one may be there by now.
            del updates[self.parts["picture"]]
        return updates

    def offer_file(self, session: Session, path: str | None) -> Updates:
        """Continue the conversation in the file at `path`, if nothing is lost by it."""
        return self._offer(session, lambda: self._read_conversation(path))

    def _read_conversation(self, path: str | None) -> Dialogue:
        return from_json(self.folder.read(path or "", MAX_UPLOAD_BYTES), self.reader)

    def _offer(self, session: Session, make: Callable[[], Dialogue]) -> Updates:
        session.reading = reading = threading.Event()
        try:
            dialogue = make()
            was_opened = session.offer(dialogue)
        except VisualGLMError as error:
            self._warn(session, str(error))
            dialogue = session.offered or session.dialogue
            return {self.parts["picture"]: self._show_picture(dialogue.picture)}
        finally:
            reading.set()
        self.visitors.note(session)
        if was_opened:
            return self._show_all(session)
        return {
            self.parts["picture"]: self._show_picture(dialogue.picture),
            self.parts["confirm"]: gr.update(visible=True),
            self.parts["question"]: gr.update(interactive=False),
        }

    def _show_picture(self, picture: Picture | None) -> Any:
        """Return what shows a picture in its place."""
        try:
            return gr.update(value=picture and self.folder.save(picture.preview, PREVIEW_NAME))
        except UploadError:  # logged; the conversation goes on without its preview
            return gr.update(value=None)

    def _warn(self, session: Session, message: str) -> None:
        gr.Warning(message, title=TEXTS[session.language].unusable)

    def accept(self, session: Session) -> Updates:
        """Begin the conversation that waits for the visitor's consent."""
        session.open(session.offered or session.dialogue)
        return self._show_all(session)

    def decline(self, session: Session) -> Updates:
        """Drop it, and go back to the conversation that is there."""
        session.offered = None
        return self._show_all(session)

    def clear(self, session: Session) -> Updates:
        """Begin anew with the same picture."""
        session.open(Dialogue(session.dialogue.picture))
        return self._show_all(session)

    def _show_all(self, session: Session) -> Updates:
        return {
            self.parts["picture"]: self._show_picture(session.dialogue.picture),
            self.parts["confirm"]: gr.update(visible=False),
            **self._show(session, interactive=True),
        }

    # What happens in the conversation.

    def ask(self, session: Session, question: str, *settings: float | None) -> Iterator[Updates]:
        """Answer a question that was typed."""
        if question.strip():
            yield from self._answer(session, question.strip(), settings, value="")

    def ask_example(self, session: Session, event: gr.SelectData, *settings: float | None) -> Iterator[Updates]:
        """Take an example's picture and answer its question."""
        if not 0 <= event.index < len(EXAMPLES):
            return
        name, asked = EXAMPLES[event.index]
        session.open(Dialogue(self.reader.from_file(str(EXAMPLES_FOLDER / name))))
        yield {self.parts["picture"]: self._show_picture(session.dialogue.picture)}
        yield from self._answer(session, asked[session.language], settings)

    def retry(self, session: Session, event: gr.RetryData, *settings: float | None) -> Iterator[Updates]:
        """Answer a question anew."""
        if question := session.cut(exchange_index(event)):
            yield from self._answer(session, question, settings)

    def ask_edited(self, session: Session, event: gr.EditData, *settings: float | None) -> Iterator[Updates]:
        """Answer a question as the visitor has changed it, in the place of the old one and all that came after."""
        question = event.value.replace(WORD_JOINER, "").strip()
        if len(question) > MAX_QUESTION:
            self._warn(session, TEXTS[session.language].too_long.format(count=MAX_QUESTION))
        else:
            session.cut(exchange_index(event))
            if question:
                yield from self._answer(session, question, settings)
        yield self._show(session)

    def undo(self, session: Session, event: gr.UndoData) -> Updates:
        """Take back a question and put it where it was typed."""
        question = session.cut(exchange_index(event))
        return self._show(session, value=question)

    def stop(self, session: Session) -> Updates:
        """End the answer that is being written."""
        session.stop()
        return self._show(session)

    def _answer(
        self, session: Session, question: str, settings: tuple[float | None, ...], **field: Any
    ) -> Iterator[Updates]:
        """Answer `question`; the first update changes the `field` for questions as well."""
        try:
            config = self.config.replace(**dict(zip(SETTINGS, settings, strict=True)))
        except SettingError as error:
            self._warn(session, str(error))
            return
        if session.reading is not None:
            session.reading.wait()  # a question that was sent while the picture was decoded is about that picture
        texts = TEXTS[session.language]
        if session.was_dropped:
            session.was_dropped = False
            self._warn(session, texts.removed)
            yield {**self._show(session), self.parts["picture"]: gr.update(value=None)}
            return
        dialogue = session.dialogue
        if len(dialogue.exchanges) >= MAX_TURNS:
            self._warn(session, texts.too_many_turns.format(count=MAX_TURNS))
            return
        for _ in session.ask(self.model, question, config):
            if session.dialogue is dialogue:
                yield self._show(session, **field)
            field = {}
        self.visitors.note(session)

    def _show(self, session: Session, **field: Any) -> Updates:
        """Return what shows the conversation, and the field for questions with Send or Stop beside it."""
        running = any(exchange.status is Status.RUNNING for exchange in session.dialogue.exchanges)
        return {
            self.parts["chat"]: self._messages(session),
            self.parts["question"]: gr.update(submit_btn=not running, stop_btn=running, **field),
        }

    def _messages(self, session: Session) -> list[dict[str, str]]:
        """Return the conversation as the chat takes it: two messages for each exchange, so that both are counted."""
        messages = []
        for exchange in session.dialogue.exchanges:
            messages.append({"role": "user", "content": as_words(exchange.question)})
            text = as_words(describe(exchange, session))
            if text or exchange.status is not Status.RUNNING:
                messages.append({"role": "assistant", "content": text})
        return messages

    # What is saved.

    def save_json(self, session: Session) -> dict[str, str]:
        """Write the conversation to a file that can be loaded again."""
        text, is_original = to_json(session.dialogue, self.folder)
        if not is_original:
            self._warn(session, TEXTS[session.language].preview_saved)
        return self._write("visualglm.json", text)

    def save_markdown(self, session: Session) -> dict[str, str]:
        """Write the conversation's words to a file to read."""
        return self._write("visualglm.md", to_markdown(session.dialogue, session.language))

    def _write(self, name: str, text: str) -> dict[str, str]:
        """Write a file into the upload folder; return what tells the browser to save it."""
        try:
            return {"name": name, "file": self.folder.save(text.encode(), name)}
        except UploadError as error:
            raise gr.Error(str(error), print_exception=False) from error


def as_words(text: str) -> str:
    """Return `text` so that the chat shows each character of it.

    The chat takes what looks like a tag for one, and would fetch a picture that it names. Where no name or mark follows
    the "<" of a tag or the "&" of an entity, both are plain characters.
    """
    return re.sub("([<&])(?=[a-zA-Z#!/?])", rf"\1{WORD_JOINER}", text)


def describe(exchange: Exchange, session: Session) -> str:
    """Return an answer as it is shown, with what is to be said about it."""
    note = TEXTS[session.language].note(exchange)
    return "\n\n".join(filter(None, [exchange.answer, note]))


def exchange_index(event: gr.RetryData | gr.UndoData | gr.EditData) -> int:
    """Return which exchange the message is in that `event` is about; -1 for none."""
    return int(event.index) // 2
