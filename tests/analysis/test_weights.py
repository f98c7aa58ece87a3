from dataclasses import replace

import numpy as np
import pytest

from transformer.analysis.attention import Attention, attention, rollout, strongest
from transformer.config import TokenizerConfig
from transformer.data.tokenizer import TokenizedText
from transformer.data.tokenizer_bpe import BpeTokenizer
from transformer.errors import InputError
from transformer.model import Transformer

pytestmark = pytest.mark.usefixtures("quick_compilation")


@pytest.mark.parametrize("positions", ["interleaved", "rotary"])
def test_weights_are_those_of_the_model(run, view, positions):
    if positions == "rotary":
        run = replace(run, model=Transformer(replace(run.model.config, positions=positions)))
        view = attention(run, view.source.text, view.target.text)
    batch = run.batch([view.source.text], [view.target.text])
    _, weights = run.apply(run.params, batch.source, batch.target_input, return_weights=True)
    S, T = len(view.source.tokens), len(view.target.tokens)
    assert {kind: value.shape for kind, value in view.weights.items()} == {
        "encoder": (2, 4, S, S),
        "decoder": (1, 4, T, T),
        "cross": (1, 4, T, S),
        "rollout": (1, 1, S, S),
    }
    for kind in ("encoder", "decoder", "cross"):
        np.testing.assert_array_equal(view.weights[kind], weights[kind][:, 0])
    for value in view.weights.values():
        np.testing.assert_allclose(value.sum(-1), 1, rtol=1e-5)
    assert (view.source.tokens[-1], view.target.tokens[0]) == ("</s>", "<s>")
    assert (view.queries("cross"), view.keys("cross")) == (view.target, view.source)
    assert (view.queries("rollout"), view.keys("decoder")) == (view.source, view.target)


def test_words_are_sums_over_columns_and_means_over_rows(view):
    joined = view.joined()
    assert joined.source.tokens == ["the", "law", "is", "€", "good", ",", "but", "its", "use", "</s>"]
    assert joined.target.tokens == ["<s>", "das", "Gesetz", "ist", "gut"]
    for kind, weights in view.weights.items():
        rows, columns = np.array(view.queries(kind).word_of), np.array(view.keys(kind).word_of)
        for q in range(rows[-1] + 1):
            for k in range(columns[-1] + 1):
                expected = weights.astype(np.float64)[..., rows == q, :][..., columns == k].sum(-1).mean(-1)
                np.testing.assert_allclose(joined.weights[kind][..., q, k], expected, atol=1e-6)
        np.testing.assert_allclose(joined.weights[kind].sum(-1), 1, rtol=1e-5)
    again = joined.joined()
    for kind, weights in joined.weights.items():
        np.testing.assert_allclose(again.weights[kind], weights, atol=1e-6)


def test_rollout_is_the_product_of_the_layers(view):
    generator = np.random.default_rng(0)
    weights = generator.dirichlet(np.ones(5), (3, 5))
    identity = np.eye(5)
    first, second, third = ((layer + identity) / 2 for layer in weights)
    np.testing.assert_allclose(rollout(weights), third @ second @ first, rtol=1e-12)
    # By hand: each position attends to the one before it, and the first to itself.
    before = np.eye(3, k=-1) + np.diag([1.0, 0, 0])
    np.testing.assert_allclose(rollout(np.stack([before] * 2))[2], [0.25, 0.5, 0.25])
    np.testing.assert_allclose(view.weights["rollout"][0, 0], rollout(view.weights["encoder"].mean(1)))


def test_the_run_translates_where_no_target_is_given(run, view):
    source = view.source.text
    assert attention(run, source).target.text == run.translate([source])[0]


def test_select_and_find(view):
    assert view.select("encoder").shape[:2] == (2, 4)
    np.testing.assert_array_equal(view.select("encoder", 1, 3), view.weights["encoder"][1:, 3:])
    assert view.joined().find("LAW", "encoder") == 1
    assert view.joined().find("Gesetz", "cross") == 2
    for arguments, message in (
        (("encoder", 2), r"Kind encoder has no layer 2, only layers 0 to 1\."),
        (("decoder", -1), r"Kind decoder has no layer -1, only layer 0\."),
        (("cross", None, 4), r"Kind cross has no head 4, only heads 0 to 3\."),
    ):
        with pytest.raises(InputError, match=message):
            view.select(*arguments)
    with pytest.raises(InputError, match=r"law is not one of the query tokens\. They are: <s> das"):
        view.joined().find("law", "cross")


@pytest.mark.parametrize(
    ("sentences", "message"),
    [
        ((" ",), "The source sentence is empty"),
        (("law", ""), "The target sentence is empty"),
        (("law " * 140,), r"The source has 142 tokens, but the model has positions for 128\. Shorten it"),
        (("law", "gut " * 80), "The target has 162 tokens, but the model has positions for 128"),
    ],
)
def test_sentences_that_cannot_be_shown(run, sentences, message):
    with pytest.raises(InputError, match=message):
        attention(run, *sentences)


def test_invisible_characters_are_no_tokens(run, view, tmp_path):
    run.tokenizer.save(tmp_path / "tokenizer.json")
    tokenizer = BpeTokenizer.load(tmp_path / "tokenizer.json", TokenizerConfig(), 300, "nfc")
    normalizing, typed = replace(run, tokenizer=tokenizer), "\ufeff the\u00a0 law is \u20ac go\u00adod, but its use\r"
    shown = attention(normalizing, typed, f" {view.target.text}\u200b")
    assert (shown.source.text, shown.source.tokens, shown.target.tokens) == (
        typed,
        view.source.tokens,
        view.target.tokens,
    )
    for kind, weights in view.weights.items():
        np.testing.assert_array_equal(shown.weights[kind], weights)
    with pytest.raises(InputError, match="The source sentence is empty"):
        attention(normalizing, "\u200b \u2060")


def test_strongest_first():
    weights = np.array([[0.1, 0.6, 0.3], [0.5, 0.0, 0.5]])
    assert strongest(weights, ["a", "bcd"], ["x", "y", "z"], number=2) == "a    y 0.60   z 0.30\nbcd  x 0.50   z 0.50"


def test_a_word_of_several_tokens_keeps_its_text():
    side = TokenizedText("ab c", ["a", "b", "c"], ["ab", "c"], [0, 0, 1])
    rows = np.array([[0.2, 0.3, 0.5], [0.4, 0.4, 0.2], [0.1, 0.1, 0.8]])[None, None]
    joined = Attention(side, side, {"encoder": rows}).joined()
    np.testing.assert_allclose(joined.weights["encoder"][0, 0], [[0.65, 0.35], [0.2, 0.8]], atol=1e-6)
    assert joined.source == TokenizedText("ab c", ["ab", "c"], ["ab", "c"], [0, 1])
