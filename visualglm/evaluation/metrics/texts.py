"""Split texts into tokens: English like the Penn Treebank tokenizer of COCO's captions, Chinese by character."""

import re

# Chinese and Japanese characters and full-width forms, each of which is one token.
CJK = r"\u2e80-\u2fdf\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
CJK_CHARACTER = re.compile(f"[{CJK}]")
FULL_WIDTH_MARKS = "，。！？；：、·…—～“”‘’（）《》〈〉【】「」『』"


def has_chinese(text: str) -> bool:
    """Return whether a text has Chinese characters."""
    return CJK_CHARACTER.search(text) is not None


def space_chinese(text: str) -> str:
    """Put spaces around each Chinese character and full-width mark."""
    return re.sub(f"([{CJK}{FULL_WIDTH_MARKS}])", r" \1 ", text)


# The tokens that COCO's script drops. It writes brackets in lower case, which it does not drop; neither do we.
DROPPED = frozenset(["'", '"', "`", ".", "?", "!", ",", ":", "-", "--", "...", ";", "–", *FULL_WIDTH_MARKS])
BRACKETS = {"(": "-lrb-", ")": "-rrb-", "{": "-lcb-", "}": "-rcb-", "[": "-lsb-", "]": "-rsb-"}
STRAIGHT_QUOTES = str.maketrans("‘’“”", "''\"\"")
ABBREVIATIONS = "mr|mrs|ms|dr|st|jr|sr|prof|inc|co|corp|ltd|vs|etc|mt|ft|ave|blvd|rd|gen|gov|sen|rep"
LETTER = r"[^\W\d_]"
END = r"(?![\w'])"
CLITIC = r"(?:'(?:s|m|d|ll|re|ve)|n't)(?!\w)"
WORD = rf"(?!{CLITIC})\w(?:(?!{CLITIC})(?:\w|(?<=\w)[-/](?=\w)|(?<={LETTER})['.](?={LETTER})))*"
TOKEN = re.compile(
    rf"""
      https?://\S+ | \S+@\w+\.\w+
    | (?:(?:{ABBREVIATIONS})\.(?!\w) | no\.(?=\s\d))           # mr.
    | (?:{LETTER}\.){{2,}}                  # u.s.
    | \d+\ \d/\d                            # 1 1/2
    | \d+(?:[.,:/]\d+)+(?:-\w+)*            # 5,000 and 3:30
    | \.\d+
    | (?:can(?=not{END})|(?:gon|wan)(?=na{END})|got(?=ta{END})|(?:gim|lem)(?=me{END}))
    | 't(?=is|was)
    | '(?:n'|n\b|\d\ds)
    | [cf]\#
    | {CLITIC}
    | {WORD}
    | \.{{3}} | -{{2,}} | [!?]+
    | \S
    """,
    re.VERBOSE,
)


def tokenize(text: str) -> list[str]:
    """Return the tokens of a text in lower case, without punctuation."""
    tokens = TOKEN.findall(space_chinese(text.translate(STRAIGHT_QUOTES)).lower())
    # As the original does, join the parts of "1 1/2" by a no-break space.
    return [BRACKETS.get(token, token).replace(" ", "\xa0") for token in tokens if token not in DROPPED]
