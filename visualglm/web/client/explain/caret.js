/** The place in a text at a point of the screen. */

/**
 * Return the index in an element's text of the character at a point; null if there is none.
 *
 * @param {HTMLElement} node - contains nothing but text
 */
export function caretAt(node, x, y) {
    const caret = document.caretPositionFromPoint
        ? fromPosition(document.caretPositionFromPoint(x, y))
        : fromRange(document.caretRangeFromPoint?.(x, y));
    if (!caret || !node.contains(caret.container)) return null;
    const before = document.createRange();
    before.selectNodeContents(node);
    before.setEnd(caret.container, caret.offset);
    return before.toString().length;
}

function fromPosition(position) {
    return position && { container: position.offsetNode, offset: position.offset };
}

function fromRange(range) {
    return range && { container: range.startContainer, offset: range.startOffset };
}
