"""The commands of the terminal chat that change or show settings, and that save and load conversations."""

import dataclasses
import difflib
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from model import CHINESE, Language, SettingError, VisualGLMError
from model.engine.config import FLAGS, RANGES
from model.file_writing import write_text_atomically

from ..conversation_file import MAX_BYTES, from_json, to_json, to_markdown, to_text
from ..error_texts import describe_error, translate_message
from .output import Screen
from .session import ChatSession, to_path
from .texts import TEXTS, Texts, count_turns

VERBOSE = "verbose"
HELP_INDENT = 20  # columns before the explanation of a command
SETTINGS = (*FLAGS, "max_new_tokens", VERBOSE)
SWITCH = {"on": True, "true": True, "1": True, "yes": True, "off": False, "false": False, "0": False, "no": False}
NO_VALUE = ("none", "random", "随机", "无")  # for the settings that may be None
COMMAND = re.compile(r"/[A-Za-z?]+")
WRITERS = {".md": to_markdown, ".markdown": to_markdown, ".txt": to_text}


def parse_command(line: str) -> tuple[str, str] | None:
    """Split a line into a command, known or not, and its argument; None if it is none, such as an absolute path."""
    name, _, argument = line.partition(" ")
    return (name.lower(), argument.strip()) if COMMAND.fullmatch(name) else None


def suggest(name: str, known: list[str], texts: Texts) -> str:
    """Return a sentence that names the most similar known word; "" if none is similar."""
    similar = difflib.get_close_matches(name, known, 1) or [word for word in known if word.startswith(name)][:1]
    return texts.did_you_mean.format(name=similar[0]) if similar else ""


class Commands:
    """Commands on a session, with their output.

    Args:
        session: what the commands change.
        screen: where they write.
        language: of the texts.
        confirm: asks a yes/no question.
    """

    def __init__(
        self, session: ChatSession, screen: Screen, language: Language, confirm: Callable[[str], bool]
    ) -> None:
        self.session = session
        self.screen = screen
        self.language = language
        self.texts = TEXTS[language]
        self.confirm = confirm

    def reject(self, name: str) -> None:
        """Say that there is no such command."""
        hint = suggest(name, [*self.texts.commands], self.texts) or self.texts.see_help
        self.screen.show(join(self.texts.unknown_command.format(name=name), hint, self.language), "error")

    def needs(self, name: str) -> None:
        """Say that a command lacks its argument."""
        argument, _ = self.texts.commands[name]
        self.screen.show(self.texts.needs_argument.format(name=name, argument=argument), "error")

    def show_help(self) -> None:
        """List the commands and keys."""
        for name, (argument, text) in self.texts.commands.items():
            self.screen.start_line(HELP_INDENT)
            self.screen.write(f"  {name} {argument}".ljust(HELP_INDENT - sum(map(is_wide, argument))), "label")
            self.screen.show(text)
        self.screen.show(self.texts.keys, "note")

    def set_value(self, argument: str) -> None:
        """Change a setting, or show it if no value is given."""
        name, _, text = re.sub(r"\s*=\s*|\s+", " ", argument).partition(" ")
        name = name.replace("-", "_").lower()
        if not name:
            return self.show_settings()
        if name not in SETTINGS:
            hint = suggest(name, list(SETTINGS), self.texts)
            known = self.texts.unknown_setting.format(name=name, names=", ".join(SETTINGS))
            return self.screen.show(join(known, hint, self.language), "error")
        if text:
            try:
                self.change(name, text)
            except SettingError as error:
                return self.screen.show(describe_error(error, self.language), "error")
        return self.show_setting(name)

    def change(self, name: str, text: str) -> None:
        """Change a setting to the value in `text`; raise SettingError if it is not valid."""
        session = self.session
        if name == VERBOSE:
            if text.lower() not in SWITCH:
                raise SettingError(f"{name} is {text!r}; it should be on or off.")
            session.is_verbose = SWITCH[text.lower()]
            return
        is_none = text.lower() in NO_VALUE and RANGES[name].is_optional
        changes: dict[str, Any] = {name: None if is_none else to_number(text)}
        session.config = dataclasses.replace(session.config, **changes)

    def show_setting(self, name: str) -> None:
        """Write a setting and its value."""
        self.screen.show("  " + self.texts.set_value.format(name=name, value=self.setting_text(name)))

    def show_settings(self) -> None:
        """Write all settings."""
        for name in SETTINGS:
            self.show_setting(name)

    def setting_text(self, name: str) -> str:
        """Return the value of a setting as text."""
        if name == VERBOSE:
            return "on" if self.session.is_verbose else "off"
        value = getattr(self.session.config, name)
        return (self.texts.random if name == "seed" else self.texts.labels["none"]) if value is None else str(value)

    def show_all(self) -> None:
        """Write the settings, facts about the model, and the conversation."""
        self.screen.show(self.texts.settings, "title")
        self.show_settings()
        self.screen.show(self.texts.labels["model"].capitalize(), "title")
        for label, value in self.model_facts().items():
            self.show_fact(label, value)
        self.screen.show(self.texts.conversation, "title")
        image = self.session.image
        self.show_fact(self.texts.labels["image"], image.name if image else self.texts.labels["none"])
        self.show_turns()

    def show_fact(self, label: str, value: object) -> None:
        """Write a value with its label."""
        colon = "：" if self.language is CHINESE else ": "
        self.screen.show(f"  {label}{colon}{value}")

    def show_turns(self) -> None:
        """Write the conversation."""
        for turn in self.session.conversation.turns:
            for label, text in ((self.texts.ask_question, turn.question), (self.texts.answer, turn.answer)):
                self.screen.write(label, "label")
                self.screen.show(text)

    def model_facts(self) -> dict[str, Any]:
        """Return the known facts about the model by their labels."""
        model, labels = self.session.model, self.texts.labels
        facts = getattr(model, "facts", None)
        bits = getattr(facts, "quantized_bits", None)
        parameters = getattr(facts, "parameters", None)
        values = {
            "model": model.description.in_language(self.language),
            "device": getattr(facts, "device", None),
            "dtype": getattr(facts, "dtype", None),
            "quantization": (labels["bits"].format(bits) if bits else labels["none"]) if facts else None,
            "parameters": f"{parameters:,}" if parameters else None,
        }
        return {labels[name]: value for name, value in values.items() if value}

    def save(self, argument: str) -> None:
        """Save the conversation, as JSON or as text by the file's ending; ask before replacing a file."""
        turns = self.session.conversation.turns
        image = self.session.image
        if not turns and image is None:
            return self.screen.show(self.texts.nothing_to_save, "error")
        path = to_file(argument or time.strftime("visualglm-%Y%m%d-%H%M%S.json"))
        path = path if path.suffix else path.with_suffix(".json")
        if path.exists() and not self.confirm(self.texts.confirm_overwrite.format(path=path)):
            return None
        write = WRITERS.get(path.suffix.lower())
        language = self.session.conversation.language
        text = write(turns, language) if write else to_json(image.original if image else None, turns)
        try:
            write_text_atomically(path, text)
        except (OSError, ValueError) as error:
            return self.show_file_error(self.texts.not_saved, path, error)
        return self.screen.show(self.texts.saved.format(path=path), "note")

    def load(self, argument: str) -> bool:
        """Load a saved conversation; return whether it was possible."""
        path = to_file(argument)
        try:
            with path.open("rb") as file:
                saved = from_json(file.read(MAX_BYTES + 1))
            self.session.open_saved(str(path), saved)
        except VisualGLMError as error:
            self.screen.show(describe_error(error, self.language), "error")
        except (OSError, ValueError) as error:
            self.show_file_error(self.texts.not_read, path, error)
        else:
            count = len(saved.turns)
            self.screen.show(self.texts.loaded.format(path=path, count=count, turns=count_turns(count)), "note")
            return True
        return False

    def show_file_error(self, text: str, path: Path, error: Exception) -> None:
        """Say why a file could not be saved or read."""
        reason = getattr(error, "strerror", None) or str(error)
        reason = translate_message(reason) if self.language is CHINESE else reason
        self.screen.show(text.format(path=path, reason=reason), "error")


def to_file(text: str) -> Path:
    """Return the path that a user typed, without quotes, escapes of spaces, or file://."""
    path = re.sub(r"\\(.)", r"\1", to_path(text).strip().strip("\"'"))
    try:
        return Path(path).expanduser()
    except RuntimeError:  # no such user
        return Path(path)


def to_number(text: str) -> int | float | str:
    """Convert text to a number; other text is returned unchanged, for the error message of the setting."""
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def join(first: str, second: str, language: Language) -> str:
    """Join two sentences, with a space in English."""
    return first + second if language is CHINESE else f"{first} {second}".rstrip()


def is_wide(character: str) -> bool:
    """Return whether a character of a help text takes two columns."""
    return character > "\u2e7f"
