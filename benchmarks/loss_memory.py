"""Memory of the output layer and the loss at vocabulary 37,000, against the number of tokens in the batch.

    python benchmarks/loss_memory.py

The loss (`ops.backward.cross_entropy`) holds the logits of one chunk of tokens only, so what grows with the batch
should be the decoder's output and its gradient (2 KiB a token here, in bfloat16) and not the logits (148 KB a token, in
float32). Beside it stands the plain way, all logits at once with one-hot targets. Each figure is the temporary memory
that XLA plans for loss and gradient, beside arguments and results.
"""

import jax
import jax.numpy as jnp
import optax

from transformer.ops.implementation import select

VOCABULARY, WIDTH, TOKENS = 37_000, 512, (4_096, 8_192, 16_384)


def in_chunks(hidden: jax.Array, embedding: jax.Array, targets: jax.Array) -> jax.Array:
    zeros, mask = jnp.zeros(VOCABULARY), jnp.ones(targets.shape, bool)
    cross_entropy = select("auto", jax.default_backend()).cross_entropy
    return cross_entropy(hidden, embedding, zeros, targets, mask, label_smoothing=0.1)[0]


def at_once(hidden: jax.Array, embedding: jax.Array, targets: jax.Array) -> jax.Array:
    logits = jnp.asarray(hidden @ embedding.T.astype(hidden.dtype), jnp.float32)
    wanted = optax.smooth_labels(jax.nn.one_hot(targets, VOCABULARY), 0.1)
    return optax.softmax_cross_entropy(logits, wanted).sum()


def main() -> None:
    print(f"| tokens | {' | '.join(f'{tokens:,}' for tokens in TOKENS)} |\n| --- | {'---: | ' * len(TOKENS)}")
    for name, loss in (("chunks", in_chunks), ("at once", at_once)):
        cells = []
        for tokens in TOKENS:
            shapes = (
                jax.ShapeDtypeStruct((tokens, WIDTH), jnp.bfloat16),
                jax.ShapeDtypeStruct((VOCABULARY, WIDTH), jnp.float32),
                jax.ShapeDtypeStruct((tokens,), jnp.int32),
            )
            plan = jax.jit(jax.value_and_grad(loss, (0, 1))).lower(*shapes).compile().memory_analysis()
            assert plan is not None, "every backend of XLA's own has a plan"
            cells.append(f"{plan.temp_size_in_bytes / 2**20:,.0f} MiB")
        print(f"| {name} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
