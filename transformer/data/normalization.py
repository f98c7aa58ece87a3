"""Unicode normalization of text before it is tokenized: characters that look alike, or do not show, become the same."""

import unicodedata

from transformer.config.data import Normalization

# Zero-width space, word joiner, byte-order mark and soft hyphen. The joiners U+200C and U+200D stay: they change how
# the letters and emoji around them look.
_INVISIBLE = dict.fromkeys(map(ord, "\u200b\u2060\ufeff\u00ad"))


def normalize(text: str, normalization: Normalization) -> str:
    """A text as the tokenizer reads it; normalizing it again changes nothing.

    Args:
        text: as a person or a file has it.
        normalization: `nfc` removes U+200B, U+2060, U+FEFF and U+00AD, composes characters (Unicode's NFC), makes each
            run of white space one space, and strips both ends. `none` returns the text.
    """
    if normalization == "none":
        return text
    if not text.isascii():
        # Invisible characters go first: between a letter and its accent, one would keep the two from composing.
        text = unicodedata.normalize("NFC", text.translate(_INVISIBLE))
    return " ".join(text.split())


def origins(text: str, normalization: Normalization) -> list[tuple[int, int]]:
    """For each character of the normalized text, the start and end of what it was made of in the given text."""
    if normalize(text, normalization) == text:
        return [(index, index + 1) for index in range(len(text))]
    clusters: list[tuple[str, int, int]] = []  # what is normalized by itself, with its start and end
    for index, character in enumerate(text):
        if ord(character) in _INVISIBLE:
            continue
        before, start, _ = clusters[-1] if clusters else ("", 0, 0)
        if before and _belong_together(before, character):
            clusters[-1] = (before + character, start, index + 1)
        else:
            clusters.append((character, index, index + 1))
    found = []
    for number, (cluster, start, end) in enumerate(clusters):
        if not cluster.isspace():
            found += [(start, end)] * len(unicodedata.normalize("NFC", cluster))
        elif 0 < number < len(clusters) - 1:  # white space at the ends is stripped
            found.append((start, end))
    return found


def _belong_together(cluster: str, character: str) -> bool:
    """Whether a character is normalized together with those before it."""
    if cluster.isspace() or character.isspace():
        return cluster.isspace() and character.isspace()
    if character.isascii():
        return False
    if unicodedata.combining(character):
        return True
    apart = unicodedata.normalize("NFC", cluster) + unicodedata.normalize("NFC", character)
    return unicodedata.normalize("NFC", cluster + character) != apart
