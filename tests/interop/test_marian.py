"""The model that Marian trained, against Marian's own translations, scores and alignments."""

import dataclasses
import json
import lzma
from pathlib import Path

import jax
import numpy as np
import pytest
from command_line import call
from marian_model import LINES, ORDINARY, TINY, Found, batch, marian_says, search, word_scores

import transformer
from transformer.run import Run

pytestmark = pytest.mark.usefixtures("quick_compilation")


def found_by(run: Run, beam_size: int) -> list[Found]:
    settings = dataclasses.replace(
        run.config.search, beam_size=beam_size, length_penalty=0.6, batch_tokens=12_800 * beam_size
    )  # a budget of tokens that makes one batch
    return search(run, ORDINARY, settings)


@pytest.fixture(scope="module")
def greedy(run: Run) -> list[Found]:
    return found_by(run, 1)


@pytest.fixture(scope="module")
def beam6(run: Run) -> list[Found]:
    """Compiled with all optimizations: this search takes longer than its compilation."""
    jax.config.update("jax_disable_most_optimizations", False)
    found = found_by(run, 6)
    jax.config.update("jax_disable_most_optimizations", True)
    return found


def test_greedy_texts_and_word_scores(run: Run, greedy: list[Found]) -> None:
    best = [own[0] for own in marian_says("greedy")[:200]]
    assert [ours.text for ours in greedy] == [own.text for own in best]
    scores = word_scores(run, ORDINARY, [ours.tokens for ours in greedy])
    for ours, own in zip(scores, best, strict=True):
        np.testing.assert_allclose(ours, own.word_scores, rtol=0, atol=1e-4)


def test_beam_search_finds_what_marian_finds(beam6: list[Found]) -> None:
    same = 0
    for ours, theirs in zip(beam6, marian_says("beam6")[:200], strict=True):
        if ours.text == theirs[0].text:
            same += 1
            assert abs(ours.score - theirs[0].score) < 1e-4
        else:  # a better hypothesis, which Marian's beam has lost
            assert ours.score > theirs[0].score
            assert ours.text not in [own.text for own in theirs]
    assert same >= 195


def test_lines_that_are_hard_to_read(run: Run) -> None:
    """Empty, blank, outside the vocabulary, long, and with double spaces."""
    found = run.translate(LINES[200:], dataclasses.replace(run.config.search, beam_size=1))
    expected = [own[0].text for own in marian_says("greedy")[200:]]
    assert [found[0], found[1], found[3], found[4]] == [expected[0], expected[1], expected[3], expected[4]]
    assert found[2][:40] == expected[2][:40]  # of a text that it cannot read, it does not find the end


def test_marians_alignment_is_the_first_head_of_the_last_layer(run: Run, beam6: list[Found]) -> None:
    lines = lzma.decompress((TINY / "alignment.txt.xz").read_bytes()).decode().splitlines()
    targets = [ours.tokens for ours in beam6[: len(lines)]]
    forced = batch(run, ORDINARY[: len(targets)], targets)
    _, weights = run.apply(run.params, forced.source, forced.target_input, return_weights=True)
    last = np.asarray(weights["cross"][-1, :, 0])
    for row, (line, ids) in enumerate(zip(lines, targets, strict=True)):
        text, written = line.split(" ||| ")
        assert beam6[row].text == text
        expected = np.array([[float(weight) for weight in of_token.split(",")] for of_token in written.split(" ")])
        assert len(expected) == len(ids)
        np.testing.assert_allclose(last[row, : len(ids), : expected.shape[1]], expected, rtol=0, atol=1e-3)


def test_npz_to_run_to_npz_is_bit_for_bit(run: Run, run_dir: Path, tmp_path: Path) -> None:
    result = call("export", str(run_dir), str(tmp_path / "marian"), "--to", "marian", "--beam-size", "6")
    assert (result.status, result.out) == (0, f"{tmp_path / 'marian'}: a folder for Marian, with 86 weights\n")
    before, after = np.load(TINY / "model.npz"), np.load(tmp_path / "marian" / "model.npz")
    assert before.files == after.files
    for name in before.files:
        assert (before[name].dtype, before[name].shape) == (after[name].dtype, after[name].shape)
        assert before[name].tobytes() == after[name].tobytes()
    assert (tmp_path / "marian" / "vocab.spm").read_bytes() == (TINY / "vocab.spm").read_bytes()

    assert call("import", str(tmp_path / "marian"), str(tmp_path / "again")).status == 0
    again = transformer.load(tmp_path / "again")
    assert again.tokenizer.fingerprint == run.tokenizer.fingerprint
    assert again.config.search == dataclasses.replace(run.config.search, beam_size=6, length_penalty=0.0)
    for old, new in zip(jax.tree.leaves(run.params), jax.tree.leaves(again.params), strict=True):
        np.testing.assert_array_equal(old, new)


def test_every_command_works_on_it(run_dir: Path, tmp_path: Path) -> None:
    """With the search settings of Marian's own `model.npz.decoder.yml`: a beam of 12, no length penalty."""
    name, text = str(run_dir), ORDINARY[0]
    config = json.loads((run_dir / "config.json").read_text())
    assert (config["search"]["beam_size"], config["search"]["length_penalty"]) == (12, 0.0)
    greedy = ("--beam-size", "1", "--batch-tokens", "64")
    result = call("translate", name, *greedy, "--jsonl", "--alignments", stdin=f"{text}\n")
    (record,) = json.loads(result.out)["translations"]
    assert record["text"] == "Die billige Lampe sollte blau sein."
    assert record["source_tokens"] == ["The", "cheap", "lamp", "sho", "ul", "d", "be", "blue", ".", "</s>"]
    (tmp_path / "en").write_text(f"{text}\n")
    (tmp_path / "de").write_text(f"{record['text']}\n")
    pair = "--source", str(tmp_path / "en"), "--target", str(tmp_path / "de")
    scored = json.loads(call("score", name, *pair, "--tokens").out)
    np.testing.assert_allclose(scored["log_probabilities"], marian_says("greedy")[0][0].word_scores, rtol=0, atol=1e-4)
    assert scored["target_tokens"][-2:] == [".", "</s>"]
    result = call("attention", name, "--source", text, "--target", record["text"], "--kind", "cross")
    assert result.status == 0
    assert "lamp" in result.out
