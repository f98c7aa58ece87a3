"""The parameters of a model, their initialization, and the layout of version 0.1."""

import dataclasses
import hashlib
import math
import operator
import re
from collections.abc import Callable, Sequence
from fnmatch import fnmatchcase
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict
from jax import Array
from jax.core import Tracer

from transformer.batch_norm import initial_variable
from transformer.errors import InputError, require
from transformer.model import Transformer
from transformer.shapes import Params

STACKED = "layers"  # module whose parameters have a leading axis of layers


def shapes(model: Transformer) -> Params:
    """Returns the shapes and dtypes of a model's variables, computing nothing.

    Args:
        model: Model whose variables are described.

    Returns:
        The tree that `Transformer.apply` takes first, with a `jax.ShapeDtypeStruct` for each array.
    """

    model = model.clone(config=dataclasses.replace(model.config, scan_unroll=1))  # to trace one layer, not each

    def init() -> Any:
        tokens, mask = jnp.zeros((1, 1), jnp.int32), jnp.ones((1, 1), bool)
        return model.init(jax.random.key(0), tokens, mask, tokens, mask)

    return jax.eval_shape(init)


def count(params: Params) -> int:
    """Counts the parameters of a model.

    Args:
        params: The tree that `Transformer.apply` takes first, or its `shapes`.

    Returns:
        The number of elements of all parameters. Other variables, such as running statistics, are not counted.
    """
    return sum(leaf.size for leaf in jax.tree.leaves(params["params"]))


def require_fit(model: Transformer, params: Params, subject: str = "These parameters") -> None:
    """Raises InputError unless variables have the names and shapes of a model's.

    Args:
        model: Model that the variables are for.
        params: The tree that `Transformer.apply` takes first.
        subject: What the variables are called in the message.

    Raises:
        InputError: A variable is missing, is unknown to the model, or has another shape. The message names it.
    """
    here, given = (
        {jax.tree_util.keystr(path): [*leaf.shape] for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}
        for tree in (shapes(model), params)
    )
    for name in sorted({*here, *given}):
        if here.get(name) != given.get(name):
            raise InputError(
                f"{subject} do not fit the model: {name} is {given.get(name, 'missing')}, but "
                f"{here.get(name, 'no parameter of this name')} was expected."
            )


def split(params: Params, freeze: Sequence[str]) -> tuple[Params, Params]:
    """Splits parameters into those that are trained and those that are frozen.

    Args:
        params: Tree of parameters, or of their `shapes`: the entry `params` of a model's variables.
        freeze: Patterns of names, as in `training.freeze`. A name is the path of a parameter, such as
            `encoder/layers/feed_forward/kernel_in`.

    Returns:
        The trained parameters and the frozen ones, as trees that `merge` joins.

    Raises:
        InputError: A pattern matches no name, or every name is matched. The message lists the names.
    """
    named = flatten_dict(params, sep="/")
    for pattern in freeze:
        require(
            any(fnmatchcase(name, pattern) for name in named),
            f"--training.freeze {pattern} matches no parameter. The parameters are {', '.join(sorted(named))}.",
        )
    frozen = {name: leaf for name, leaf in named.items() if any(fnmatchcase(name, pattern) for pattern in freeze)}
    trained = {name: leaf for name, leaf in named.items() if name not in frozen}
    require(len(trained) > 0, f"--training.freeze {' '.join(freeze)} leaves no parameter to train. Freeze fewer.")
    return unflatten_dict(trained, sep="/"), unflatten_dict(frozen, sep="/")


def merge(trained: Params, frozen: Params) -> Params:
    """Joins what `split` returns to one tree."""
    return unflatten_dict(flatten_dict(trained, sep="/") | flatten_dict(frozen, sep="/"), sep="/")


def fingerprint(params: Params) -> str:
    """Computes the SHA-256 of a tree of arrays, in hex.

    It depends on the names, shapes, dtypes and bits of the arrays, and not on their order in the tree.
    """
    digest = hashlib.sha256()
    for name, leaf in sorted(flatten_dict(params, sep="/").items()):
        digest.update(f"{name} {leaf.dtype} {[*leaf.shape]}\n".encode())
        digest.update(np.ascontiguousarray(leaf).tobytes())
    return digest.hexdigest()


def draw(model: Transformer, seed: int | np.integer | Array) -> Params:
    """Draws the variables of an untrained model.

    They are drawn on the host, by NumPy. So nothing is compiled, and every backend and any number of devices gets the
    same bits.

    - Kernels of projections and of the feed-forward network are uniform, with Glorot's variance
      2 / (fan_in + fan_out). Query, key and value kernels have half of it, as parts of one matrix [D, 3 D].
    - Embeddings and learned positions are normal, with variance 1 / d_model.
    - Scales are 1, biases are 0. Running statistics of batch norm are mean 0 and variance 1.

    Each matrix has its own random stream, a function of (seed, path, layer). So the first layers of a model do not
    depend on how many follow.

    Args:
        model: Model whose variables are drawn.
        seed: Integer that is not negative, or a PRNG key. `jax.random.key(n)` draws the same as n.

    Returns:
        The tree that `Transformer.apply` takes first, as float32 NumPy arrays.

    Raises:
        InputError: The seed is neither an integer that is not negative nor one PRNG key, or it is traced.
    """
    number = _number(seed)

    def leaf(path: tuple[Any, ...], like: Any) -> np.ndarray:
        collection, *names = (entry.key for entry in path)
        if collection != "params":
            return initial_variable(names[-1], like.shape)
        fill = _distribution(names, like.shape)
        if STACKED not in names:
            return fill(_stream(number, names, 0), like.shape)
        return np.stack([fill(_stream(number, names, layer), like.shape[1:]) for layer in range(like.shape[0])])

    return jax.tree_util.tree_map_with_path(leaf, shapes(model))


def _number(seed: Any) -> int:
    """Converts a seed or a PRNG key to an integer.

    The words [.., high, low] of a key are the digits of the integer in base 2^32.
    """
    if isinstance(seed, Tracer):
        raise InputError(
            "Parameters are drawn on the host, so their seed cannot be an argument of a jitted or mapped function. "
            "Draw them outside of it and pass them in."
        )
    if isinstance(seed, Array) and jnp.issubdtype(seed.dtype, jax.dtypes.prng_key):
        seed = jax.random.key_data(seed)
    if isinstance(seed, Array | np.ndarray) and seed.ndim == 1 and seed.dtype == np.uint32:
        return int.from_bytes(np.asarray(seed).astype(">u4").tobytes(), "big")
    try:
        number = operator.index(seed)
    except TypeError:
        number = -1
    if number < 0 or isinstance(seed, bool):
        raise InputError(f"The seed must be an integer that is not negative, or one PRNG key, but is {seed!r}.")
    return number


Fill = Callable[[np.random.Generator, tuple[int, ...]], np.ndarray]


def _distribution(names: list[str], shape: tuple[int, ...]) -> Fill:
    """Chooses the distribution of a parameter by the names on its path."""
    match names[-1]:
        case "scale":
            return lambda _, shape: np.ones(shape, np.float32)
        case "bias" | "bias_in" | "bias_out" | "logits_bias":
            return lambda _, shape: np.zeros(shape, np.float32)
        case "kernel" | "kernel_in" | "kernel_out":
            fan = shape[-2] + shape[-1]
            shared = 2 if names[-2] in ("query", "key", "value") else 1
            return _uniform(math.sqrt(6 / (shared * fan)))
        case _:  # embeddings and learned positions
            return _normal(shape[-1] ** -0.5)


def _uniform(bound: float) -> Fill:
    def fill(generator: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
        numbers = generator.random(shape, np.float32)
        return (numbers - np.float32(0.5)) * np.float32(2 * bound)

    return fill


def _normal(deviation: float) -> Fill:
    def fill(generator: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
        return generator.standard_normal(shape, np.float32) * np.float32(deviation)

    return fill


def _stream(seed: int, names: list[str], layer: int) -> np.random.Generator:
    """Makes the random stream of one matrix, with a key of its own."""
    digest = hashlib.blake2b(f"{seed}/{'/'.join(names)}/{layer}".encode(), digest_size=16).digest()
    return np.random.Generator(np.random.Philox(key=int.from_bytes(digest, "little")))


def are_matrices(params: Params) -> Params:
    """Tells for each parameter whether it is a matrix.

    The axis of layers does not count, so the biases and scales of a stack are vectors.

    Args:
        params: Tree of parameters.

    Returns:
        A tree of the same structure, with True for matrices.
    """

    def leaf(path: tuple[Any, ...], value: Any) -> bool:
        stacked = any(entry.key == STACKED for entry in path)
        return value.ndim - stacked >= 2

    return jax.tree_util.tree_map_with_path(leaf, params)


def from_version_0_1(tree: Params) -> Params:
    """Converts parameters, or other variables, of a run of version 0.1.

    That version had one module per layer. This one stacks the layers of the encoder and of the decoder.

    Args:
        tree: Tree with `encoder_0`, `encoder_1`, ..., `decoder_0`, ..., and with pre-norm `encoder_norm` and
            `decoder_norm`.

    Returns:
        The same arrays in the layout of this version.
    """
    renamed = {"attention": "self_attention", "attention_norm": "self_attention_norm"}
    stacks: dict[str, Any] = {}
    for stack in ("encoder", "decoder"):
        names = sorted((name for name in tree if re.fullmatch(rf"{stack}_\d+", name)), key=lambda name: int(name[8:]))
        layers = [{renamed.get(part, part): leaves for part, leaves in tree[name].items()} for name in names]
        stacks[stack] = {STACKED: jax.tree.map(lambda *leaves: np.stack(leaves), *layers)}
        if f"{stack}_norm" in tree:
            stacks[stack]["norm"] = tree[f"{stack}_norm"]
    others = {name: part for name, part in tree.items() if name.partition("_")[0] not in stacks}
    return others | stacks
