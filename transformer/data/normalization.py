"""Unicode normalization of text before it is tokenized (`data.normalization`)."""

import unicodedata

from transformer.config.data import Normalization

# Zero-width space, word joiner, byte-order mark and soft hyphen. The joiners U+200C and U+200D stay: they change how
# the letters and emoji around them look.
INVISIBLE = dict.fromkeys(map(ord, "\u200b\u2060\ufeff\u00ad"))


def normalize(text: str, normalization: Normalization) -> str:
    """Normalizes a text as the tokenizer does.

    Normalizing the result again changes nothing.

    Args:
        text: The text as a user typed it or a file contains it.
        normalization: `nfc` removes the invisible characters U+200B, U+2060, U+FEFF and U+00AD, composes characters
            (Unicode's NFC), replaces each run of white space with one space, and strips both ends. `none` returns the
            text unchanged.
    """
    if normalization == "none":
        return text
    if not text.isascii():
        # Invisible characters are removed first. Between a letter and its accent, one would prevent composition.
        text = unicodedata.normalize("NFC", text.translate(INVISIBLE))
    return " ".join(text.split())


def origins(text: str, normalization: Normalization) -> list[tuple[int, int]]:
    """Finds the characters from which each normalized character was made.

    Returns: Start and end index in `text` for each character of `normalize(text, normalization)`.
    """
    if normalize(text, normalization) == text:
        return [(index, index + 1) for index in range(len(text))]
    clusters: list[tuple[str, int, int]] = []  # characters that are normalized together, with their start and end
    for index, character in enumerate(text):
        if ord(character) in INVISIBLE:
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
        elif 0 < number < len(clusters) - 1:  # white space at both ends is stripped
            found.append((start, end))
    return found


def _belong_together(cluster: str, character: str) -> bool:
    """Whether a character must be normalized together with the cluster before it."""
    if cluster.isspace() or character.isspace():
        return cluster.isspace() and character.isspace()
    if character.isascii():
        return False
    if unicodedata.combining(character):
        return True
    apart = unicodedata.normalize("NFC", cluster) + unicodedata.normalize("NFC", character)
    return unicodedata.normalize("NFC", cluster + character) != apart
