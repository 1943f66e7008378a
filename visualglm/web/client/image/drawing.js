/** A drawing board: a pen and stamps of the drawn world's shapes. The drawing becomes the image. */

import { openDialog } from "../core/dialogs.js";
import { append, element, icon } from "../core/dom.js";
import { texts } from "../core/i18n.js";
import { takeImage } from "./image_intake.js";
import { drawStamp, STAMPS } from "./stamps.js";

const SIDE = 448; // pixels of the canvas
const STEP = 14; // pixels of one press of an arrow key
const PAPER = "#fbf6ea";
const COLORS = {
    red: "#e02b20",
    orange: "#f2851c",
    yellow: "#fbd71d",
    green: "#2a9d3c",
    blue: "#2160d8",
    purple: "#8a2db0",
    white: "#ffffff",
    black: "#16181c",
};
const SIZES = { small: [4, 36], medium: [10, 52], large: [22, 70] }; // width of the pen, radius of a stamp
const words = texts({
    en: {
        title: "Drawing board",
        canvas: "Drawing. The arrow keys move the cross, Space stamps a shape, or puts the pen down and lifts it.",
        penDown: "The pen is down.",
        penUp: "The pen is up.",
        stamped: (kind) => `Stamped: ${kind}`,
        tool: "Pen and shapes",
        color: "Color",
        size: "Size",
        undo: "Undo",
        clear: "Clear",
        use: "Use this drawing",
        name: "drawing",
        tools: {
            pen: "pen",
            ball: "ball",
            box: "box",
            triangle: "triangle",
            star: "star",
            heart: "heart",
            ring: "ring",
            cross: "cross",
            moon: "moon",
            house: "house",
            car: "car",
            tree: "tree",
            fish: "fish",
        },
        colors: {
            red: "red",
            orange: "orange",
            yellow: "yellow",
            green: "green",
            blue: "blue",
            purple: "purple",
            white: "white",
            black: "black",
        },
        sizes: { small: "small", medium: "medium", large: "large" },
    },
    zh: {
        title: "画板",
        canvas: "画布。方向键移动十字，空格键盖印图形，或落笔、提笔。",
        penDown: "已落笔。",
        penUp: "已提笔。",
        stamped: (kind) => `已盖印：${kind}`,
        tool: "画笔和图形",
        color: "颜色",
        size: "大小",
        undo: "撤销",
        clear: "清空",
        use: "使用这幅画",
        name: "画",
        tools: {
            pen: "画笔",
            ball: "球",
            box: "方块",
            triangle: "三角形",
            star: "星星",
            heart: "爱心",
            ring: "圆环",
            cross: "十字",
            moon: "月牙",
            house: "房子",
            car: "汽车",
            tree: "树",
            fish: "鱼",
        },
        colors: {
            red: "红色",
            orange: "橙色",
            yellow: "黄色",
            green: "绿色",
            blue: "蓝色",
            purple: "紫色",
            white: "白色",
            black: "黑色",
        },
        sizes: { small: "小", medium: "中", large: "大" },
    },
});

/** What is drawn: lines and stamps in their order, and the tool in use. It outlives the dialog, which may be closed by accident. */
const board = { marks: [], tool: "star", color: "red", size: "large" };

/** Draw one mark. */
function drawMark(context, { tool, color, size, points }) {
    const [width, radius] = SIZES[size];
    const [first, ...rest] = points;
    if (tool !== "pen") return drawStamp(context, tool, COLORS[color], first.x, first.y, radius);
    context.strokeStyle = COLORS[color];
    Object.assign(context, { lineWidth: width, lineCap: "round", lineJoin: "round" });
    context.beginPath();
    context.moveTo(first.x, first.y);
    for (const { x, y } of rest.length ? rest : [first]) context.lineTo(x, y);
    context.stroke();
}

/** Draw the paper, the marks, and faintly what the pointer would stamp at `ghost`. */
function drawBoard(canvas, ghost = null) {
    const context = canvas.getContext("2d");
    context.fillStyle = PAPER;
    context.fillRect(0, 0, SIDE, SIDE);
    for (const mark of board.marks) drawMark(context, mark);
    if (!ghost || board.tool === "pen") return;
    context.globalAlpha = 0.35;
    drawMark(context, { ...board, points: [ghost] });
    context.globalAlpha = 1;
}

/** Create radio buttons that show icons; `choices` maps a value to [name, node]. */
function buildChoices(property, label, choices, onChange) {
    const fieldset = element("fieldset.drawing-choices", { dataset: { property } }, element("legend", {}, label));
    for (const [value, [name, node]] of Object.entries(choices)) {
        const input = element("input", { type: "radio", name: `drawing-${property}`, value, "aria-label": name });
        input.checked = board[property] === value;
        input.addEventListener("change", () => {
            board[property] = value;
            onChange();
        });
        append(fieldset, [element("label", { title: name }, input, node)]);
    }
    return fieldset;
}

function stampIcon(kind) {
    const svg = icon("draw");
    if (kind === "pen") return svg;
    svg.setAttribute("viewBox", "-1.1 -1.1 2.2 2.2");
    svg.classList.add("stamp");
    svg.firstElementChild.setAttribute("d", STAMPS[kind].path);
    svg.firstElementChild.setAttribute("fill-rule", "evenodd");
    return svg;
}

function buildToolbar(onChange) {
    const named = (names, node) => Object.fromEntries(Object.keys(names).map((key) => [key, [names[key], node(key)]]));
    const swatch = (color) => element("span.swatch", { style: { background: COLORS[color] } });
    const dot = (size) =>
        element("span.dot", { style: { width: `${SIZES[size][0] + 2}px`, height: `${SIZES[size][0] + 2}px` } });
    return element(
        "div.drawing-tools",
        {},
        buildChoices("tool", words.tool, named(words.tools, stampIcon), onChange),
        buildChoices("color", words.color, named(words.colors, swatch), onChange),
        buildChoices("size", words.size, named(words.sizes, dot), onChange),
    );
}

/** Let a pointer draw: the pen draws lines, stamps follow the pointer until they are put down. */
function listenToPointer(canvas, pointOf, redraw) {
    let mark = null;
    canvas.addEventListener("pointerdown", (event) => {
        if (event.button) return;
        event.preventDefault();
        canvas.focus({ preventScroll: true });
        canvas.setPointerCapture(event.pointerId);
        mark = { ...markStyle(), points: [pointOf(event)] };
        board.marks.push(mark);
        redraw();
    });
    canvas.addEventListener("pointermove", (event) => {
        if (mark?.tool === "pen") mark.points.push(pointOf(event));
        else if (mark) mark.points = [pointOf(event)];
        redraw(mark || event.pointerType === "touch" ? null : pointOf(event));
    });
    const end = () => {
        mark = null;
        redraw();
    };
    for (const name of ["pointerup", "pointercancel", "pointerleave"]) canvas.addEventListener(name, end);
}

function markStyle() {
    return { tool: board.tool, color: board.color, size: board.size };
}

/** Let the arrow keys move a cross, and Space or Enter draw at it. */
function listenToKeys(canvas, cross, redraw, say) {
    const at = { x: SIDE / 2, y: SIDE / 2 };
    let line = null; // while the pen is down
    const place = () => Object.assign(cross.style, { left: `${(at.x / SIDE) * 100}%`, top: `${(at.y / SIDE) * 100}%` });
    const mark = () => {
        if (line) {
            line = null;
            return say(words.penUp);
        }
        const added = { ...markStyle(), points: [{ ...at }] };
        board.marks.push(added);
        if (board.tool === "pen") line = added;
        redraw();
        return say(line ? words.penDown : words.stamped(words.tools[board.tool]));
    };
    canvas.addEventListener("keydown", (event) => {
        const [dx, dy] = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key] ?? [
            0, 0,
        ];
        if (event.key === " " || event.key === "Enter") mark();
        else if (dx || dy) {
            at.x = Math.min(SIDE, Math.max(0, at.x + dx * STEP));
            at.y = Math.min(SIDE, Math.max(0, at.y + dy * STEP));
            line?.points.push({ ...at });
            place();
            redraw();
        } else return;
        event.preventDefault();
    });
    canvas.addEventListener("blur", () => {
        line = null;
    });
    place();
}

/** Open the drawing board. */
export function openDrawingBoard(app) {
    const canvas = element("canvas.drawing-canvas", {
        width: SIDE,
        height: SIDE,
        tabindex: "0",
        role: "application",
        "aria-label": words.canvas,
    });
    const cross = element("span.drawing-cross", { "aria-hidden": "true" });
    const status = element("p.visually-hidden", { role: "status" });
    const undo = element("button.button", { type: "button" }, icon("undo"), words.undo);
    const clear = element("button.button", { type: "button" }, icon("delete"), words.clear);
    const use = element("button.button.primary", { type: "button" }, words.use);
    const redraw = (ghost) => {
        drawBoard(canvas, ghost);
        for (const button of [undo, clear, use]) button.disabled = board.marks.length === 0;
    };
    const change = (marks) => {
        board.marks = marks;
        redraw();
        canvas.focus(); // the button may be disabled now
    };
    undo.addEventListener("click", () => change(board.marks.slice(0, -1)));
    clear.addEventListener("click", () => change([]));
    use.addEventListener("click", async () => {
        drawBoard(canvas);
        const blob = await new Promise((resolve) => canvas.toBlob(resolve, "image/png"));
        dialog.close("");
        takeImage(app, blob, `${words.name}.png`, { cause: "drawing" });
    });
    const pointOf = ({ clientX, clientY }) => {
        const { left, top, width, height } = canvas.getBoundingClientRect();
        return { x: ((clientX - left) / width) * SIDE, y: ((clientY - top) / height) * SIDE };
    };
    listenToPointer(canvas, pointOf, redraw);
    listenToKeys(canvas, cross, redraw, (text) => (status.textContent = text));
    const stage = element("div.drawing-stage", {}, canvas, cross);
    const side = element(
        "div.drawing-side",
        {},
        buildToolbar(redraw),
        element("div.dialog-actions", {}, undo, clear, use),
    );
    const dialog = openDialog({ title: words.title, className: "drawing-dialog", content: [stage, side, status] });
    redraw();
    canvas.focus();
}
