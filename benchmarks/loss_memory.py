"""Peak memory of the output layer and the loss at vocabulary 37,000, against the number of tokens in the batch.

    python benchmarks/loss_memory.py

`ops.loss.cross_entropy` holds the logits of one chunk of tokens only, so what grows with the batch should be the
decoder's output and its gradient (4 KiB a token here, in float32) and not the logits (148 KB a token). The plain way,
all logits at once with one-hot targets, stands beside it. Each figure is the growth of the peak resident memory from
before the first call to behind the third, in a process of its own.
"""

import json
import subprocess
import sys

VOCABULARY, WIDTH, TOKENS = 37_000, 512, (4_096, 8_192, 16_384)


def growth(kind: str, tokens: int) -> int:
    """Bytes by which value and gradient raise the peak of this process."""
    from transformer.runtime import keep_freed_memory

    if kind == "chunks":
        keep_freed_memory()
    import resource

    import jax
    import jax.numpy as jnp
    import optax

    from transformer.ops.loss import cross_entropy

    hidden = jnp.ones((tokens, WIDTH), jnp.bfloat16)
    embedding = jnp.ones((VOCABULARY, WIDTH)) * 0.01
    targets = jnp.zeros(tokens, jnp.int32)

    def in_chunks(hidden: jax.Array, embedding: jax.Array) -> jax.Array:
        zeros, mask = jnp.zeros(VOCABULARY), jnp.ones(tokens, bool)
        return cross_entropy(hidden, embedding, zeros, targets, mask, label_smoothing=0.1)[0]

    def at_once(hidden: jax.Array, embedding: jax.Array) -> jax.Array:
        logits = jnp.asarray(hidden @ embedding.T.astype(hidden.dtype), jnp.float32)
        wanted = optax.smooth_labels(jax.nn.one_hot(targets, VOCABULARY), 0.1)
        return optax.softmax_cross_entropy(logits, wanted).sum()

    function = jax.jit(jax.value_and_grad({"chunks": in_chunks, "at once": at_once}[kind], (0, 1)))
    compiled = function.lower(hidden, embedding).compile()  # its memory is not the loss's
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for _ in range(3):
        jax.block_until_ready(compiled(hidden, embedding))
    return (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024


def main() -> None:
    if len(sys.argv) == 3:
        print(json.dumps(growth(sys.argv[1], int(sys.argv[2]))))
        return
    print(f"| tokens | {' | '.join(f'{tokens:,}' for tokens in TOKENS)} |\n| --- | {'---: | ' * len(TOKENS)}")
    for kind in ("chunks", "at once"):
        cells = []
        for tokens in TOKENS:
            done = subprocess.run(
                [sys.executable, __file__, kind, str(tokens)], stdout=subprocess.PIPE, text=True, check=False
            )
            cells.append(f"{json.loads(done.stdout) / 2**20:,.0f} MiB" if done.returncode == 0 else "failed")
        print(f"| {kind} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
