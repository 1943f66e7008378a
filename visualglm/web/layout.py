"""The components of the page and their arrangement; the module `page` handles their events."""

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
RANGES = {  # setting -> minimum, maximum and step of its slider
    "max_length": (64, 2048, 1),
    "top_p": (0, 1, 0.01),
    "top_k": (0, 200, 1),
    "temperature": (0, 2, 0.01),
    "repetition_penalty": (1, 2, 0.01),
}
SETTINGS = (*RANGES, "seed")
MAX_QUESTION = 10_000  # characters
MARKDOWN = re.compile(r"[\\`*_\[\]()<>&#$|~!]")  # Markdown syntax, to be escaped in a model's description
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
# Forwards an image that is pasted anywhere on the page to the image component, as a drop event.
PASTE_JS = """<script>
document.addEventListener("paste", (event) => {
    const file = [...event.clipboardData.files].find((file) => file.type.startsWith("image/"));
    const target = document.querySelector("#picture .upload-container");
    if (!file || !target) return;
    const dataTransfer = new DataTransfer();
    dataTransfer.items.add(file);
    target.dispatchEvent(new DragEvent("drop", {dataTransfer, bubbles: true, cancelable: true}));
    event.preventDefault();
});
</script>"""


def localized_properties(language: Language, description: Description) -> dict[str, dict[str, Any]]:
    """Return the properties that depend on the page's language, by component name."""
    texts = TEXTS[language]
    model = MARKDOWN.sub(r"\\\g<0>", make_printable(description.in_language(language)))
    return {
        "title": {"value": "\n\n".join(filter(None, [f"# VisualGLM\n{texts.subtitle}", model]))},
        "language": {"value": texts.other_language},
        "image": {"label": texts.image, "placeholder": texts.drop_image},
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
    """Return the examples that the empty chat shows."""
    return [{"text": questions[language], "icon": str(EXAMPLES_FOLDER / name)} for name, questions in EXAMPLES]


def build_components(config: GenerationConfig, language: Language, description: Description) -> dict[str, Any]:
    """Build the components in the current Blocks; return them by name.

    Args:
        config: the settings' initial values.
        language: of the page, until the visitor's browser requests another.
        description: of the model, shown below the title.
    """
    properties = localized_properties(language, description)
    components: dict[str, Any] = {}
    with gr.Row(elem_id="top"):
        components["title"] = gr.Markdown(**properties["title"])
        components["language"] = gr.Button(**properties["language"], size="sm", elem_id="language")
    with gr.Row():
        with gr.Column(scale=2, min_width=300, elem_id="side"):
            components |= build_image_panel(properties)
            components |= build_settings(config, properties) | build_file_buttons(properties)
        with gr.Column(scale=3, min_width=300):
            components |= build_chat(properties)
    return components


def build_image_panel(properties: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Build the image component, and the dialog that asks before a new image ends the conversation."""
    sources: Any = ["upload", "webcam", "clipboard"]
    image = gr.Image(
        **properties["image"], type="filepath", sources=sources, buttons=["fullscreen"], height=300, elem_id="picture"
    )
    with gr.Column(visible=False, elem_id="confirm") as confirm:
        confirm_text = gr.Markdown(**properties["confirm_text"])
        with gr.Row():
            start_new = gr.Button(**properties["start_new"], variant="primary", size="md", min_width=120)
            keep_old = gr.Button(**properties["keep_old"], size="md", min_width=120)
    return {
        "image": image,
        "confirm": confirm,
        "confirm_text": confirm_text,
        "start_new": start_new,
        "keep_old": keep_old,
    }


def build_settings(config: GenerationConfig, properties: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Build a slider for each sampling setting, at its value in `config`, and a field for the seed."""
    components: dict[str, Any] = {}
    with gr.Accordion(**properties["settings_box"], open=False, elem_id="settings") as components["settings_box"]:
        for name, (minimum, maximum, step) in RANGES.items():
            value = getattr(config, name)
            minimum, maximum = min(minimum, value), max(maximum, value)
            components[name] = gr.Slider(minimum, maximum, value, step=step, **properties[name])
        components["seed"] = gr.Number(config.seed, precision=0, minimum=0, **properties["seed"])
    return components


def build_file_buttons(properties: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Build the buttons that save and load a conversation."""
    components: dict[str, Any] = {}
    with gr.Accordion(**properties["files_box"], open=False, elem_id="files") as components["files_box"]:
        components["save_json"] = gr.Button(**properties["save_json"], size="md")
        components["save_markdown"] = gr.Button(**properties["save_markdown"], size="md")
        components["load"] = gr.UploadButton(**properties["load"], elem_id="load", file_types=[".json"], size="md")
        components["file"] = gr.JSON(visible=False)  # tells the browser which file to download
    return components


def build_chat(properties: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Build the chat, the text field for questions, and the button that clears the conversation."""
    chat = gr.Chatbot(
        **properties["chat"],
        height="min(34rem, 65vh)",
        buttons=["copy", "copy_all"],
        editable="user",
        render_markdown=False,  # questions and answers are untrusted text: tags and links in them must do nothing
        elem_id="chat",
    )
    question = gr.Textbox(
        **properties["question"],
        show_label=False,
        submit_btn=True,
        max_lines=6,
        max_length=MAX_QUESTION,
        autofocus=True,
        elem_id="question",
    )
    return {"chat": chat, "question": question, "clear": gr.Button(**properties["clear"], size="sm", elem_id="clear")}
