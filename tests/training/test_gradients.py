from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from transformer.model import Transformer
from transformer.training.gradients import norms_by_layer, watch_norms
from transformer.training.step import create_state, train_step

pytestmark = pytest.mark.usefixtures("quick_compilation")


def test_norms_by_layer_against_numpy():
    generator = np.random.default_rng(0)
    gradient = {
        "embedding": generator.normal(size=(7, 4)).astype(np.float32),
        "encoder": {
            "layers": {
                "self_attention": {"query": {"kernel": generator.normal(size=(3, 4, 4)).astype(np.float32)}},
                "norm": {"scale": generator.normal(size=(3, 4)).astype(np.float32)},
            },
            "norm": {"scale": generator.normal(size=4).astype(np.float32)},
        },
    }
    found = jax.jit(norms_by_layer)(gradient)
    assert set(found) == {"embedding", "encoder", "encoder/norm"}
    layers = [jax.tree.map(lambda leaf, i=i: leaf[i], gradient["encoder"]["layers"]) for i in range(3)]
    parts = {"embedding": [gradient["embedding"]], "encoder": layers, "encoder/norm": [gradient["encoder"]["norm"]]}
    for name, members in parts.items():
        flat = [np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(part)]).astype(float) for part in members]
        np.testing.assert_allclose(np.atleast_1d(found[name]), [np.sqrt((g**2).sum()) for g in flat], rtol=1e-6)


def test_what_is_watched_is_the_gradient_of_the_step_and_the_update_is_the_same(tiny_model, make_batch):
    model, batch = Transformer(tiny_model), jax.tree.map(lambda x: jnp.asarray(x)[None], make_batch(0, 4, 5, 6, 1))

    @partial(jax.jit, static_argnames="watch")
    def step(watch: bool):
        optimizer = optax.chain(watch_norms(), optax.sgd(1.0)) if watch else optax.sgd(1.0)  # the update is -gradient
        before = jax.tree.map(jnp.asarray, create_state(model, optimizer, 0))
        return before, *train_step(before, batch, model=model, optimizer=optimizer, label_smoothing=0.1, seed=0)

    before, after, metrics = step(watch=True)
    _, plain, _ = step(watch=False)
    jax.tree.map(np.testing.assert_array_equal, after.params, plain.params)
    assert not any(map(np.any, before.optimizer_state[0].values()))
    watched = after.optimizer_state[0]
    expected = norms_by_layer(jax.tree.map(np.subtract, before.params, after.params))
    for name, norm in expected.items():
        np.testing.assert_allclose(watched[name], norm, rtol=1e-4)  # a difference of float32 parameters
    whole = np.sqrt(sum(float((norm**2).sum()) for norm in watched.values()))
    np.testing.assert_allclose(whole, metrics["gradient_norm"], rtol=1e-6)
