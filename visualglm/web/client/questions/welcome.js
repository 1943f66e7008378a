/** What an empty conversation shows: questions about its image, examples, a random scene, the drawing board. */

import { isEmpty } from "../core/conversation.js";
import { element, icon, replaceChildren } from "../core/dom.js";
import { onLanguage, texts } from "../core/i18n.js";
import { openDrawingBoard } from "../image/drawing.js";
import { drawRandomScene } from "../image/scene.js";
import { askHere, exampleCard } from "./examples.js";
import { suggestedQuestions } from "./suggestions.js";

const STARTERS = 4;
const words = texts({
    en: {
        starters: "Ask about your image",
        startersExample: "Ask about this image",
        examples: "Try an example",
        scene: "Draw me a random scene",
        sceneHint: "The model answers, and you check it against the true answer.",
        another: "Draw another scene",
        board: "Drawing board",
        boardHint: "Draw shapes, and see what the model makes of them.",
    },
    zh: {
        starters: "针对你的图片提问",
        startersExample: "针对这张图片提问",
        examples: "试试示例",
        scene: "给我画一个随机场景",
        sceneHint: "模型回答后，你可以对照正确答案。",
        another: "再画一个场景",
        board: "画板",
        boardHint: "画一些图形，看看模型怎么理解。",
    },
});

/** Create a wide button with an icon, a title and a line that explains it. */
function offer(iconName, title, hint, onclick) {
    const text = element("span.offer-text", {}, element("strong", {}, title), element("span", {}, hint));
    return element("button.offer", { type: "button", onclick }, icon(iconName), text);
}

/** Build the welcome, which is shown while the conversation has no turns. */
export function buildWelcome(app) {
    const welcome = document.getElementById("welcome");
    const subtitle = welcome.querySelector("p");
    const starters = element("div.starters", { hidden: true });
    const isScene = { current: false };
    const scene =
        app.info.features.scenes &&
        offer(
            "dice",
            () => (isScene.current ? words.another : words.scene),
            () => words.sceneHint,
            () => drawRandomScene(app),
        );
    const board = offer(
        "draw",
        () => words.board,
        () => words.boardHint,
        () => openDrawingBoard(app),
    );
    const examples = element(
        "ul.examples",
        {},
        app.info.examples.map((example) => exampleCard(app, example)),
    );
    const heading = app.info.examples.length > 0 && element("h3.examples-title", {}, () => words.examples);
    welcome.append(starters, element("div.offers", {}, scene, board), ...[heading, examples].filter(Boolean));

    const show = () => {
        welcome.hidden = !isEmpty(app.conversation);
    };
    const renderStarters = async () => {
        const { imageId } = app.conversation;
        const record = imageId ? await app.images.record(imageId) : null;
        if (imageId !== app.conversation.imageId) return;
        isScene.current = Boolean(record?.scene);
        starters.hidden = !record;
        subtitle.hidden = Boolean(record);
        if (scene) scene.querySelector("strong").textContent = isScene.current ? words.another : words.scene;
        if (!record) return;
        const title = record.scene || record.example ? words.startersExample : words.starters;
        const chips = suggestedQuestions(app.info, record)
            .slice(0, STARTERS)
            .map((question) =>
                element("button.question-chip", { type: "button", onclick: () => askHere(app, question) }, question),
            );
        replaceChildren(starters, element("h3", {}, title), element("div.starter-questions", {}, chips));
    };
    for (const name of ["open", "change", "running"]) app.on(name, show);
    app.on("image", renderStarters);
    onLanguage(renderStarters);
    show();
}
