"""The same model, implemented straightforwardly with flax.linen and optax.

It uses Linen's own layers with `dtype=`, dropout by `nn.Dropout`, one-hot targets for label smoothing as in
`flax/examples/wmt`, Adam from optax, and a jitted step whose state is donated. It starts with the defaults of jax and
of the system's allocator.
"""

from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from peers.job import BETAS, DROPOUT, EPSILON, LABEL_SMOOTHING, LEARNING_RATE, Arrays, Job, Size
from peers.positions import sinusoids


class Layer(nn.Module):
    """One post-norm layer of the encoder or, if `memory` is given, of the decoder."""

    size: Size
    dtype: Any

    @nn.compact
    def __call__(self, x, mask, memory=None, memory_mask=None, *, deterministic: bool):
        size, dtype = self.size, self.dtype

        def add_and_norm(x, y):
            return nn.LayerNorm(dtype=dtype)(x + nn.Dropout(DROPOUT)(y, deterministic=deterministic))

        def attention():
            return nn.MultiHeadDotProductAttention(size.num_heads, dtype=dtype, use_bias=False, deterministic=True)

        x = add_and_norm(x, attention()(x, x, mask=mask))
        if memory is not None:
            x = add_and_norm(x, attention()(x, memory, mask=memory_mask))
        hidden = nn.relu(nn.Dense(size.d_ff, dtype=dtype)(x))
        return add_and_norm(x, nn.Dense(size.d_model, dtype=dtype)(hidden))


class PlainTransformer(nn.Module):
    size: Size
    dtype: Any

    @nn.compact
    def __call__(self, source, source_mask, target, *, deterministic: bool):
        size = self.size
        embedding = nn.Embed(
            size.vocabulary,
            size.d_model,
            dtype=self.dtype,
            embedding_init=nn.initializers.normal(size.d_model**-0.5),
            name="embedding",
        )

        def embed(tokens):
            x = embedding(tokens) * size.d_model**0.5 + jnp.asarray(sinusoids(tokens.shape[1], size.d_model))
            return nn.Dropout(DROPOUT)(x.astype(self.dtype), deterministic=deterministic)

        source_mask = source_mask[:, None, None, :]
        memory = embed(source)
        for n in range(size.num_layers):
            memory = Layer(size, self.dtype, name=f"encoder_{n}")(memory, source_mask, deterministic=deterministic)
        x = embed(target)
        causal = nn.make_causal_mask(target)
        for n in range(size.num_layers):
            x = Layer(size, self.dtype, name=f"decoder_{n}")(
                x, causal, memory, source_mask, deterministic=deterministic
            )
        return embedding.attend(x)


def loss(model: PlainTransformer, params: Any, batch: Any, key: jax.Array | None) -> tuple[jax.Array, jax.Array]:
    """The summed loss of a batch and its number of target tokens.

    A key turns dropout on.
    """
    logits = model.apply(
        {"params": params},
        batch.source,
        batch.source_mask,
        batch.target_input,
        deterministic=key is None,
        rngs={} if key is None else {"dropout": key},
    )
    targets = optax.smooth_labels(jax.nn.one_hot(batch.target_output, model.size.vocabulary), LABEL_SMOOTHING)
    losses = optax.softmax_cross_entropy(jnp.asarray(logits, jnp.float32), targets)
    return (losses * batch.target_mask).sum(), batch.target_mask.sum()


class PlainLinen:
    packages = ("jax", "jaxlib", "flax", "optax")

    def __init__(self, job: Job) -> None:
        model = PlainTransformer(job.size, jnp.dtype(job.dtype))
        tokens = jnp.zeros((1, 1), jnp.int32)
        params = jax.jit(partial(model.init, deterministic=True))(jax.random.key(0), tokens, tokens > 0, tokens)[
            "params"
        ]
        optimizer = optax.adam(LEARNING_RATE, *BETAS, EPSILON)
        self.num_parameters = sum(x.size for x in jax.tree.leaves(params))
        self.note = job.dtype
        self._state = params, jax.jit(optimizer.init)(params), jax.random.key(1)

        def step(state, batch):
            params, moments, key = state
            key, now = jax.random.split(key)

            def mean(params):
                total, count = loss(model, params, batch, now)
                return total / count

            value, gradient = jax.value_and_grad(mean)(params)
            updates, moments = optimizer.update(gradient, moments)
            return (optax.apply_updates(params, updates), moments, key), value

        self._step = jax.jit(step, donate_argnums=0)

    def step(self, batch: Arrays) -> None:
        self._state, self._loss = self._step(self._state, batch)

    def wait(self) -> float:
        jax.block_until_ready(self._state)
        return float(self._loss)

    def device_bytes(self) -> int | None:
        statistics = jax.devices()[0].memory_stats()
        return statistics["peak_bytes_in_use"] if statistics else None


start = PlainLinen
