"""The parts of the page and where they stand; what they do is in `page`."""

import re
from pathlib import Path
from typing import Any

import gradio as gr

from model import CHINESE, ENGLISH, GenerationConfig, Language
from model.command_line import make_printable
from model.description import Description

from .texts import TEXTS

INSTALLED_EXAMPLES = Path(__file__).parent / "examples"  # in a wheel
EXAMPLES_FOLDER = INSTALLED_EXAMPLES if INSTALLED_EXAMPLES.is_dir() else Path(__file__).parents[2] / "examples"
EXAMPLES = [
    ("scene.png", {CHINESE: CHINESE.describe, ENGLISH: ENGLISH.describe}),
    ("scene_2.png", {CHINESE: "图片里有几个物体？", ENGLISH: "How many objects are there?"}),
    ("scene_3.png", {CHINESE: "图片里有什么？", ENGLISH: "What is in the picture?"}),
    ("hand_drawn.png", {CHINESE: "星星是什么颜色？", ENGLISH: "What colour is the star?"}),
]
RANGES = {  # setting -> least, most and step of its slider
    "max_length": (64, 2048, 1),
    "top_p": (0, 1, 0.01),
    "top_k": (0, 200, 1),
    "temperature": (0, 2, 0.01),
    "repetition_penalty": (1, 2, 0.01),
}
SETTINGS = (*RANGES, "seed")
MAX_QUESTION = 10_000  # characters
MARKDOWN = re.compile(r"[\\`*_\[\]()<>&#$|~!]")  # what would be markup in a model's description
CSS = """
#top { align-items: center; }
#language { flex: 0 0 auto; min-width: 6rem; }
#clear { align-self: flex-end; min-width: 9rem; width: auto; }
#confirm { border: 1px solid var(--border-color-accent); border-radius: var(--radius-lg); padding: var(--spacing-lg); }
@media (max-width: 700px) {  /* the settings move below the conversation */
    #side { display: contents; }
    #picture { height: 220px !important; }
    #chat { height: 50vh !important; }
    #chat .examples { grid-template-columns: 1fr 1fr; padding: var(--spacing-sm); gap: var(--spacing-sm); }
    #chat .example { padding: var(--spacing-md); }
    #settings, #files { order: 1; }
}
"""
# A picture that is pasted anywhere on the page is dropped on the place for pictures.
PASTE_JS = """<script>
document.addEventListener("paste", (event) => {
    const file = [...event.clipboardData.files].find((file) => file.type.startsWith("image/"));
    const place = document.querySelector("#picture .upload-container");
    if (!file || !place) return;
    const dataTransfer = new DataTransfer();
    dataTransfer.items.add(file);
    place.dispatchEvent(new DragEvent("drop", {dataTransfer, bubbles: true, cancelable: true}));
    event.preventDefault();
});
</script>"""


def words(language: Language, description: Description) -> dict[str, dict[str, Any]]:
    """Return, for each component by name, the properties that depend on the page's language."""
    texts = TEXTS[language]
    model = MARKDOWN.sub(r"\\\g<0>", make_printable(description.in_language(language)))
    return {
        "title": {"value": "\n\n".join(filter(None, [f"# VisualGLM\n{texts.subtitle}", model]))},
        "language": {"value": texts.other_language},
        "picture": {"label": texts.picture, "placeholder": texts.drop_picture},
        "confirm_text": {"value": texts.confirm},
        "start_new": {"value": texts.start_new},
        "keep_old": {"value": texts.keep_old},
        "chat": {"label": texts.chat, "placeholder": texts.welcome, "examples": list_examples(language)},
        "question": {"placeholder": texts.ask},
        "clear": {"value": texts.clear},
        "settings_box": {"label": texts.settings_title},
        **{name: {"label": label, "info": info} for name, (label, info) in texts.settings.items()},
        "files_box": {"label": texts.files_title},
        "save_json": {"value": texts.save_json},
        "save_markdown": {"value": texts.save_markdown},
        "load": {"label": texts.load},
    }


def list_examples(language: Language) -> list[dict[str, Any]]:
    """Return what the chat offers while it is empty."""
    return [{"text": asked[language], "icon": str(EXAMPLES_FOLDER / name)} for name, asked in EXAMPLES]


def lay_out(config: GenerationConfig, language: Language, description: Description) -> dict[str, Any]:
    """Build the components in the current Blocks; return them by name.

    Args:
        config: the settings to begin with.
        language: of the page until a visitor's browser tells another.
        description: of the model, shown below the title.
    """
    said = words(language, description)
    parts: dict[str, Any] = {}
    with gr.Row(elem_id="top"):
        parts["title"] = gr.Markdown(**said["title"])
        parts["language"] = gr.Button(**said["language"], size="sm", elem_id="language")
    with gr.Row():
        with gr.Column(scale=2, min_width=300, elem_id="side"):
            parts |= lay_out_picture(said) | lay_out_settings(config, said) | lay_out_files(said)
        with gr.Column(scale=3, min_width=300):
            parts |= lay_out_chat(said)
    return parts


def lay_out_picture(said: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Build the picture and the question whether another one may end the conversation."""
    sources: Any = ["upload", "webcam", "clipboard"]
    picture = gr.Image(
        **said["picture"], type="filepath", sources=sources, buttons=["fullscreen"], height=300, elem_id="picture"
    )
    with gr.Column(visible=False, elem_id="confirm") as confirm:
        confirm_text = gr.Markdown(**said["confirm_text"])
        with gr.Row():
            start_new = gr.Button(**said["start_new"], variant="primary", size="md", min_width=120)
            keep_old = gr.Button(**said["keep_old"], size="md", min_width=120)
    return {
        "picture": picture,
        "confirm": confirm,
        "confirm_text": confirm_text,
        "start_new": start_new,
        "keep_old": keep_old,
    }


def lay_out_settings(config: GenerationConfig, said: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Build a slider for each setting, which holds what `config` has, and a field for the seed."""
    parts: dict[str, Any] = {}
    with gr.Accordion(**said["settings_box"], open=False, elem_id="settings") as parts["settings_box"]:
        for name, (least, most, step) in RANGES.items():
            value = getattr(config, name)
            least, most = min(least, value), max(most, value)
            parts[name] = gr.Slider(least, most, value, step=step, **said[name])
        parts["seed"] = gr.Number(config.seed, precision=0, minimum=0, **said["seed"])
    return parts


def lay_out_files(said: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Build the buttons that save and load a conversation."""
    parts: dict[str, Any] = {}
    with gr.Accordion(**said["files_box"], open=False, elem_id="files") as parts["files_box"]:
        parts["save_json"] = gr.Button(**said["save_json"], size="md")
        parts["save_markdown"] = gr.Button(**said["save_markdown"], size="md")
        parts["load"] = gr.UploadButton(**said["load"], elem_id="load", file_types=[".json"], size="md")
        parts["file"] = gr.JSON(visible=False)  # carries what is saved to the browser
    return parts


def lay_out_chat(said: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Build the conversation and the field for the next question."""
    chat = gr.Chatbot(
        **said["chat"],
        height="min(34rem, 65vh)",
        buttons=["copy", "copy_all"],
        editable="user",
        render_markdown=False,  # what people and the model write is words: no tag or link in it does anything
        elem_id="chat",
    )
    question = gr.Textbox(
        **said["question"],
        show_label=False,
        submit_btn=True,
        max_lines=6,
        max_length=MAX_QUESTION,
        autofocus=True,
        elem_id="question",
    )
    return {"chat": chat, "question": question, "clear": gr.Button(**said["clear"], size="sm", elem_id="clear")}
