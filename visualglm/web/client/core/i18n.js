/** The language of the page, and texts in both languages. */

import { refreshTexts } from "./dom.js";

export const LANGUAGES = ["zh", "en"];
const listeners = new Set();
let current = LANGUAGES.find((code) => document.documentElement.lang.startsWith(code)) ?? "zh";

/** Return the code of the page's language: "zh" or "en". */
export function language() {
    return current;
}

/** Switch the language of the page, and tell everyone who called `onLanguage`. */
export function setLanguage(code) {
    current = code;
    document.documentElement.lang = code === "zh" ? "zh-CN" : "en";
    refreshTexts();
    for (const listener of listeners) listener(code);
}

/** Call `listener` after each change of the language. */
export function onLanguage(listener) {
    listeners.add(listener);
}

/**
 * Return an object whose properties are the texts in the current language.
 *
 * @param {{en: Object, zh: Object}} tables - the same keys in both; a value is a text or a function that returns one
 */
export function texts(tables) {
    const missing = Object.keys(tables.en).filter((key) => !(key in tables.zh));
    if (missing.length || Object.keys(tables.zh).length !== Object.keys(tables.en).length) {
        throw new Error(`A text lacks one of the languages: ${missing.join(", ") || "en"}`);
    }
    const words = {};
    for (const key of Object.keys(tables.en)) {
        Object.defineProperty(words, key, { get: () => tables[current][key], enumerable: true });
    }
    return words;
}

/** Format a number for the page's language. */
export function formatNumber(number, digits = 0) {
    const options = { minimumFractionDigits: digits, maximumFractionDigits: digits };
    return number.toLocaleString(current === "zh" ? "zh-CN" : "en", options);
}

/** Format a time for the page's language: today's as hour and minute, others as a date. */
export function formatTime(milliseconds) {
    const time = new Date(milliseconds);
    const locale = current === "zh" ? "zh-CN" : "en-GB";
    const isToday = time.toDateString() === new Date().toDateString();
    const options = isToday ? { hour: "2-digit", minute: "2-digit" } : { year: "numeric", month: "short", day: "numeric" };
    return time.toLocaleString(locale, options);
}
