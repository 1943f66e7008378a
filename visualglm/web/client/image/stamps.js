/** The shapes of the drawn world, as stamps of the drawing board. */

/* Paths in a box from -1 to 1; details are drawn over the shape, darker or lighter. */
const circle = (x, y, r) => `M${x + r} ${y}A${r} ${r} 0 1 1 ${x - r} ${y}A${r} ${r} 0 1 1 ${x + r} ${y}Z`;
const DARK = "rgb(0 0 0 / 55%)";
const LIGHT = "rgb(255 255 255 / 75%)";

/** Kind -> {path, details: [[path, color]]}. */
export const STAMPS = {
    ball: { path: circle(0, 0, 0.9) },
    box: { path: "M-.7-.7H.7V.7H-.7Z" },
    triangle: { path: "M0-.7L.8.7H-.8Z" },
    star: { path: "M0-.88L.24-.24L.92-.2L.4.22L.57.88L0 .51L-.57.88L-.4.22L-.92-.2L-.24-.24Z" },
    heart: { path: "M0 .85C-.5.45-.95.1-.95-.35C-.95-.95-.2-1 0-.45C.2-1 .95-.95.95-.35C.95.1.5.45 0 .85Z" },
    ring: { path: `${circle(0, 0, 0.9)}${circle(0, 0, 0.48)}` },
    cross: { path: "M-.3-.95H.3V-.3H.95V.3H.3V.95H-.3V.3H-.95V-.3H-.3Z" },
    moon: { path: "M.55-.75A.93.93 0 1 0 .55.75A.78.78 0 1 1 .55-.75Z" },
    house: {
        path: "M-.88-.06L0-.8L.88-.06H.64V.8H-.64V-.06Z",
        details: [
            ["M-.16.8V.3H.16V.8Z", DARK],
            ["M-.48.08H-.24V.32H-.48ZM.24.08H.48V.32H.24Z", LIGHT],
        ],
    },
    car: {
        path: "M-.95.35V0L-.6-.08L-.35-.45H.35L.6-.08L.95.02V.35Z",
        details: [
            ["M-.45-.08L-.28-.35H-.04V-.08ZM.04-.35H.28L.45-.08H.04Z", LIGHT],
            [`${circle(-0.5, 0.36, 0.2)}${circle(0.5, 0.36, 0.2)}`, "#222"],
        ],
    },
    tree: {
        path: "M0-.92C.5-.92.8-.5.62-.12C.9.2.55.5.14.4V.9H-.14V.4C-.55.5-.9.2-.62-.12C-.8-.5-.5-.92 0-.92Z",
        details: [["M-.14.4H.14V.9H-.14Z", DARK]],
    },
    fish: {
        path: "M.92 0C.7-.5-.1-.6-.45-.12L-.92-.45L-.78 0L-.92.45L-.45.12C-.1.6.7.5.92 0Z",
        details: [[circle(0.55, -0.1, 0.08), "#222"]],
    },
};

/** Draw a stamp on a canvas. */
export function drawStamp(context, kind, color, x, y, radius) {
    const { path, details = [] } = STAMPS[kind];
    context.save();
    context.translate(x, y);
    context.scale(radius, radius);
    context.fillStyle = color;
    const shape = new Path2D(path);
    context.fill(shape, "evenodd");
    for (const [detail, paint] of details) {
        context.fillStyle = paint;
        context.fill(new Path2D(detail));
    }
    context.strokeStyle = "rgb(0 0 0 / 60%)";
    context.lineWidth = 2 / radius;
    context.lineJoin = "round";
    context.stroke(shape);
    context.restore();
}
