"""The benchmarks of training and decoding run, and what they compare with is the same model."""

import json
import os
import random
import re
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import training
from numerics import quick_jit
from peers import plain_linen
from peers.job import LABEL_SMOOTHING, Size
from results import read

from transformer import parameters
from transformer.checkpoint import Checkpoints
from transformer.config import Config, ModelConfig, SearchConfig
from transformer.data.tokenizer_bpe import BpeTokenizer
from transformer.model import Transformer
from transformer.run_dir import open_run
from transformer.shapes import Batch
from transformer.training.step import create_state


@pytest.fixture
def sentences(tmp_path: Path) -> list[str]:
    generator = random.Random(0)
    words = ["".join(generator.choices("abcdefgh", k=generator.randint(1, 4))) for _ in range(60)]
    for language in ("en", "de"):
        lines = [" ".join(generator.choices(words, k=generator.randint(2, 12))) for _ in range(200)]
        (tmp_path / f"train.{language}").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return ["--source", str(tmp_path / "train.en"), "--target", str(tmp_path / "train.de")]


def save_run(run_dir: Path, model: ModelConfig) -> None:
    """A run of an untrained model, whose translations have no end but the longest length."""
    config = Config(run_dir=str(run_dir), model=model, search=SearchConfig(extra_length=4))
    tokenizer = BpeTokenizer.train(["abc de fgh"] * 20, model.vocabulary_size, config.tokenizer)
    open_run(run_dir, config)
    tokenizer.save(run_dir / "tokenizer.json")
    with Checkpoints(run_dir, 1, tokenizer.fingerprint) as checkpoints:
        checkpoints.save(1, create_state(Transformer(model), optax.identity(), seed=0), {})


def assert_rows(file: Path, programs: int, quantities: int, besides: int = 0) -> None:
    rows = read(file)
    assert len(rows) == programs * quantities + besides
    assert all(0 <= row.lower_quartile <= row.median <= row.upper_quartile for row in rows)
    assert all("--turns 2" in row.command and row.machine for row in rows)
    assert len({(row.setting, row.program, row.quantity) for row in rows}) == len(rows)


def test_it_measures_in_turns_and_goes_on_with_what_it_has(
    benchmark: Callable,
    sentences: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    output = tmp_path / "result.json"
    options = [*sentences, "--size", "tiny", "--turns", "2", "--steps", "1", "--settings", "alone"]
    options += ["--programs", "ours", "plain_linen", "ours:plain", "--output", os.path.relpath(output)]
    options += ["--csv", str(tmp_path / "rows.csv")]
    done = benchmark("training", *options)
    assert done.returncode == 0, done.stderr
    part = json.loads(output.read_text(encoding="utf-8"))["parts"]["tiny alone"]
    runs = part["programs"]
    assert list(runs) == ["ours", "plain_linen", "ours:plain"]
    assert not [run["failed"] for run in (*runs.values(), part["limit"]) if "failed" in run]
    assert all(len(run["turns"]) == 2 for run in runs.values())
    assert runs["plain_linen"]["parameters"] == runs["ours"]["parameters"]
    assert runs["ours:plain"]["loss"] == pytest.approx(runs["ours"]["loss"], rel=1e-3)
    assert "| plain linen + optax |" in done.stdout
    assert_rows(tmp_path / "rows.csv", programs=3, quantities=5, besides=0)  # no ratio of ours, and the matmul limit
    # From here on in this process: nothing is measured any more.
    monkeypatch.setattr(sys, "argv", [training.__file__, *options])
    assert training.main() == 0
    again = capsys.readouterr()
    assert "starting" not in again.err
    assert again.out.splitlines()[1:] == done.stdout.splitlines()[1:]
    assert_rows(tmp_path / "rows.csv", programs=3, quantities=5, besides=0)  # nothing was measured, nothing is added
    result = json.loads(output.read_text(encoding="utf-8"))
    result["machine"]["device"] = "another processor"
    output.write_text(json.dumps(result), encoding="utf-8")
    assert training.main() == 2
    assert capsys.readouterr().err == (
        f"error: Cannot resume from {os.path.relpath(output)}. It differs in: machine. Give another --output, or "
        "remove the file.\n"
    )


@pytest.mark.skipif(any(device.platform == "gpu" for device in jax.devices()), reason="there is a GPU")
def test_a_gpu_that_is_not_there_is_said_in_a_sentence(benchmark: Callable, sentences: list[str]) -> None:
    done = benchmark("training", *sentences, "--device", "gpu")
    assert done.returncode == 2
    assert re.fullmatch(
        r"error: --device gpu needs a GPU, but jax finds none \(.+\)\. Use --device cpu\.\n", done.stderr
    )


def test_plain_linen_is_the_same_model() -> None:
    """With the same parameters and without dropout its loss is ours."""
    size = Size(d_model=16, num_heads=2, d_ff=24, num_layers=2, vocabulary=19)
    config = ModelConfig(
        vocabulary_size=19, d_model=16, num_heads=2, d_ff=24, num_encoder_layers=2, num_decoder_layers=2
    )
    generator = np.random.default_rng(0)
    tokens = generator.integers(3, 19, (3, 4, 6)).astype(np.int32)
    source_mask, target_mask = np.arange(6) < generator.integers(1, 7, (2, 4, 1))
    arrays = tokens[0], source_mask, tokens[1], tokens[2], target_mask, np.arange(4, dtype=np.int32)
    batch = Batch(*map(jnp.asarray, arrays))

    model = Transformer(config, dtype=jnp.dtype("float32"))
    params = parameters.draw(model, 0)["params"]
    # No parameter at 0 or 1: so the positions of biases and scales are tested too.
    params = jax.tree.map(lambda x: jnp.asarray(x + generator.normal(0, 0.1, x.shape), jnp.float32), params)
    loss = partial(model.apply, label_smoothing=LABEL_SMOOTHING, method="loss")
    ours: Any = quick_jit(loss)({"params": params}, batch)
    plain = plain_linen.PlainTransformer(size, jnp.float32)
    theirs = quick_jit(lambda params, batch: plain_linen.loss(plain, params, batch, None))(_as_linen(params), batch)
    np.testing.assert_allclose(theirs, ours, rtol=1e-5)


def _as_linen(ours: dict) -> dict:
    """Our parameters under the names of linen's own layers, each layer by itself."""
    plain = {"embedding": {"embedding": ours["embedding"]}}
    for stack in ("encoder", "decoder"):
        for number in range(2):
            layer = jax.tree.map(lambda leaf, number=number: leaf[number], ours[stack]["layers"])
            plain[f"{stack}_{number}"] = _layer_as_linen(layer)
    return plain


def _layer_as_linen(ours: dict) -> dict:
    """Our parameters of one layer under the names and in the shapes of linen's own layers."""
    attentions = [name for name in ("self_attention", "cross_attention") if name in ours]
    plain = {}
    for place, attention in enumerate(attentions):
        heads = {part: kernel["kernel"].reshape(16, 2, 8) for part, kernel in ours[attention].items()}
        out = ours[attention]["output"]["kernel"].reshape(2, 8, 16)
        plain[f"MultiHeadDotProductAttention_{place}"] = {
            "query": {"kernel": heads["query"]},
            "key": {"kernel": heads["key"]},
            "value": {"kernel": heads["value"]},
            "out": {"kernel": out},
        }
    feed_forward = ours["feed_forward"]
    for place, part in enumerate(("in", "out")):
        plain[f"Dense_{place}"] = {"kernel": feed_forward[f"kernel_{part}"], "bias": feed_forward[f"bias_{part}"]}
    for place, sublayer in enumerate([*attentions, "feed_forward"]):
        plain[f"LayerNorm_{place}"] = ours[f"{sublayer}_norm"]["norm"]
    return plain


def test_decoders_are_measured_in_turns(benchmark: Callable, sentences: list[str], tmp_path: Path) -> None:
    tiny: Any = {"vocabulary_size": 264, "d_model": 16, "num_heads": 2, "d_ff": 16, "max_positions": 256}
    tiny |= {"num_encoder_layers": 1, "num_decoder_layers": 1}
    settings: Any = {"norm_epsilon": 1e-5, "positions": "halved", "attention_bias": True, "final_logits_bias": True}
    save_run(tmp_path / "marian", ModelConfig(**tiny, **settings))
    save_run(tmp_path / "paper", ModelConfig(**tiny))

    done = benchmark("decoding", "--run", str(tmp_path / "paper"), *sentences)
    assert done.returncode == 2
    assert "error: MarianMTModel has model.norm_epsilon=1e-05, but" in done.stderr

    output = tmp_path / "result.json"
    options = ["--run", str(tmp_path / "marian"), *sentences, "--programs", "ours:float32", "ours:bfloat16"]
    options += ["--turns", "2", "--sentences", "8", "--output", os.path.relpath(output)]
    options += ["--csv", str(tmp_path / "rows.csv")]
    done = benchmark("decoding", *options)
    assert done.returncode == 0, done.stderr
    programs = json.loads(output.read_text(encoding="utf-8"))["programs"]
    assert list(programs) == ["ours:float32", "ours:bfloat16"]
    assert all(len(program["turns"]) == 2 for program in programs.values())
    assert programs["ours:float32"]["same"] == {"1": 1.0, "4": 1.0}
    assert done.stdout.count("| transformer-jax |") == 4
    assert_rows(
        tmp_path / "rows.csv", programs=4, quantities=5, besides=-4
    )  # two programs, two beams; no ratio of ours to itself
