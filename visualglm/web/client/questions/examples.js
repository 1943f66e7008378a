/** Cards of example images, with questions that may be asked about them. */

import { askNext } from "../core/answers.js";
import { openDialog, toast } from "../core/dialogs.js";
import { element } from "../core/dom.js";
import { language, texts } from "../core/i18n.js";
import { takeImage } from "../image/image_intake.js";
import { isTouch } from "../image/image_sources.js";

const words = texts({
    en: {
        title: "Examples",
        open: (title) => `Open the example: ${title}`,
        failed: "The example cannot be loaded. Check the connection, then try again.",
    },
    zh: {
        title: "示例",
        open: (title) => `打开示例：${title}`,
        failed: "无法载入示例。请检查网络后重试。",
    },
});

/** Ask a question in the open conversation, and move the focus, since the clicked button may be gone. */
export function askHere(app, question) {
    askNext(app, question);
    document.getElementById(isTouch() ? "log" : "question").focus({ preventScroll: true }); // no keyboard pops up
}

/**
 * Make an example the image, and ask about it.
 *
 * @param {App} app
 * @param {Object} example - of PageInfo
 * @param {string|null} [question] - null only opens the image
 */
export async function openExample(app, example, question = null) {
    let file;
    try {
        const response = await fetch(example.image);
        if (!response.ok) throw new Error(response.statusText);
        file = await response.blob();
    } catch {
        toast(words.failed, { kind: "error" });
        return;
    }
    const isOpen = (await app.images.record(app.conversation.imageId ?? ""))?.example === example.image;
    const taken =
        isOpen ||
        (await takeImage(app, file, example.title[language()], {
            cause: "example",
            details: { example: example.image },
        }));
    if (taken && question) askHere(app, question);
}

/** Create the card of an example; `onOpen` is called when it is chosen. */
export function exampleCard(app, example, onOpen = () => {}) {
    const title = () => example.title[language()];
    const image = element("img", {
        src: example.preview,
        alt: "",
        loading: "lazy",
        width: 448,
        height: 448,
        draggable: "false",
    });
    const open = (question) => {
        onOpen();
        openExample(app, example, question);
    };
    const ask = example.questions[language()].map((_, index) => {
        const question = () => example.questions[language()][index] ?? "";
        return element("button.question-chip", { type: "button", onclick: () => open(question()) }, question);
    });
    const show = element(
        "button.example-image",
        { type: "button", "aria-label": () => words.open(title()), onclick: () => open(null) },
        image,
    );
    return element("li.example", {}, show, element("h3", {}, title), element("div.example-questions", {}, ask));
}

/** Open a dialog with all examples. */
export function openExamples(app) {
    const cards = app.info.examples.map((example) => exampleCard(app, example, () => dialog.close("")));
    const dialog = openDialog({
        title: words.title,
        className: "examples-dialog",
        content: [element("ul.examples", {}, cards)],
    });
}
