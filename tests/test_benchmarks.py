"""The benchmark of training speed runs, and what it compares with is the same model."""

import json
import os
import random
import re
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from transformer import parameters
from transformer.checkpoint import Checkpoints, open_run
from transformer.config import Config, ModelConfig, SearchConfig, TrainingConfig
from transformer.data.tokenizer import Tokenizer
from transformer.errors import InputError
from transformer.model import Transformer
from transformer.shapes import Batch
from transformer.training.step import create_state

ROOT = Path(__file__).parents[1]


@pytest.fixture
def sentences(tmp_path: Path) -> list[str]:
    generator = random.Random(0)
    words = ["".join(generator.choices("abcdefgh", k=generator.randint(1, 4))) for _ in range(60)]
    for language in ("en", "de"):
        lines = [" ".join(generator.choices(words, k=generator.randint(2, 12))) for _ in range(200)]
        (tmp_path / f"train.{language}").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return ["--source", str(tmp_path / "train.en"), "--target", str(tmp_path / "train.de")]


def benchmark(*options: str, script: str = "training") -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "benchmarks" / f"{script}.py"), *options]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "JAX_DISABLE_MOST_OPTIMIZATIONS": "1"}
    return subprocess.run(command, env=environment, capture_output=True, text=True)


def save_run(run_dir: Path, model: ModelConfig) -> None:
    """A run of an untrained model, whose translations have no end but the longest length."""
    config = Config(run_dir=str(run_dir), model=model, search=SearchConfig(extra_length=4))
    tokenizer = Tokenizer.train(["abc de fgh"] * 20, model.vocabulary_size, config.tokenizer)
    open_run(run_dir, config)
    tokenizer.save(run_dir / "tokenizer.json")
    with Checkpoints(run_dir, 1, tokenizer.fingerprint) as checkpoints:
        checkpoints.save(1, create_state(Transformer(model), optax.identity(), seed=0), {})


def test_it_measures_in_turns_and_goes_on_with_what_it_has(sentences: list[str], tmp_path: Path) -> None:
    output = tmp_path / "result.json"
    options = [*sentences, "--size", "tiny", "--turns", "2", "--steps", "1", "--settings", "alone"]
    options += ["--programs", "ours", "plain_linen", "without:products", "--output", os.path.relpath(output)]
    done = benchmark(*options)
    assert done.returncode == 0, done.stderr
    part = json.loads(output.read_text(encoding="utf-8"))["parts"]["tiny alone"]
    runs = part["programs"]
    assert list(runs) == ["ours", "plain_linen", "without:products"]
    assert not [run["failed"] for run in (*runs.values(), part["limit"]) if "failed" in run]
    assert all(len(run["turns"]) == 2 for run in runs.values())
    assert runs["plain_linen"]["parameters"] == runs["ours"]["parameters"]
    assert runs["without:products"]["loss"] == pytest.approx(runs["ours"]["loss"], rel=1e-3)
    assert "| plain linen + optax |" in done.stdout
    again = benchmark(*options)
    assert again.returncode == 0, again.stderr
    assert "starting" not in again.stderr
    assert again.stdout.splitlines()[1:] == done.stdout.splitlines()[1:]
    result = json.loads(output.read_text(encoding="utf-8"))
    result["machine"]["device"] = "another processor"
    output.write_text(json.dumps(result), encoding="utf-8")
    elsewhere = benchmark(*options)
    assert elsewhere.returncode == 2
    assert elsewhere.stderr == (
        f"error: {output} has a result with other machine. Give another --output, or remove it.\n"
    )


def test_the_dearest_operations_are_named() -> None:
    done = benchmark("--size", "tiny", "--number", "40", script="operations")
    assert done.returncode == 0, done.stderr
    rows = [line.split(" | ") for line in done.stdout.splitlines() if "%" in line]
    shares = [float(row[0].strip("| %")) for row in rows]
    assert len(rows) == 40
    assert all(0 <= float(row[2].rstrip("%")) <= 100 for row in rows)
    assert shares == sorted(shares, reverse=True)
    assert 0 < sum(shares) <= 101  # each is rounded
    assert "loss/dot_general" in [row[4] for row in rows]


def test_operations_that_run_beside_each_other_share_their_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    from operations import divide

    spent, alone = divide([(0, 4, "a"), (2, 6, "b"), (3, 3, "no time"), (6, 7, "b"), (9, 10, "c"), (9, 10, "c")])
    assert spent == {"a": 3, "b": 4, "c": 1}  # 8 units in which anything ran: 0 to 7 and 9 to 10
    assert alone == {"a": 2, "b": 3}


@pytest.mark.skipif(any(device.platform == "gpu" for device in jax.devices()), reason="there is a GPU")
def test_a_gpu_that_is_not_there_is_said_in_a_sentence(sentences: list[str]) -> None:
    done = benchmark(*sentences, "--device", "gpu")
    assert done.returncode == 2
    assert re.fullmatch(
        r"error: --device gpu needs a GPU that jax can use, and it finds none \(.+\): use --device cpu\.\n", done.stderr
    )


def test_flops_are_those_of_the_layers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    from peers.job import Size

    B, S, T, D, F, V = 3, 5, 7, 8, 16, 11
    attention = lambda q, k: 2 * (2 * q * D * D + 2 * k * D * D) + 2 * 2 * q * k * D  # noqa: E731
    feed_forward = lambda length: 2 * 2 * length * D * F  # noqa: E731
    encoder = attention(S, S) + feed_forward(S)
    decoder = attention(T, T) + attention(T, S) + feed_forward(T)
    expected = B * (2 * (encoder + decoder) + 2 * T * D * V)
    assert Size(D, 2, F, 2, vocabulary=V).step_flops(B, S, T) == 3 * expected


def test_plain_linen_is_the_same_model(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the same parameters and without dropout its loss is ours."""
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    from peers import plain_linen
    from peers.job import LABEL_SMOOTHING, Size

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
    # No parameter at 0 or 1: the places of biases and scales are tested too.
    params = jax.tree.map(lambda x: jnp.asarray(x + generator.normal(0, 0.1, x.shape), jnp.float32), params)
    ours: Any = model.apply({"params": params}, batch, label_smoothing=LABEL_SMOOTHING, method="loss")
    plain = plain_linen.PlainTransformer(size, jnp.float32)
    theirs = plain_linen.loss(plain, _as_linen(params), batch, None)
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


def test_decoders_are_measured_in_turns(sentences: list[str], tmp_path: Path) -> None:
    tiny: Any = {"vocabulary_size": 264, "d_model": 16, "num_heads": 2, "d_ff": 16, "max_positions": 256}
    tiny |= {"num_encoder_layers": 1, "num_decoder_layers": 1}
    settings: Any = {"norm_epsilon": 1e-5, "positions": "halved", "attention_bias": True, "final_logits_bias": True}
    save_run(tmp_path / "marian", ModelConfig(**tiny, **settings))
    save_run(tmp_path / "paper", ModelConfig(**tiny))

    done = benchmark("--run", str(tmp_path / "paper"), *sentences, script="decoding")
    assert done.returncode == 2
    assert "error: MarianMTModel has model.norm_epsilon=1e-05, but" in done.stderr

    output = tmp_path / "result.json"
    options = ["--run", str(tmp_path / "marian"), *sentences, "--programs", "ours:float32", "ours:bfloat16"]
    options += ["--turns", "2", "--sentences", "8", "--output", os.path.relpath(output)]
    done = benchmark(*options, script="decoding")
    assert done.returncode == 0, done.stderr
    programs = json.loads(output.read_text(encoding="utf-8"))["programs"]
    assert list(programs) == ["ours:float32", "ours:bfloat16"]
    assert all(len(program["turns"]) == 2 for program in programs.values())
    assert programs["ours:float32"]["same"] == {"1": 1.0, "4": 1.0}
    assert done.stdout.count("| transformer-jax |") == 4


COLLECTIVES = """\
HloModule step, is_scheduled=true

%sum (a: f32[], b: f32[]) -> f32[] {
  %a = f32[] parameter(0)
  %b = f32[] parameter(1)
  ROOT %add.1 = f32[] add(%a, %b)
}

%fused (p: f32[8]) -> f32[32] {
  %p = f32[8]{0:T(128)S(1)} parameter(0)
  ROOT %gathered = f32[32]{0:T(128)} all-gather(%p), dimensions={0}, replica_groups={{0,1,2,3}}
}

%asynchronous (q: f32[32]) -> f32[8] {
  %q = f32[32]{0} parameter(0)
  ROOT %scattered = f32[8]{0} reduce-scatter(%q), dimensions={0}, to_apply=%sum
}

%inner_condition (c: (s32[], f32[8])) -> pred[] {
  %c = (s32[]{:T(128)}, f32[8]{0:T(128)S(1)}) parameter(0)
  %bound = s32[]{:T(128)} constant(3), metadata={op_name="jit(step)/constant(99)"}
  %i = s32[]{:T(128)} get-tuple-element(%c), index=0
  ROOT %less = pred[]{:T(512)} compare(%i, %bound), direction=LT
}

%inner_body (d: (s32[], f32[8])) -> (s32[], f32[8]) {
  %d = (s32[], f32[8]{0}) parameter(0)
  %x = f32[8]{0} get-tuple-element(%d), index=1
  %reduced = (f32[8]{0}, /*index=1*/f32[]) all-reduce(%x, %n), to_apply=%sum
  %wide = f32[32]{0} fusion(%x), kind=kCustom, calls=%fused
}

%outer_body (e: (s32[], f32[8])) -> (s32[], f32[8]) {
  %e = (s32[], f32[8]{0}) parameter(0)
  %w = (s32[], f32[8]{0}) while(%e), condition=%inner_condition, body=%inner_body
  %begun = ((f32[32]{0}), f32[8]{0}, u32[]) async-start(%y), calls=%asynchronous
  %ended = f32[8]{0} async-done(%begun), calls=%asynchronous
}

%true_branch (f: f32[8]) -> f32[8] {
  %f = f32[8]{0} parameter(0)
  %first = f32[8]{0} collective-permute(%f), source_target_pairs={{0,1}}
  ROOT %second = f32[8]{0} collective-permute(%first), source_target_pairs={{0,1}}
}

%false_branch (g: f32[8]) -> f32[8] {
  %g = f32[8]{0} parameter(0)
  ROOT %third = f32[8]{0} collective-permute(%g), source_target_pairs={{0,1}}
}

%subroutine (h: f32[8]) -> f32[8] {
  %h = f32[8]{0} parameter(0)
  ROOT %choice = f32[8]{0} conditional(%t, %h, %h), branch_computations={%true_branch, %false_branch}
}

%endless (k: f32[]) -> pred[] {
  %k = f32[] parameter(0)
  ROOT %positive = pred[] compare(%k, %k), direction=GT
}

ENTRY %main (m: (s32[], f32[8])) -> f32[8] {
  %m = (s32[], f32[8]{0}) parameter(0)
  %v = (s32[], f32[8]{0}) while(%m), condition=%any, body=%outer_body, backend_config={"known_trip_count":{"n":"5"}}
  %u = f32[8]{0} call(%z), to_apply=%subroutine
  %start = f32[8]{0} all-reduce-start(%u), to_apply=%sum
  %done = f32[8]{0} all-reduce-done(%start)
  %last = f32[] while(%k), condition=%endless, body=%sum
}
"""


def test_collectives_count_as_often_as_they_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    from accelerators.estimate import collectives, parse

    program = parse(COLLECTIVES)
    counts = {"all-reduce": 5 * 3 + 1, "all-gather": 5 * 3, "reduce-scatter": 5, "collective-permute": 2}
    assert collectives(program) == counts
    assert collectives(program, "outer_body") == {"all-reduce": 3, "all-gather": 3, "reduce-scatter": 1}
    loops = {i.name: program.trips(i) for body in program.computations.values() for i in body if i.opcode == "while"}
    assert loops == {"v": 5, "w": 3, "last": None}


KERNELS = """\
HloModule step, is_scheduled=true

%sliced (p: bf16[6,1000,1000], i: s32[], g: f32[1000,1000]) -> f32[1000,1000] {
  %p = bf16[6,1000,1000]{2,1,0} parameter(0)
  %i = s32[] parameter(1)
  %g = f32[1000,1000]{1,0} parameter(2)
  %zero = s32[] constant(0)
  %whole = bf16[6,1000,1000]{2,1,0} bitcast(%p)
  %slice = bf16[1,1000,1000]{2,1,0} dynamic-slice(%whole, %i, %zero, %zero), dynamic_slice_sizes={1,1000,1000}
  %row = f32[1000,1000]{1,0} convert(%slice)
  ROOT %added = f32[1000,1000]{1,0} add(%row, %g)
}

%updated (q: f32[6,1000,1000], r: f32[1,1000,1000], j: s32[]) -> f32[6,1000,1000] {
  %q = f32[6,1000,1000]{2,1,0} parameter(0)
  %r = f32[1,1000,1000]{2,1,0} parameter(1)
  %j = s32[] parameter(2)
  ROOT %written = f32[6,1000,1000]{2,1,0} dynamic-update-slice(%q, %r, %j, %j, %j)
}

%body (t: (s32[], bf16[6,1000,1000], f32[1000,1000])) -> (s32[], bf16[6,1000,1000], f32[1000,1000]) {
  %t = (s32[], bf16[6,1000,1000]{2,1,0}, f32[1000,1000]{1,0}) parameter(0)
  %n = s32[] get-tuple-element(%t), index=0
  %stack = bf16[6,1000,1000]{2,1,0} get-tuple-element(%t), index=1
  %sum = f32[1000,1000]{1,0} get-tuple-element(%t), index=2
  %read = f32[1000,1000]{1,0} fusion(%stack, %n, %sum), kind=kLoop, calls=%sliced, metadata={op_name="layer/add"}
}

ENTRY %main (a: bf16[2000,4000], b: bf16[4000,3000], s: f32[6,1000,1000]) -> bf16[2000,3000] {
  %a = bf16[2000,4000]{1,0} parameter(0)
  %b = bf16[4000,3000]{1,0} parameter(1)
  %s = f32[6,1000,1000]{2,1,0} parameter(2)
  %loop = (s32[], bf16[6,1000,1000]{2,1,0}, f32[1000,1000]{1,0}) while(%z), condition=%c, body=%body, backend_config={"known_trip_count":{"n":"6"}}
  %one = f32[1,1000,1000]{2,1,0} bitcast(%s)
  %index = s32[] constant(2)
  %store = f32[6,1000,1000]{2,1,0} fusion(%s, %one, %index), kind=kLoop, calls=%updated
  %product = (bf16[2000,3000]{1,0}, s8[4194304]{0}) custom-call(%a, %b), custom_call_target="__cublas$lt$matmul", backend_config={"lhs_contracting_dimensions":["1"]}
  %nothing = f32[2000]{0} custom-call(%a), custom_call_target="Sharding"
  %result = bf16[2000,3000]{1,0} get-tuple-element(%product), index=0
  ROOT %copy.1 = bf16[2000,3000]{0,1} copy(%result)
}
"""  # noqa: E501


def test_kernels_cost_their_bytes_or_their_flops(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    from accelerators.estimate import BANDWIDTH, LAUNCH, PEAK, kernels, parse, total

    found = {kernel.name: kernel for kernel in kernels(parse(KERNELS))}
    moved = {
        "read": 6 * (2_000_000 + 4 + 4_000_000 + 4_000_000),  # a slice, its index, the sum before and after
        "store": 4_000_000 + 4 + 4_000_000,  # the update is read and written, the rest stays where it is
        "product": 2 * (2000 * 4000 + 4000 * 3000 + 2000 * 3000),  # without the workspace
        "copy.1": 2 * 2 * 2000 * 3000,
    }
    assert {name: kernel.bytes for name, kernel in found.items()} == moved
    assert {name: kernel.launches for name, kernel in found.items()} == {
        "read": 6,
        "store": 1,
        "product": 1,
        "copy.1": 1,
    }
    assert found["read"].origin == "layer/add"
    assert found["read"].seconds == pytest.approx(moved["read"] / BANDWIDTH + 6 * LAUNCH)
    assert found["product"].flops == 2 * 2000 * 4000 * 3000
    assert found["product"].seconds == pytest.approx(found["product"].flops / PEAK + LAUNCH)
    everything = total(list(found.values()))
    assert (everything.launches, everything.bytes) == (9, sum(moved.values()))


def test_an_estimate_is_printed_for_a_saved_program(tmp_path: Path) -> None:
    (tmp_path / "program.hlo").write_text(KERNELS, encoding="utf-8")
    done = benchmark(str(tmp_path / "program.hlo"), "--top", "1", script="accelerators/estimate")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("0.11 ms estimated; 9 kernels; 0.1 GB moved; 0.05 TFLOP in products, 0.06 ms at the ")
    assert done.stdout.splitlines()[-1].split()[5:] == ["product", "product"]
    (tmp_path / "other.txt").write_text("no program", encoding="utf-8")
    done = benchmark(str(tmp_path / "other.txt"), script="accelerators/estimate")
    assert done.returncode == 2
    assert "This is not an HLO program" in done.stderr


def test_a_batch_to_compile_comes_from_the_config(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    from compiled import batch_shape

    assert batch_shape(None, Config(), devices=1) == (97, 256)  # 25,000 tokens, data.max_length
    packed = Config(training=TrainingConfig(pack_length=64, accumulation_steps=4))
    assert batch_shape(None, packed, devices=8) == (48, 64)
    assert batch_shape("390x64", Config(), devices=8) == (390, 64)
    for given, config, message in (
        ("390", Config(), "--batch must be ROWSxLENGTH"),
        ("390x64", packed, "--batch has 390 rows, which 4 accumulation steps cannot share"),
        ("8x2000", Config(), "--batch has rows of 2000 tokens, but model.max_positions is 1024"),
        (None, Config(training=TrainingConfig(batch_tokens=256)), "is too small for 2 devices"),
    ):
        with pytest.raises(InputError, match=message):
            batch_shape(given, config, devices=2)


@pytest.mark.parametrize(("target", "plugin", "extra"), [("h100x8", "cuda", "cuda12"), ("v5e:2x2", "libtpu", "tpu")])
def test_a_missing_plugin_is_said_in_a_sentence(target: str, plugin: str, extra: str) -> None:
    if any(plugin in str(package.name) for package in metadata.distributions()):
        pytest.skip(f"{plugin} is installed")
    done = benchmark("--target", target, script="compiled")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == (
        f"error: Compiling for {target} needs jax's plugin for it, which is not installed. Install it with: "
        f"pip install -e '.[{extra}]'\n"
    )
