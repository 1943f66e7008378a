/** Random scenes of the drawn world, and their true answers to check the model's against. */

import { drawScene } from "./api.js";
import { toast } from "./dialogs.js";
import { element, setAttribute } from "./dom.js";
import { language, texts } from "./i18n.js";
import { takeImage } from "./image_intake.js";

const SEEDS = 2 ** 31;
const words = texts({
    en: {
        name: (seed) => `scene ${seed}.png`,
        truth: "True answer:",
        reveal: "Show the true answer",
    },
    zh: {
        name: (seed) => `场景 ${seed}.png`,
        truth: "正确答案：",
        reveal: "显示正确答案",
    },
});

/** Return the file of a data URL. (`fetch` of such an address needs a permission of the page's own policy.) */
function fileOf(dataUrl) {
    const [head, data] = dataUrl.split(",");
    const bytes = Uint8Array.from(atob(data), (character) => character.charCodeAt(0));
    return new Blob([bytes], { type: head.slice("data:".length).split(";")[0] });
}

/** Draw a random scene, which becomes the image; its questions and true answers are stored with it. */
export async function drawRandomScene(app) {
    try {
        const { seed, image, questions } = await drawScene(Math.floor(Math.random() * SEEDS));
        return await takeImage(app, fileOf(image), words.name(seed), {
            cause: "scene",
            details: { scene: { seed, questions } },
        });
    } catch (error) {
        toast(error.message, { kind: "error" });
        return null;
    }
}

/** Return the true answer to a question about a scene in both languages, null if it is not known. */
export function trueAnswer(record, question) {
    const asked = record?.scene?.questions.find((known) => Object.values(known.question).includes(question));
    return asked?.answer ?? null;
}

/**
 * Create the card with the true answer that the log shows under a finished answer about a scene.
 *
 * @param {App} app
 * @param {Object} node - of the conversation that is shown
 * @returns {Promise<HTMLElement|null>} null if there is no true answer
 */
export async function truthCard(app, node) {
    const { imageId } = app.conversation;
    const answer = imageId ? trueAnswer(await app.record(imageId), node.question) : null;
    if (!answer) return null;
    const text = element(
        "span",
        { hidden: !node.isRevealed },
        element("strong", {}, () => words.truth),
        " ",
        () => answer[language()],
    );
    const button = element("button.button", { type: "button", hidden: node.isRevealed }, () => words.reveal);
    button.addEventListener("click", () => {
        node.isRevealed = true; // stored with the conversation
        app.save();
        text.hidden = false;
        button.hidden = true;
        setAttribute(text, "tabindex", "-1");
        text.focus();
    });
    return element("div.truth", { role: "note" }, button, text);
}
