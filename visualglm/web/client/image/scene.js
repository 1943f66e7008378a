/** Random scenes of the drawn world, and their true answers to check the model's against. */

import { drawScene } from "../core/api.js";
import { isComplete } from "../core/conversation.js";
import { toast } from "../core/dialogs.js";
import { element, replaceChildren } from "../core/dom.js";
import { language, texts } from "../core/i18n.js";
import { setHidden } from "../log/log_parts.js";
import { takeImage } from "./image_intake.js";

const SEEDS = 1_000_000; // few, so that the names of scenes are short
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
 * Create the card with the true answer, which the log shows under a finished answer about a scene.
 *
 * @param {App} app
 * @returns {{element: HTMLElement, update: function(Object)}} `update` takes the node of the answer
 */
export function truthView(app) {
    let node = null;
    let answer = null; // in both languages
    let drawn = ""; // what the card depends on, as it was drawn last
    const text = element("p", { tabindex: "-1" });
    const button = element(
        "button.button",
        { type: "button", onclick: reveal, "data-action": "truth" },
        () => words.reveal,
    );
    const card = element("div.truth", { hidden: true }, button, text);

    async function update(newNode) {
        node = newNode;
        const { imageId } = app.conversation;
        const state = JSON.stringify([node.id, node.status, node.question, node.isRevealed, imageId, language()]);
        if (state === drawn) return; // a redraw of 1000 rounds reads no image again
        drawn = state;
        const record = imageId && isComplete(node) ? await app.images.record(imageId) : null;
        if (node !== newNode) return;
        answer = trueAnswer(record, node.question);
        draw();
    }

    function draw() {
        setHidden(card, !answer);
        setHidden(button, Boolean(node.isRevealed));
        setHidden(text, !node.isRevealed);
        if (answer) replaceChildren(text, element("strong", {}, words.truth), " ", answer[language()]);
    }

    function reveal() {
        node.isRevealed = true; // stored with the conversation
        app.save();
        draw();
        text.focus();
    }

    return { element: card, update };
}
