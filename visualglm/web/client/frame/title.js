/** The title of the browser's tab: the conversation, and a mark while it answers or has answered in the background. */

import { titleOf } from "../core/conversation.js";

const NAME = "VisualGLM";
const MAX_LENGTH = 60; // characters of the conversation's name
const [ANSWERING, ANSWERED] = ["… ", "● "]; // marks of a tab that is not in view

/** Let the title follow the conversation and its answers. */
export function buildTitle(app) {
    let mark = "";
    const draw = () => {
        const name = titleOf(app.conversation).replace(/\s+/g, " ").slice(0, MAX_LENGTH);
        document.title = `${mark}${name ? `${name} - ${NAME}` : NAME}`;
    };
    const watch = () => {
        if (!document.hidden) mark = "";
        else if (app.running.size) mark = ANSWERING;
        else if (mark === ANSWERING) mark = ANSWERED;
        draw();
    };
    for (const event of ["open", "change", "image"]) app.on(event, draw);
    app.on("running", watch);
    document.addEventListener("visibilitychange", watch);
    watch();
}
