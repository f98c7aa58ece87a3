"""Marian's formulas in float64 NumPy, by the names of Marian's own weights."""

import numpy as np

Weights = dict[str, np.ndarray]


def positions(length: int, width: int) -> np.ndarray:
    """Sines in the first half, cosines in the second; the wavelengths reach from 2 pi to 10000 * 2 pi."""
    rates = np.exp(-np.log(10000.0) * np.arange(width // 2) / (width // 2 - 1))
    angles = np.outer(np.arange(length), rates)
    return np.hstack([np.sin(angles), np.cos(angles)])


class Marian:
    """One sentence pair at a time, so there is no padding."""

    def __init__(self, weights: Weights, heads: int, activation: str, pre_norm: bool, tied: str) -> None:
        self.p = {name: array.astype(np.float64) for name, array in weights.items()}
        self.heads, self.pre_norm, self.tied = heads, pre_norm, tied
        self.activate = {
            "relu": lambda x: np.maximum(x, 0),
            "swish": lambda x: x / (1 + np.exp(-x)),
            "gelu": lambda x: x / (1 + np.exp(-1.702 * x)),
        }[activation]

    def log_probabilities(self, source: list[int], target: list[int]) -> np.ndarray:
        """Of each target token, whose last one is the end."""
        x = self.embedding("encoder")[source]
        x = self.stack("encoder", x, None)
        table = self.embedding("decoder")
        shifted = np.vstack([np.zeros((1, table.shape[1])), table[target[:-1]]])
        logits = self.output(self.stack("decoder", shifted, x))
        logits -= logits.max(-1, keepdims=True)
        log_probs = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
        return log_probs[np.arange(len(target)), target]

    def embedding(self, side: str) -> np.ndarray:
        return self.p["Wemb" if self.tied == "all" else f"{side}_Wemb"]

    def output(self, x: np.ndarray) -> np.ndarray:
        matrix = self.p["decoder_ff_logit_out_Wt"] if self.tied == "none" else self.embedding("decoder")
        return x @ matrix.T + self.p["decoder_ff_logit_out_b"]

    def stack(self, side: str, x: np.ndarray, memory: np.ndarray | None) -> np.ndarray:
        x = x * np.sqrt(x.shape[1]) + positions(*x.shape)
        layer = 1
        while f"{side}_l{layer}_self_Wq" in self.p:
            name = f"{side}_l{layer}"
            x = self.around(f"{name}_self_Wo", x, lambda y, n=name: self.attend(f"{n}_self", y, y, memory is not None))
            if memory is not None:
                x = self.around(
                    f"{name}_context_Wo", x, lambda y, n=name: self.attend(f"{n}_context", y, memory, False)
                )
            x = self.around(f"{name}_ffn_ffn", x, lambda y, n=name: self.feed_forward(f"{n}_ffn", y))
            layer += 1
        return self.norm(f"{side}_top_ln_{{}}", x) if self.pre_norm else x

    def around(self, name: str, x: np.ndarray, layer) -> np.ndarray:
        if self.pre_norm:
            return x + layer(self.norm(f"{name}_ln_{{}}_pre", x))
        return self.norm(f"{name}_ln_{{}}", x + layer(x))

    def norm(self, name: str, x: np.ndarray) -> np.ndarray:
        centred = x - x.mean(1, keepdims=True)
        deviation = np.sqrt((centred**2).mean(1, keepdims=True) + 1e-6)
        return self.p[name.format("scale")] * centred / deviation + self.p[name.format("bias")]

    def affine(self, matrix: str, bias: str, x: np.ndarray) -> np.ndarray:
        return x @ self.p[matrix] + self.p[bias]

    def feed_forward(self, name: str, x: np.ndarray) -> np.ndarray:
        hidden = self.activate(self.affine(f"{name}_W1", f"{name}_b1", x))
        return self.affine(f"{name}_W2", f"{name}_b2", hidden)

    def attend(self, name: str, x: np.ndarray, memory: np.ndarray, causal: bool) -> np.ndarray:
        query, key, value = (
            np.split(self.affine(f"{name}_W{letter}", f"{name}_b{letter}", side), self.heads, axis=1)
            for letter, side in (("q", x), ("k", memory), ("v", memory))
        )
        found = []
        for q, k, v in zip(query, key, value, strict=True):
            scores = q @ k.T / np.sqrt(q.shape[1])
            scores += np.triu(np.full(scores.shape, -1e9), 1) if causal else 0
            weights = np.exp(scores - scores.max(1, keepdims=True))
            found.append(weights / weights.sum(1, keepdims=True) @ v)
        return self.affine(f"{name}_Wo", f"{name}_bo", np.hstack(found))


def random_weights(
    dim: int, d_ff: int, depths: tuple[int, int], sizes: tuple[int, int], pre_norm: bool, tied: str
) -> Weights:
    """Weights as Marian would name them, none of them at its neutral value."""
    rng, found = np.random.default_rng(0), {}

    def add(name: str, *shape: int, around: float = 0.0) -> None:
        found[name] = (around + 0.3 * rng.normal(size=shape)).astype(np.float32)

    def add_norm(name: str, suffix: str) -> None:
        add(f"{name}_ln_scale{suffix}", 1, dim, around=1.0)
        add(f"{name}_ln_bias{suffix}", 1, dim)

    if tied == "all":
        add("Wemb", sizes[0], dim)
    else:
        add("encoder_Wemb", sizes[0], dim)
        add("decoder_Wemb", sizes[1], dim)
    if tied == "none":
        add("decoder_ff_logit_out_Wt", sizes[1], dim)
    add("decoder_ff_logit_out_b", 1, sizes[1])
    for side, depth, attentions in (("encoder", depths[0], ["self"]), ("decoder", depths[1], ["self", "context"])):
        for layer in range(1, depth + 1):
            for attention in attentions:
                for letter in "qkvo":
                    add(f"{side}_l{layer}_{attention}_W{letter}", dim, dim)
                    add(f"{side}_l{layer}_{attention}_b{letter}", 1, dim)
                add_norm(f"{side}_l{layer}_{attention}_Wo", "_pre" * pre_norm)
            add(f"{side}_l{layer}_ffn_W1", dim, d_ff)
            add(f"{side}_l{layer}_ffn_b1", 1, d_ff)
            add(f"{side}_l{layer}_ffn_W2", d_ff, dim)
            add(f"{side}_l{layer}_ffn_b2", 1, dim)
            add_norm(f"{side}_l{layer}_ffn_ffn", "_pre" * pre_norm)
        if pre_norm:
            add_norm(f"{side}_top", "")
    return found
