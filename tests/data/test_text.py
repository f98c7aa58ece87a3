"""Splitting long text, and reading a stream line by line."""

import io

import pytest

from transformer.data.text import split_text, stream_lines
from transformer.errors import InputError


def test_cut_prefers_sentence_ends_then_words():
    text = "One two three. Four five six! “Seven eight?” Nine ten."
    chunks = split_text(text, lambda chunk: len(chunk) <= 20)
    assert chunks == ["One two three.", "Four five six!", "“Seven eight?”", "Nine ten."]
    assert split_text("a b c d e f", lambda chunk: len(chunk) <= 5) == ["a b c", "d e f"]
    assert split_text(text, lambda chunk: True) == [text]


@pytest.mark.parametrize("text", ["x" * 1000, "ab " * 400, "你好。" * 300, "a. " * 3 + "b" * 900, " " * 50 + "a" * 40])
def test_cut_loses_nothing_and_everything_fits(text):
    chunks = split_text(text, lambda chunk: len(chunk) <= 30)
    assert all(0 < len(chunk) <= 30 for chunk in chunks)
    assert "".join(chunks).replace(" ", "") == text.replace(" ", "")


def test_cut_ends_though_nothing_fits():
    assert split_text("abc", lambda chunk: False) == ["a", "b", "c"]


def test_a_stream_is_read_as_it_comes():
    text = "\ufeffa\rb\n\nc\u2028d\x85e\n\0"
    assert list(stream_lines(io.BytesIO(text.encode()), "it")) == ["a\rb", "", "c\u2028d\x85e", "\0"]
    lines = stream_lines(io.BytesIO(b"one\n\xff\n"), "it")
    assert next(lines) == "one"
    with pytest.raises(InputError, match="it, line 2 is not UTF-8"):
        next(lines)
