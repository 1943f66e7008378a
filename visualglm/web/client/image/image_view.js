/** Shows the image of a record: the local file, or the server's preview if the browser cannot show the file. */

const KEPT = 8; // addresses of local files, each of which keeps a file in memory
const urls = new Map(); // image id -> address

function localUrl({ id, blob }) {
    const url = urls.get(id) ?? URL.createObjectURL(blob);
    urls.delete(id);
    urls.set(id, url); // the newest is the last
    for (const [old, unused] of [...urls].slice(0, -KEPT)) {
        URL.revokeObjectURL(unused);
        urls.delete(old);
    }
    return url;
}

/**
 * Show a record's image.
 *
 * @param {HTMLImageElement} image
 * @param {Object} record - of an image
 * @returns {Promise<boolean>} false if nothing can be shown, as of a HEIC file before the server has sent its preview
 */
export async function showImage(image, record) {
    image.alt = record.name;
    image.draggable = false; // a dragged image of the page would be taken for a dropped file
    for (const url of [localUrl(record), record.preview].filter(Boolean)) {
        if (image.src !== url) image.src = url;
        try {
            await image.decode();
            return true;
        } catch {
            if (image.src !== url) return true; // another image was shown meanwhile
        }
    }
    image.removeAttribute("src");
    return false;
}
