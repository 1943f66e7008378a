/** Build DOM nodes from data. Text is never parsed as HTML. A function in the place of a text follows the language. */

const dynamicTexts = new WeakMap(); // node -> {attribute or "": function that returns the text}

/**
 * Create an element.
 *
 * @param {string} tag - its tag, with optional classes: "button.primary"
 * @param {Object} attributes - "on..." keys add listeners, `dataset` and `style` are objects, false and null leave an
 *     attribute out, true sets an empty one, a function is evaluated now and after each change of the language
 * @param {...(Node|string|number|Function|Array|null)} children - nodes, texts, or functions that return a text
 * @returns {HTMLElement}
 */
export function element(tag, attributes = {}, ...children) {
    const [name, ...classes] = tag.split(".");
    const node = document.createElement(name);
    if (classes.length) node.className = classes.join(" ");
    for (const [key, value] of Object.entries(attributes)) setAttribute(node, key, value);
    append(node, children);
    return node;
}

/** Append children of the kinds that `element` takes. */
export function append(node, children) {
    for (const child of children.flat(Infinity)) {
        if (child === null || child === undefined || child === false) continue;
        node.append(typeof child === "function" ? dynamicText(child) : child);
    }
}

/** Replace all children of a node. */
export function replaceChildren(node, ...children) {
    node.replaceChildren();
    append(node, children);
}

/** Set an attribute of a node; see `element` for the kinds of values. */
export function setAttribute(node, key, value) {
    if (key.startsWith("on")) node.addEventListener(key.slice(2), value);
    else if (key === "dataset" || key === "style") Object.assign(node[key], value);
    else if (typeof value === "function") {
        remember(node, key, value);
        node.setAttribute(key, value());
    } else if (value === false || value === null || value === undefined) node.removeAttribute(key);
    else node.setAttribute(key, value === true ? "" : value);
}

function dynamicText(text) {
    const node = document.createTextNode(text());
    remember(node, "", text);
    return node;
}

function remember(node, key, text) {
    dynamicTexts.set(node, { ...dynamicTexts.get(node), [key]: text });
}

/** Evaluate the functions of all nodes below `root` again, after a change of the language. */
export function refreshTexts(root = document.body) {
    const walker = document.createTreeWalker(root, NodeFilter.SHOW_ELEMENT | NodeFilter.SHOW_TEXT);
    for (let node = root; node; node = walker.nextNode()) {
        for (const [key, text] of Object.entries(dynamicTexts.get(node) ?? {})) {
            if (key) node.setAttribute(key, text());
            else node.data = text();
        }
    }
}

const SVG = "http://www.w3.org/2000/svg";
// Paths of the icons, in a box of 24 x 24, drawn by a line.
const ICONS = {
    send: "M12 19V5M5 12l7-7 7 7",
    down: "M12 5v14M5 12l7 7 7-7",
    stop: "M7 7h10v10H7z",
    menu: "M4 7h16M4 12h16M4 17h16",
    close: "M6 6l12 12M18 6L6 18",
    settings: "M4 8h9M17 8h3M4 16h3M11 16h9M13 5v6M7 13v6",
    image: "M4 5h16v14H4zM4 16l5-5 4 4 3-3 4 4M9 9h.01",
    camera: "M4 8h4l2-3h4l2 3h4v11H4zM12 10a3 3 0 100 6 3 3 0 000-6",
    copy: "M9 9h11v11H9zM5 15H4V4h11v1",
    edit: "M4 20l1-5L16 4l4 4L9 19zM14 6l4 4",
    retry: "M20 11a8 8 0 10-2 6M20 5v6h-6",
    previous: "M15 5l-7 7 7 7",
    next: "M9 5l7 7-7 7",
    delete: "M5 7h14M10 7V4h4v3M7 7l1 13h8l1-13",
    more: "M5 12h.01M12 12h.01M19 12h.01",
    download: "M12 4v11M7 11l5 5 5-5M5 20h14",
    search: "M11 4a7 7 0 100 14 7 7 0 000-14M16 16l5 5",
    new: "M12 5v14M5 12h14",
    minus: "M5 12h14",
    undo: "M4 10h11a5 5 0 010 10h-4M8 6l-4 4 4 4",
    grid: "M4 4h7v7H4zM13 4h7v7h-7zM4 13h7v7H4zM13 13h7v7h-7z",
    dice: "M5 5h14v14H5zM9 9h.01M15 9h.01M12 12h.01M9 15h.01M15 15h.01",
    folder: "M3 6h7l2 2h9v11H3z",
    compare: "M4 5h7v14H4zM13 5h7v14h-7z",
    check: "M5 13l4 4L19 7",
    draw: "M4 20c3 0 3-3 5-3s2 3 5 3 3-3 6-3M14 4l4 4-8 8-5 1 1-5z",
    help: "M9 9a3 3 0 115 2c-1 1-2 1.500-2 3M12 18h.01",
    zoom: "M11 4a7 7 0 100 14 7 7 0 000-14M16 16l5 5M8 11h6M11 8v6",
    crop: "M7 3v14h14M3 7h14v14",
    target: "M12 5a7 7 0 100 14 7 7 0 000-14M12 2v6M12 16v6M2 12h6M16 12h6",
    share: "M12 15V4M8 8l4-4 4 4M5 13v7h14v-7",
};

/** Create an icon by its name; it is hidden from screen readers, so its button needs a label. */
export function icon(name) {
    const svg = document.createElementNS(SVG, "svg");
    svg.setAttribute("viewBox", "0 0 24 24");
    svg.setAttribute("class", "icon");
    svg.setAttribute("aria-hidden", "true");
    const path = document.createElementNS(SVG, "path");
    path.setAttribute("d", ICONS[name]);
    svg.append(path);
    return svg;
}

/** Create a button that shows an icon only; `label` (a function) is its name and its tooltip. */
export function iconButton(name, label, attributes = {}) {
    return element("button.icon-button", { type: "button", "aria-label": label, title: label, ...attributes }, icon(name));
}
