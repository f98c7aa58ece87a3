import math
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from transformer.analysis.heads import ablate, describe, measure, to_text
from transformer.attention import MultiHeadAttention
from transformer.data.corpus import Pairs
from transformer.errors import InputError
from transformer.layers import Build

pytestmark = pytest.mark.usefixtures("quick_compilation")


def test_what_follows_from_the_weights():
    weights = np.random.default_rng(0).dirichlet(np.ones(5), (1, 2, 3, 5)).astype(np.float32)
    weights[0, 0, 0] = np.eye(5)  # has log 0 among its terms
    boundary = np.array([4, 2])
    found = describe(weights, boundary, self_attention=True)
    for index in np.ndindex(weights.shape[:-1]):
        row, sentence, query = weights[index].astype(np.float64), index[1], index[3]
        expected = {
            "entropy": -sum(weight * math.log(weight) for weight in row if weight),
            "boundary": row[boundary[sentence]],
            "distance": sum(weight * abs(query - key) for key, weight in enumerate(row)),
            "previous": row[query - 1] if query else 0,
            "same": row[query],
            "next": row[query + 1] if query < 4 else 0,
        }
        assert {name: values[index] for name, values in found.items()} == pytest.approx(expected, abs=1e-6)
    assert set(describe(weights, boundary, self_attention=False)) == {"entropy", "boundary"}


def test_ablation_is_a_head_without_output(run):
    module = MultiHeadAttention(Build.choose(run.model.config))
    x = jax.random.normal(jax.random.key(0), (1, 6, 16))
    mask = jnp.ones((1, 1, 6, 6), bool)

    def second_layer(params):
        return jax.tree.map(lambda leaf: leaf[1], params["params"]["encoder"]["layers"]["self_attention"])

    def attend(params):
        return module.apply({"params": second_layer(params)}, x, x, mask, return_weights=True)

    whole, weights = attend(run.params)
    kernels = second_layer(run.params)
    values = np.asarray(x[0] @ kernels["value"]["kernel"]).reshape(6, 4, 4)
    for head in range(4):
        own = np.asarray(weights)[0, head] @ values[:, head] @ kernels["output"]["kernel"][4 * head : 4 * head + 4]
        without, _ = attend(ablate(run.params, "encoder", 1, head, 4))
        np.testing.assert_allclose(without, whole - own, rtol=0, atol=1e-4)
    # Nothing else changes, and the given tree is left as it was.
    other = ablate(run.params, "cross", 0, 2, 4)
    changed = jax.tree.map(lambda one, two: bool((np.asarray(one) != np.asarray(two)).any()), run.params, other)
    assert (
        sum(jax.tree.leaves(changed))
        == changed["params"]["decoder"]["layers"]["cross_attention"]["output"]["kernel"]
        == 1
    )


def test_measure(run, view):
    pairs = Pairs([view.source.text] * 3, [view.target.text] * 3)
    heads = [*measure(run, pairs)]
    assert [(one.kind, one.layer, one.head) for one in heads] == [
        *(("encoder", layer, head) for layer in range(2) for head in range(4)),
        *((kind, 0, head) for kind in ("decoder", "cross") for head in range(4)),
    ]
    for one in heads:
        weights = view.weights[one.kind][one.layer, one.head].astype(np.float64)
        assert one.boundary == pytest.approx(weights[:, 0 if one.kind == "decoder" else -1].mean(), rel=1e-4)
        assert one.entropy == pytest.approx(-(weights * np.log(np.maximum(weights, 1e-30))).sum(-1).mean(), rel=1e-4)
        if one.kind == "cross":
            assert one.distance is one.previous is one.same is one.next is None
        else:
            assert one.same == pytest.approx(np.diagonal(weights).mean(), rel=1e-4)
            assert one.next == pytest.approx(np.diagonal(weights, 1).sum() / len(weights), rel=1e-4, abs=1e-12)
    last = replace(run, params=ablate(run.params, "cross", 0, 3, 4))
    expected = last.loss(pairs.sources, pairs.targets) - run.loss(pairs.sources, pairs.targets)
    assert heads[-1].ablation == pytest.approx(expected)
    lines = to_text(heads).splitlines()
    assert len(lines) == 1 + len(heads)
    assert len({*map(len, lines)}) == 1
    assert lines[-1].split()[:3] == ["cross", "0", "3"]


def test_no_corpus_no_numbers(run):
    with pytest.raises(InputError, match="There are no sentence pairs"):
        next(measure(run, Pairs([], [])))
