/** The language of a text, guessed from its script, so that a screen reader pronounces it and a browser picks its font. */

// In this order: kana and hangul also occur beside Chinese characters, Latin letters beside all of them.
const SCRIPTS = [
    ["ja", /[\p{Script=Hiragana}\p{Script=Katakana}]/u],
    ["ko", /\p{Script=Hangul}/u],
    ["zh-CN", /\p{Script=Han}/u],
    ["ru", /\p{Script=Cyrillic}/u],
    ["ar", /\p{Script=Arabic}/u],
    ["en", /\p{Script=Latin}/u],
];

/** Return the language code of a text, null if it has no letters. */
export function languageOf(text) {
    return SCRIPTS.find(([, letters]) => letters.test(text))?.[0] ?? null;
}
