/** Starts the page: reads what the server says of itself, opens the store, builds the parts, restores the state. */

import { App } from "./core/app.js";
import { element, setAttribute, replaceChildren } from "./core/dom.js";
import { language, setLanguage, texts } from "./core/i18n.js";
import { openStore } from "./store/store.js";
import { buildCompare } from "./compare/compare.js";
import { buildComposer } from "./questions/composer.js";
import { buildConversations } from "./conversations/conversations.js";
import { buildExplanations } from "./explain/explanation.js";
import { buildFiles } from "./files/files.js";
import { buildFolder } from "./folder/folder.js";
import { buildImagePanel } from "./image/image_panel.js";
import { buildLog } from "./log/log.js";
import { buildSettings } from "./settings/settings.js";
import { buildShortcuts } from "./frame/shortcuts.js";
import { buildStatus } from "./frame/status.js";
import { buildTitle } from "./frame/title.js";
import { buildWelcome } from "./questions/welcome.js";

const PARTS = [
    buildStatus,
    buildTitle,
    buildImagePanel,
    buildExplanations,
    buildLog,
    buildWelcome,
    buildComposer,
    buildCompare,
    buildConversations,
    buildSettings,
    buildFiles,
    buildFolder,
    buildShortcuts,
];

/** Let the texts of the shell, which the server filled in, follow the language. `tables` are those of shell_texts.json. */
function localizeShell(tables) {
    const words = texts(tables);
    const bind = (key, apply) => {
        for (const node of document.querySelectorAll(`#visualglm [data-${key}]`)) {
            const name = node.dataset[key];
            apply(node, () => words[name]);
        }
    };
    bind("text", (node, text) => replaceChildren(node, text));
    bind("label", (node, text) => setAttribute(node, "aria-label", text));
    bind("placeholder", (node, text) => setAttribute(node, "placeholder", text));
}

/** Fit the page into what a phone's keyboard leaves of the screen. Some browsers also scroll to the field by themselves. */
function followKeyboard() {
    const viewport = window.visualViewport;
    if (!viewport) return;
    const fit = () => {
        const isZoomed = viewport.scale > 1.01; // a pinch must not change the layout
        if (isZoomed) return;
        const { style } = document.documentElement;
        style.setProperty("--viewport-height", `${viewport.height}px`);
        style.setProperty("--viewport-top", `${viewport.offsetTop}px`);
    };
    for (const name of ["resize", "scroll"]) viewport.addEventListener(name, fit);
    fit();
}

/** Put a plain element in the place of Gradio's `main`: the page has one of its own, and a landmark may not hold others. */
function replaceLandmark(main) {
    if (!main) return;
    const plain = element("div");
    for (const { name, value } of main.attributes) plain.setAttribute(name, value);
    plain.append(...main.childNodes);
    main.replaceWith(plain);
}

/** Keep the messages above the question field, however high it is. */
function placeMessages(root) {
    const form = document.getElementById("composer");
    const place = () => {
        const isShown = form.offsetParent !== null;
        const space = isShown ? root.getBoundingClientRect().bottom - form.getBoundingClientRect().top : 0;
        root.style.setProperty("--composer-space", `${space}px`);
    };
    const observer = new ResizeObserver(place);
    for (const node of [form, root]) observer.observe(node);
}

async function start() {
    const info = JSON.parse(document.getElementById("page-info").textContent);
    const store = await openStore(info.user, info.features.history);
    const chosen = await store.get("values", "language");
    const wanted = new URLSearchParams(location.search).get("lang");
    setLanguage(wanted ? language() : (chosen?.value ?? language()));
    localizeShell(info.shell);
    const app = new App(info, store);
    for (const build of PARTS) build(app);
    followKeyboard();
    placeMessages(document.getElementById("visualglm"));
    await app.restore(() => document.getElementById("question").value);
    document.getElementById("visualglm").dataset.ready = "";
    return app;
}

const root = document.getElementById("visualglm");
window.visualglm = {
    app: start(),
    /** Move the page into the component that Gradio has made for it; the focus and what was typed stay. */
    mount(place) {
        const { activeElement: active } = document;
        const selection = active && "selectionStart" in active ? [active.selectionStart, active.selectionEnd] : null;
        replaceLandmark(place.closest("main"));
        if (place.moveBefore) place.moveBefore(root, null); // scroll positions and dialogs stay, too
        else place.append(root);
        if (active && root.contains(active)) {
            active.focus({ preventScroll: true });
            if (selection && selection[0] !== null) active.setSelectionRange(...selection);
        }
    },
};
