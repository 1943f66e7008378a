/** A map over the image of the conversation: dark where a word of an answer does not rely on the image. */

import { element } from "../core/dom.js";
import { texts } from "../core/i18n.js";

const SIDE = 512; // pixels of the longer side
const DARKNESS = 0.75; // of a patch whose number is 0
const RING = 1.6; // radius around the highest patch, in patches
const words = texts({
    en: { places: ["upper left", "top", "upper right", "left", "middle", "right", "lower left", "bottom", "lower right"] },
    zh: { places: ["左上方", "上方", "右上方", "左侧", "中间", "右侧", "左下方", "下方", "右下方"] },
});

/**
 * Decode a map that the server has sent.
 *
 * @param {string} data - base64 of a byte for each patch, by rows
 * @returns {{rows: number, columns: number, levels: Uint8Array}}
 */
export function readMap(data, rows, columns) {
    return { rows, columns, levels: Uint8Array.from(atob(data), (character) => character.charCodeAt(0)) };
}

/** Return the row and the column of the highest patch of a map. */
export function peakOf({ columns, levels }) {
    const peak = levels.indexOf(Math.max(...levels));
    return [Math.floor(peak / columns), peak % columns];
}

/** Return the name of the third of the image, in both directions, in which a map is highest. */
export function placeName(map) {
    const [row, column] = peakOf(map);
    const third = (index, count) => Math.min(2, Math.floor(((index + 0.5) / count) * 3));
    return words.places[3 * third(row, map.rows) + third(column, map.columns)];
}

/**
 * Create the layer that shows maps over an image.
 *
 * @param {HTMLImageElement} image
 * @returns {{element: HTMLCanvasElement, show: function(?Object)}} `show` takes a map, or null for the plain image
 */
export function mapLayer(image) {
    const canvas = element("canvas.image-map", { hidden: true, "aria-hidden": "true" });
    function show(map) {
        canvas.hidden = !map || !image.naturalWidth;
        if (canvas.hidden) return;
        const scale = SIDE / Math.max(image.naturalWidth, image.naturalHeight);
        canvas.width = Math.round(image.naturalWidth * scale);
        canvas.height = Math.round(image.naturalHeight * scale);
        drawMap(canvas, map);
        drawRing(canvas, map);
    }
    return { element: canvas, show };
}

function drawMap(canvas, { rows, columns, levels }) {
    const small = new OffscreenCanvas(columns, rows);
    const pixels = new ImageData(columns, rows);
    levels.forEach((level, index) => {
        pixels.data[4 * index + 3] = Math.round(255 * DARKNESS * (1 - Math.sqrt(level / 255)));
    });
    small.getContext("2d").putImageData(pixels, 0, 0);
    const context = canvas.getContext("2d");
    context.imageSmoothingQuality = "high";
    context.drawImage(small, 0, 0, canvas.width, canvas.height);
}

/** Draw a ring in white and black around the highest patch, which is visible on every image. */
function drawRing(canvas, map) {
    const [row, column] = peakOf(map);
    const [width, height] = [canvas.width / map.columns, canvas.height / map.rows];
    const context = canvas.getContext("2d");
    for (const [style, line] of [["#000", 7], ["#fff", 3]]) {
        context.beginPath();
        context.ellipse((column + 0.5) * width, (row + 0.5) * height, RING * width, RING * height, 0, 0, 2 * Math.PI);
        Object.assign(context, { strokeStyle: style, lineWidth: line });
        context.stroke();
    }
}
