/** The answers of a folder as CSV, for spreadsheets, and as JSON lines, for programs. */

const COLUMNS = ["image", "question", "answer", "seconds", "status", "tokens", "seed", "error"];
const BOM = "\uFEFF"; // spreadsheets read Chinese only after it

/** Return the values of a row of the folder, in the order of the columns. */
function valuesOf(row, question) {
    const { stats } = row;
    return {
        image: row.name,
        question,
        answer: row.answer,
        seconds: stats ? Math.round(stats.seconds * 1000) / 1000 : null,
        status: row.status,
        tokens: stats?.tokens ?? null,
        seed: stats?.seed ?? null,
        error: row.error,
    };
}

/** Return one cell of CSV. A text that a spreadsheet would run as a formula gets an apostrophe before it. */
export function csvCell(value) {
    if (value === null || value === undefined) return "";
    const text = typeof value === "string" && /^\s*[=+\-@\t\r|＝＋－＠]/.test(value) ? `'${value}` : String(value);
    return /[",\r\n]|^\s|\s$/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
}

/**
 * Return rows as CSV (RFC 4180) in UTF-8 with a byte order mark.
 *
 * @param {Object[]} rows - of a FolderJob
 * @param {string} question
 */
export function toCsv(rows, question) {
    const lines = rows.map((row) => {
        const values = valuesOf(row, question);
        return COLUMNS.map((name) => csvCell(values[name])).join(",");
    });
    return BOM + [COLUMNS.join(","), ...lines].map((line) => `${line}\r\n`).join("");
}

/** Return rows as JSON lines, unchanged. */
export function toJsonLines(rows, question) {
    return rows.map((row) => `${JSON.stringify(valuesOf(row, question))}\n`).join("");
}
