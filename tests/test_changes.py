"""Which fields may change on resuming, namely those that leave all updates so far unchanged."""

import dataclasses
import re
from typing import Any

import numpy as np
import pytest

from transformer.changes import changes, other_model
from transformer.config import Config, ModelConfig, OptimizerConfig, TrainingConfig
from transformer.errors import InputError
from transformer.training.optimizer import learning_rate, rates

SCHEDULES = [
    OptimizerConfig(warmup_steps=4),
    OptimizerConfig(schedule="inverse_sqrt", peak=1.0, warmup_steps=4),
    OptimizerConfig(schedule="inverse_sqrt", peak=1.0, warmup_steps=4, final_fraction=0.4),
    OptimizerConfig(schedule="cosine", peak=1.0, warmup_steps=4),
    OptimizerConfig(schedule="warmup_stable_decay", peak=1.0, warmup_steps=4, final_fraction=0.3),
]


def replace(config: Config, part: str, **fields: Any) -> Config:
    return dataclasses.replace(config, **{part: dataclasses.replace(getattr(config, part), **fields)})


@pytest.mark.parametrize("optimizer", SCHEDULES)
@pytest.mark.parametrize(("before", "now"), [(20, 30), (30, 20), (20, 21), (20, 400)])
def test_steps_may_change_where_no_rate_so_far_depends_on_them(optimizer, before, now):
    """The numbers of steps differ enough for the rates to differ in float32."""
    first, second = (rates(learning_rate(optimizer, 16, steps), 20) for steps in (before, now))
    old = Config(optimizer=optimizer, training=TrainingConfig(steps=before))
    new = replace(old, "training", steps=now)
    for step in range(21):
        if np.array_equal(first[:step], second[:step]):
            assert changes(old, new, step) == {"training.steps": (before, now)}
        else:
            with pytest.raises(InputError, match=r"--training\.steps was .* would have changed the learning rate"):
                changes(old, new, step)


@pytest.mark.parametrize(
    ("part", "field", "value"),
    [
        *(("training", *field) for field in (("label_smoothing", 0.2), ("batch_tokens", 1000), ("pack_length", 64))),
        *(
            ("model", *field)
            for field in (
                ("dropout", 0.3),
                ("dtype", "float32"),
                ("matmul_precision", "tensorfloat32"),
                ("implementation", "plain"),
            )
        ),
        *(("optimizer", *field) for field in (("scale", 2.0), ("b2", 0.9), ("clip_norm", 1.0))),
        *(("data", *field) for field in (("max_length", 100), ("target_language", "fr"))),
        ("tokenizer", "pad_id", 5),
    ],
)
def test_fields_that_change_the_next_step_are_refused_by_name(part, field, value):
    option = f"--{part}.{field}".replace("_", "-")
    with pytest.raises(InputError, match=rf"^{re.escape(option)} was .* and is now {value!r}\.$"):
        changes(Config(), replace(Config(), part, **{field: value}), 0)


def test_a_refusal_names_every_field_or_counts_them():
    now = replace(replace(Config(), "model", dropout=0.3), "optimizer", scale=2.0)
    with pytest.raises(
        InputError, match=r"^--model\.dropout was .* now 0\.3, and --optimizer\.scale was .* now 2\.0\.$"
    ):
        changes(Config(), now, 0)
    now = replace(replace(now, "model", attention_bias=True), "optimizer", b1=0.8, b2=0.9, epsilon=1e-6)
    with pytest.raises(InputError, match=r"(--.* was .*){4}, and 2 more options differ\.$"):
        changes(Config(), now, 0)


def test_fields_that_change_no_step_may_change():
    before = Config()
    now = dataclasses.replace(before, run_dir="elsewhere", average=2, compilation_cache=False)
    free = {"log_every": 7, "validate_every": 8, "save_every": 9, "save_minutes": 1.0, "validation_bleu": True}
    now = replace(now, "training", **free, patience=3, keep_last=2, accumulation_steps=2)
    now = replace(replace(now, "model", scan_unroll=1), "search", beam_size=1, long_input="refuse")
    now = replace(now, "parallel", strategy="mesh", data=2, fsdp=4, tensor=-1)
    names = {"average", "compilation_cache", "model.scan_unroll", "search.beam_size", "search.long_input"}
    names |= {f"parallel.{name}" for name in ("strategy", "data", "fsdp", "tensor")}
    names |= {f"training.{name}" for name in (*free, "patience", "keep_last", "accumulation_steps")}
    assert set(changes(before, now, 1000)) == names


def test_micro_batches_are_part_of_batch_norm():
    before = Config(model=ModelConfig(norm="batch"))
    with pytest.raises(InputError, match=r"--training\.accumulation-steps"):
        changes(before, replace(before, "training", accumulation_steps=2), 0)


def test_parameters_fit_a_config_that_computes_the_same():
    origin = Config(model=ModelConfig(positions="learned"))
    rounding = {"matmul_precision": "tensorfloat32", "rematerialization": "layer", "scan_unroll": 1}
    now = replace(origin, "model", dropout=0.3, dtype="float32", attention="plain", **rounding)
    now = replace(now, "tokenizer", file="t.json")
    assert other_model(origin, replace(now, "optimizer", scale=2.0)) == ""
    reason = "--model.max-positions was 1024 and is now 512"
    assert other_model(origin, replace(now, "model", max_positions=512)) == reason
    sinusoids = replace(now, "model", positions="halved", max_positions=512)
    assert other_model(replace(origin, "model", positions="halved"), sinusoids) == ""


def test_what_the_parameters_depend_on_is_named():
    now = replace(Config(), "model", d_ff=64, norm_epsilon=1e-5)
    now = replace(replace(now, "tokenizer", pad_id=7), "data", normalization="none")
    found = other_model(Config(), now)
    for name in ("data.normalization", "tokenizer.pad-id", "model.d-ff", "model.norm-epsilon"):
        assert f"--{name} was " in found
