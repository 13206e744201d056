"""Random texts from random bytes: drawing one costs next to nothing and still reaches all of Unicode."""

from __future__ import annotations

from alignment_reference import END

# fmt: off
FRAGMENTS = (
    "the", " the", "The", " quick", " fox", "dog", " tokens", "ization", "of bytes", "\n", "\n\n", "\t",
    "\r\n", "a", "b", "c", "s", "t", "he", "o", "g", ",", ".", ";", "'s", "1", "42", "1234567890", "=",
    "#", "##ing", " ", " ", " ", "  ", "   ", "    ", " " * 17, "_", "\u2581", "\u2581\u2581", "\u2581the",
    "naïve", " café", "é", "e\u0301", "\u0301", "a\u0323\u0307", "ﬁ", "Å", "\u212b", "ＡＢ", "½", "İ", "ß",
    "ẞ", "Σς", "日本", "語", "中文", "한",
    "\u1112\u1161\u11ab", "العربية", "\u064e", "नमस्ते", "ไทย", "ᚠᛇ", "𝔘𝔫", "🙂",
    "\U0001f469\u200d\U0001f469\u200d\U0001f467", "🇩🇪", "👍🏽", "\U0001f3f4\U000e0067\U000e0062", "\u200d",
    "\u200b", "\ufeff", "\ufe0f", "\xa0", "\u3000", "\u2028", "\x85", "\x00", "\x1b", "\x7f", "\xad",
    "<0x41>", "<0xE2>", "Ġ", "Ċ", "<|", "|>", "“quoted”…", "—",
)
"""Words and parts of words, spaces, combining marks, many scripts, emoji sequences, control characters."""
MARKERS = (
    END, "<s>", "</s>", "<unk>", "[UNK]", "<X>", " <X> ", "<Y>", " <Y> ", "foo", " foo ", "Bar", " bar",
)
# fmt: on
"""Strings of special and added tokens of one family or another."""
LONE_SURROGATE = "\ud83d"


def text_of(data: bytes, num_fragments: int = 200) -> str:
    """Read `data` as a text: `num_fragments` of 256 bytes are fragments, the next 6 markers, the rest code
    points from all of Unicode, or as many as are left.
    """
    pieces: list[str] = []
    stream = iter(data)
    for byte in stream:
        if byte < num_fragments:
            pieces.append(FRAGMENTS[byte % len(FRAGMENTS)])
        elif byte < num_fragments + 6:
            pieces.append(MARKERS[next(stream, 0) % len(MARKERS)])
        elif byte == num_fragments + 6:
            pieces.append(LONE_SURROGATE)
        elif byte < num_fragments + 30:
            point = next(stream, 0) << 8 | next(stream, 65)
            pieces.append(chr(point) if not 0xD800 <= point < 0xE000 else "\ufffd")
        else:
            pieces.append(
                chr(0x10000 + (next(stream, 0) << 12 | next(stream, 0) << 4) % 0x100000 + byte % 16)
            )
    return "".join(pieces)
