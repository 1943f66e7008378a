/** Copying text to the clipboard, also on plain http, where browsers offer no `navigator.clipboard`. */

/**
 * Copy a text exactly as it is.
 *
 * @returns {Promise<boolean>} whether it was copied
 */
export async function copyText(text) {
    try {
        if (navigator.clipboard) {
            await navigator.clipboard.writeText(text);
            return true;
        }
    } catch {
        // The browser has no permission; the older way may still work.
    }
    return copyByCommand(text);
}

function copyByCommand(text) {
    const put = (event) => {
        event.preventDefault();
        event.stopImmediatePropagation();
        event.clipboardData.setData("text/plain", text);
    };
    document.addEventListener("copy", put, { capture: true, once: true });
    const isCopied = document.execCommand("copy");
    document.removeEventListener("copy", put, { capture: true });
    return isCopied;
}
