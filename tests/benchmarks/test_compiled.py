"""Benchmarks that compile programs and estimate their time."""

from collections.abc import Callable
from pathlib import Path

import pytest
from compiled import batch_shape
from estimate import purpose

from transformer.config import Config, TrainingConfig
from transformer.errors import InputError
from transformer.planning.kernels import Kernel

PRODUCT = """\
HloModule step, is_scheduled=true

ENTRY %main (a: bf16[2000,4000], b: bf16[4000,3000]) -> bf16[2000,3000] {
  %a = bf16[2000,4000]{1,0} parameter(0)
  %b = bf16[4000,3000]{1,0} parameter(1)
  ROOT %product = bf16[2000,3000]{1,0} custom-call(%a, %b), custom_call_target="__cublas$lt$matmul", backend_config={"lhs_contracting_dimensions":["1"]}
}
"""  # noqa: E501


def test_an_estimate_is_printed_for_a_saved_program(benchmark: Callable, tmp_path: Path) -> None:
    (tmp_path / "program.hlo").write_text(PRODUCT, encoding="utf-8")
    done = benchmark("estimate", str(tmp_path / "program.hlo"), "--top", "1")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("0.06 ms estimated; 1 kernels; 0.1 GB moved; 0.05 TFLOP in products, 0.06 ms at the ")
    assert done.stdout.splitlines()[-1].split()[5:] == ["product", "product"]
    (tmp_path / "other.txt").write_text("no program", encoding="utf-8")
    done = benchmark("estimate", str(tmp_path / "other.txt"))
    assert done.returncode == 2
    assert "This is not an HLO program" in done.stderr


def test_kernels_are_grouped_by_what_they_compute() -> None:
    step = "jit(train_step)/jvp(Transformer.loss)/"
    layer = f"{step}encoder/layers/feed_forward_norm/"
    for opcode, origin, group in (
        ("product", f"{layer}feed_forward/dot_general", "products of the feed-forward network"),
        ("product", f"{step}while/body/dot_general", "products of the logits"),
        ("fusion", f"{step}while/body/reduce_max", "softmax of the loss"),
        ("attention_backward_query", "attention_backward_query/pallas_call", "attention"),
        ("cudnn$fmhaSoftmax", f"{step}decoder/layers/self_attention/dot_product_attention_fwd", "attention"),
        ("fusion", f"{layer}norm/mul", "norms, dropout and residuals"),
        ("fusion", "jit(train_step)/add", "optimizer"),
        ("another", "jit(step)/another/pallas_call", "other"),
    ):
        assert purpose(Kernel(0.0, 0, 0.0, 1, opcode, "", origin)) == group


def test_a_batch_to_compile_comes_from_the_config() -> None:
    assert batch_shape(None, Config(), devices=1) == (97, 256)  # 25,000 tokens, data.max_length
    packed = Config(training=TrainingConfig(pack_length=64, accumulation_steps=4))
    assert batch_shape(None, packed, devices=8) == (48, 64)
    assert batch_shape("390x64", Config(), devices=8) == (390, 64)
    for given, config, message in (
        ("390", Config(), "--batch must be ROWSxLENGTH"),
        ("390x64", packed, "--batch must have a multiple of 4 rows .*, but has 390"),
        ("8x2000", Config(), "--batch has rows of 2000 tokens, but --model.max-positions is 1024"),
        (None, Config(training=TrainingConfig(batch_tokens=256)), "is too small for 2 devices"),
    ):
        with pytest.raises(InputError, match=message):
            batch_shape(given, config, devices=2)
