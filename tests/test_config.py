import ast
import inspect
import json
import subprocess
import sys
from typing import Any

import pytest

from transformer.config import (
    Config,
    DataConfig,
    ModelConfig,
    OptimizerConfig,
    ParallelConfig,
    ScoresConfig,
    SearchConfig,
    TokenizerConfig,
    TrainingConfig,
)
from transformer.errors import InputError


def test_the_defaults_are_the_paper_s():
    config = Config()
    assert (config.model.d_model, config.model.d_ff, config.model.num_heads) == (512, 2048, 8)
    assert (config.optimizer.b1, config.optimizer.b2, config.optimizer.epsilon) == (0.9, 0.98, 1e-9)
    assert (config.optimizer.warmup_steps, config.training.steps) == (4000, 100_000)
    assert (config.model.dropout, config.training.label_smoothing) == (0.1, 0.1)
    assert (config.search.beam_size, config.search.length_penalty, config.search.extra_length) == (4, 0.6, 50)


CHECKS: list[tuple[Any, dict[str, Any], str]] = [
    (DataConfig, {"train": ("a", "b", "c")}, r"data\.train takes two files .* 3 were given"),
    (DataConfig, {"validation": ("a", "b", "c")}, r"data\.validation takes two files .* 3 were given"),
    (DataConfig, {"test": ("a", "b", "c")}, r"data\.test takes two files .* 3 were given"),
    (
        DataConfig,
        {"corpus": "some/set", "train": ("a.x", "b.y")},
        r"data\.train takes one split .* some/set, but got 2",
    ),
    (DataConfig, {"corpus": "x.jsonl", "test": ("a", "b")}, r"data\.test takes one split .* add --data\.corpus files"),
    (DataConfig, {"corpus": "x.parquet", "corpus_config": "de"}, r"is for a Hugging Face .* is x\.parquet"),
    (DataConfig, {"corpus": ""}, r"data\.corpus is empty"),
    (DataConfig, {"corpus": "package:"}, r"data\.corpus=package: names no file that comes with the package"),
    (DataConfig, {"corpus": "package:/x.jsonl"}, r"names no file that comes with the package"),
    (DataConfig, {"corpus_config": "de-en"}, r"corpus_config=de-en is for a Hugging Face .* data\.corpus is files"),
    (DataConfig, {"max_length": 1}, r"data\.max_length must be at least 2, but is 1"),
    (DataConfig, {"max_length_ratio": 0.5}, r"data\.max_length_ratio must be at least 1, but is 0\.5"),
    (TokenizerConfig, {"pad_id": -1}, r"tokenizer\.pad_id must not be negative, but is -1"),
    (TokenizerConfig, {"start_id": -2}, r"tokenizer\.start_id must not be negative, but is -2"),
    (TokenizerConfig, {"end_id": -3}, r"tokenizer\.end_id must not be negative, but is -3"),
    (TokenizerConfig, {"end_id": 0}, r"tokenizer\.end_id \(0\) must differ from pad_id and start_id"),
    (TokenizerConfig, {"start_id": 2}, r"tokenizer\.end_id \(2\) must differ from pad_id and start_id"),
    *[
        (ModelConfig, {name: 0}, rf"model\.{name} must be at least 1, but is 0")
        for name in (
            "vocabulary_size",
            "d_model",
            "num_heads",
            "d_ff",
            "max_positions",
            "num_encoder_layers",
            "num_decoder_layers",
        )
    ],
    (ModelConfig, {"d_model": 100}, r"model\.d_model must be divisible by model\.num_heads, but 100 .* by 8"),
    (
        ModelConfig,
        {"positions": "rotary", "d_model": 12, "num_heads": 4},
        r"needs an even head size, but model\.d_model / model\.num_heads is 3\. Change model\.num_heads",
    ),
    (ModelConfig, {"d_model": 9, "num_heads": 3}, r"even model\.d_model, but it is 9"),
    (ModelConfig, {"dropout": 1.0}, r"model\.dropout must be in \[0, 1\), but is 1\.0"),
    (ModelConfig, {"attention_dropout": -0.1}, r"model\.attention_dropout must be in \[0, 1\), but is -0\.1"),
    (ModelConfig, {"activation_dropout": 2.0}, r"model\.activation_dropout must be in \[0, 1\), but is 2\.0"),
    (ModelConfig, {"batch_norm_momentum": 1.0}, r"model\.batch_norm_momentum must be in \[0, 1\), but is 1\.0"),
    (ModelConfig, {"norm_epsilon": 0.0}, r"model\.norm_epsilon must be positive, but is 0\.0"),
    (OptimizerConfig, {"warmup_steps": 0}, r"optimizer\.warmup_steps must be at least 1, but is 0"),
    (OptimizerConfig, {"peak": 1e-3}, r"schedule=paper computes its own peak, but optimizer\.peak=0\.001 is given"),
    (OptimizerConfig, {"schedule": "cosine"}, r"schedule=cosine needs a highest .* --optimizer\.peak"),
    (OptimizerConfig, {"scale": 0.0}, r"optimizer\.scale must be positive, but is 0\.0"),
    (OptimizerConfig, {"epsilon": -1.0}, r"optimizer\.epsilon must be positive, but is -1\.0"),
    (OptimizerConfig, {"schedule": "cosine", "peak": 0.0}, r"optimizer\.peak must be positive, but is 0\.0"),
    (OptimizerConfig, {"clip_norm": 0.0}, r"optimizer\.clip_norm must be positive, but is 0\.0"),
    (OptimizerConfig, {"b1": 1.0}, r"optimizer\.b1 must be in \[0, 1\), but is 1\.0"),
    (OptimizerConfig, {"b2": -0.5}, r"optimizer\.b2 must be in \[0, 1\), but is -0\.5"),
    (OptimizerConfig, {"final_fraction": 1.0}, r"optimizer\.final_fraction must be in \[0, 1\), but is 1\.0"),
    (OptimizerConfig, {"weight_decay": 0.1}, r"optimizer\.weight_decay=0\.1 needs optimizer\.name=adamw"),
    (OptimizerConfig, {"schedule": "warmup_stable_decay", "peak": 1.0}, r"needs optimizer\.final_fraction > 0"),
    *[
        (TrainingConfig, {name: 0}, rf"training\.{name} must be at least 1, but is 0")
        for name in (
            "steps",
            "batch_tokens",
            "accumulation_steps",
            "log_every",
            "validate_every",
            "save_every",
            "patience",
            "keep_last",
        )
    ],
    (TrainingConfig, {"save_minutes": 0.0}, r"training\.save_minutes must be positive, but is 0\.0"),
    (TrainingConfig, {"pack_length": 1}, r"training\.pack_length must be at least 2, but is 1"),
    (TrainingConfig, {"label_smoothing": 1.0}, r"training\.label_smoothing must be in \[0, 1\), but is 1\.0"),
    (ParallelConfig, {"fsdp": 0}, r"parallel\.fsdp must be at least 1, or -1 for all devices that are left, but is 0"),
    (ParallelConfig, {"data": -1, "fsdp": -1}, r"At most one of parallel\.data, .* may be -1"),
    (ParallelConfig, {"strategy": "pmap", "tensor": 2}, r"parallel\.fsdp is 1 and parallel\.tensor is 2\. Leave out"),
    (SearchConfig, {"beam_size": 0}, r"search\.beam_size must be at least 1, but is 0"),
    (SearchConfig, {"extra_length": 0}, r"search\.extra_length must be at least 1, but is 0"),
    (SearchConfig, {"batch_tokens": 0}, r"search\.batch_tokens must be at least 1, but is 0"),
    (SearchConfig, {"length_penalty": -0.5}, r"search\.length_penalty must not be negative, but is -0\.5"),
    (SearchConfig, {"repetition_penalty": 0.5}, r"search\.repetition_penalty must be at least 1, but is 0\.5"),
    (SearchConfig, {"temperature": 0.0}, r"search\.temperature must be positive, but is 0\.0"),
    (SearchConfig, {"sample": True, "top_p": 0.0}, r"search\.top_p must be in \(0, 1\], but is 0\.0"),
    (SearchConfig, {"top_k": 5}, r"only affect sampling, so they need search\.sample"),
    (
        SearchConfig,
        {"min_length": 5, "max_length": 4},
        r"search\.min_length \(5\) must not exceed search\.max_length \(4\)",
    ),
    (Config, {"seed": -1}, r"seed must not be negative, but is -1"),
    (Config, {"average": 0}, r"average must be between 1 and training\.keep_last \(5\), but is 0"),
    (Config, {"average": 6}, r"average must be between 1 and training\.keep_last \(5\), but is 6"),
    (
        Config,
        {
            "optimizer": OptimizerConfig(schedule="cosine", peak=1e-3, warmup_steps=100),
            "training": TrainingConfig(steps=100),
        },
        r"optimizer\.warmup_steps is 100 and training\.steps is 100",
    ),
    (
        Config,
        {"tokenizer": TokenizerConfig(pad_id=37_000)},
        r"tokenizer\.pad_id \(37000\) must be below model\.vocabulary_size \(37000\)",
    ),
    (
        Config,
        {"data": DataConfig(max_length=2000)},
        r"data\.max_length \(2000\) must not exceed model\.max_positions \(1024\)",
    ),
]


@pytest.mark.parametrize(("cls", "fields", "message"), CHECKS, ids=[f"{c.__name__}-{f}" for c, f, _ in CHECKS])
def test_each_check_names_the_field_and_its_value(cls: Any, fields: dict[str, Any], message: str):
    with pytest.raises(InputError, match=message):
        cls(**fields)


TYPES = {
    "ModelConfig(norm='layernorm')": "model.norm must be one of layer, rms, batch, but is 'layernorm'. "
    "Did you mean layer?",
    "ModelConfig(norm='group')": "model.norm must be one of layer, rms, batch, but is 'group'.",
    "OptimizerConfig(schedule='warmup_decay', peak=1.0)": "optimizer.schedule must be one of paper, inverse_sqrt, "
    "cosine, warmup_stable_decay, but is 'warmup_decay'. Did you mean warmup_stable_decay?",
    "DataConfig(normalization='NFC')": "data.normalization must be one of nfc, none, but is 'NFC'. Did you mean nfc?",
    "ScoresConfig(metrics=('bleu', 'chfr'))": "scores.metrics must be a tuple of bleu, chrf, ter, but is "
    "('bleu', 'chfr'). Did you mean chrf?",
    "ModelConfig(d_model=512.0)": "model.d_model must be of type int, but is 512.0.",
    "ModelConfig(dropout=True)": "model.dropout must be of type float, but is True.",
    "ModelConfig(scan_unroll='2')": "model.scan_unroll must be of type int or None, but is '2'.",
    "ModelConfig(dropout=2)": "model.dropout must be in [0, 1), but is 2.",  # an int is a float
    "DataConfig(train=['a'])": "data.train must be of type tuple[str, ...], but is ['a'].",
    "Config(model=None)": "model must be of type ModelConfig, but is None.",
    """from_json('{"seed": "1"}')""": "seed must be of type int, but is '1'.",
    """from_json('{"seed": true}')""": "seed must be of type int, but is True.",
    """from_json('{"seed": 1.5}')""": "seed must be of type int, but is 1.5.",
    """from_json('{"run_dir": null}')""": "run_dir must be of type str, but is None.",
    """from_json('{"model": {"dropout": "0.1"}}')""": "model.dropout must be of type float, but is '0.1'.",
    """from_json('{"data": {"train": "a.en"}}')""": "data.train must be of type tuple[str, ...], but is 'a.en'.",
    """from_json('{"data": {"train": [1]}}')""": "data.train must be of type tuple[str, ...], but is (1,).",
    """from_json('{"data": {"tsv_columns": [0]}}')""": "data.tsv_columns must be of type tuple[int, int], but is (0,).",
    """from_json('{"data": {"max_length_ratio": "x"}}')""": "data.max_length_ratio must be of type float or None, but "
    "is 'x'.",
}
CATCH = """
import json, sys
from transformer.config import *
from transformer.config_files import from_json
from transformer.errors import InputError
for expression in json.loads(sys.argv[1]):
    try:
        print(eval(expression))
    except InputError as error:
        print(error)
assert "jax" not in sys.modules
"""


def test_types_and_choices_are_checked_too():
    """In a process of its own, because in this one the tests' own type checks come first. It needs no jax."""
    command = [sys.executable, "-c", CATCH, json.dumps([*TYPES])]
    found = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    assert dict(zip(TYPES, found, strict=True)) == TYPES


def test_odd_widths_are_fine_with_learned_positions():
    assert ModelConfig(d_model=9, num_heads=3, positions="learned").d_model == 9


def test_help_texts_are_wrapped_for_a_terminal_of_80_columns():
    """tyro keeps the line breaks of a field's docstring, and indents it so that 70 columns are left."""
    texts = []
    parts = [DataConfig, ModelConfig, OptimizerConfig, ScoresConfig, SearchConfig, TokenizerConfig, TrainingConfig]
    for part in (Config, ParallelConfig, *parts):
        [cls] = ast.parse(inspect.getsource(part)).body
        assert isinstance(cls, ast.ClassDef)
        texts += [ast.literal_eval(text.value) for text in cls.body[1:] if isinstance(text, ast.Expr)]
    assert len(texts) > 60
    assert [line for text in texts for line in text.splitlines() if len(line.strip()) > 70] == []
