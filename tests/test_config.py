import ast
import dataclasses
import json
import shlex
from pathlib import Path
from typing import Any

import pytest

from transformer.cli.train import parse_config
from transformer.config import (
    Config,
    DataConfig,
    ModelConfig,
    OptimizerConfig,
    SearchConfig,
    TokenizerConfig,
    TrainingConfig,
)
from transformer.config_files import from_json, load_config, to_json
from transformer.errors import InputError

EVERY_FIELD = Config(
    run_dir="runs/größer",
    seed=3,
    average=2,
    data=DataConfig(
        train=("a.en", "a.de"),
        validation=("v.tsv",),
        tsv_columns=(3, 1),
        drop_empty=True,
        max_length=100,
        max_length_ratio=3.5,
    ),
    tokenizer=TokenizerConfig(file="tokenizer.json", pad_id=7, start_id=7, end_id=0),
    model=ModelConfig(vocabulary_size=8000, d_model=256, num_heads=4, norm="rms", norm_position="pre", dropout=0.25),
    optimizer=OptimizerConfig(name="adamw", schedule="cosine", peak=1e-3, weight_decay=0.01, clip_norm=1.0),
    training=TrainingConfig(steps=5000, patience=3, validation_bleu=True),
    search=SearchConfig(beam_size=1, length_penalty_form="power"),
)


@pytest.mark.parametrize("config", [Config(), EVERY_FIELD])
def test_json_round_trip(config: Config):
    text = to_json(config)
    assert from_json(text) == config
    assert json.loads(text)["model"]["d_model"] == config.model.d_model
    assert set(json.loads(text)) == {field.name for field in dataclasses.fields(Config)}


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
    (DataConfig, {"corpus": "some/set", "train": ("a", "b")}, r"data\.train takes one split .* some/set, but got 2"),
    (DataConfig, {"corpus": "x.jsonl", "test": ("a", "b")}, r"data\.test takes one split .* add --data\.corpus files"),
    (DataConfig, {"corpus": "x.parquet", "corpus_config": "de"}, r"is for a Hugging Face .* is x\.parquet"),
    (DataConfig, {"corpus": ""}, r"data\.corpus is empty"),
    (DataConfig, {"corpus_config": "de-en"}, r"corpus_config=de-en is for a Hugging Face .* data\.corpus is files"),
    (DataConfig, {"max_length": 1}, r"data\.max_length must be at least 2, but is 1"),
    (DataConfig, {"max_length_ratio": 0.5}, r"data\.max_length_ratio must be >= 1, but is 0\.5"),
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
    (ModelConfig, {"d_model": 9, "num_heads": 3}, r"even model\.d_model, but it is 9"),
    (ModelConfig, {"dropout": 1.0}, r"model\.dropout must be in \[0, 1\), but is 1\.0"),
    (ModelConfig, {"attention_dropout": -0.1}, r"model\.attention_dropout must be in \[0, 1\), but is -0\.1"),
    (ModelConfig, {"activation_dropout": 2.0}, r"model\.activation_dropout must be in \[0, 1\), but is 2\.0"),
    (ModelConfig, {"batch_norm_momentum": 1.0}, r"model\.batch_norm_momentum must be in \[0, 1\), but is 1\.0"),
    (ModelConfig, {"norm_epsilon": 0.0}, r"model\.norm_epsilon must be positive, but is 0\.0"),
    (OptimizerConfig, {"warmup_steps": 0}, r"optimizer\.warmup_steps must be at least 1, but is 0"),
    (OptimizerConfig, {"peak": 1e-3}, r"schedule=paper computes its own peak .* peak=0\.001"),
    (OptimizerConfig, {"schedule": "cosine"}, r"needs optimizer\.peak\. Given: schedule=cosine, peak=None"),
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
    (TrainingConfig, {"pack_length": 1}, r"training\.pack_length must be at least 2 .* but is 1"),
    (TrainingConfig, {"label_smoothing": 1.0}, r"training\.label_smoothing must be in \[0, 1\), but is 1\.0"),
    (SearchConfig, {"beam_size": 0}, r"search\.beam_size must be at least 1, but is 0"),
    (SearchConfig, {"extra_length": 0}, r"search\.extra_length must be at least 1, but is 0"),
    (SearchConfig, {"batch_tokens": 0}, r"search\.batch_tokens must be at least 1, but is 0"),
    (SearchConfig, {"length_penalty": -0.5}, r"search\.length_penalty must not be negative, but is -0\.5"),
    (Config, {"seed": -1}, r"seed must not be negative, but is -1"),
    (Config, {"average": 0}, r"average must lie between 1 and training\.keep_last \(5\), but is 0"),
    (Config, {"average": 6}, r"average must lie between 1 and training\.keep_last \(5\), but is 6"),
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


def test_odd_widths_are_fine_with_learned_positions():
    assert ModelConfig(d_model=9, num_heads=3, positions="learned").d_model == 9


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "not valid JSON"),
        ("[]", "top level must be an object"),
        ('{"model": 3}', r"config's model must be an object"),
        ('{"sede": 1}', "has no field sede;"),
        ('{"model": {"d_modle": 64}}', r"has no field model\.d_modle;"),
        ('{"seed": "1"}', r"field seed cannot be '1': .*int"),
        ('{"seed": true}', r"field seed cannot be True: .*int"),
        ('{"seed": 1.5}', r"field seed cannot be 1\.5: .*int"),
        ('{"run_dir": null}', r"field run_dir cannot be None: .*str"),
        ('{"model": {"dropout": "0.1"}}', r"field model\.dropout cannot be '0\.1': .*float"),
        ('{"model": {"norm": "group"}}', r"field model\.norm cannot be 'group': .*'layer', 'rms', 'batch'"),
        ('{"data": {"train": "a.en"}}', r"field data\.train cannot be 'a\.en': .*tuple\[str, \.\.\.\]"),
        ('{"data": {"train": [1]}}', r"field data\.train cannot be \[1\]: .*tuple\[str, \.\.\.\]"),
        ('{"data": {"tsv_columns": [0]}}', r"field data\.tsv_columns cannot be \[0\]: .*tuple\[int, int\]"),
        ('{"data": {"max_length_ratio": "x"}}', r"field data\.max_length_ratio cannot be 'x': .*float \| None"),
        ('{"model": {"d_model": 100}}', r"100 is not divisible by 8"),
    ],
)
def test_from_json_names_what_is_wrong(text: str, message: str):
    with pytest.raises(InputError, match=message):
        from_json(text)


def test_from_json_knows_the_quickstart_s_corpus_by_its_former_name():
    config = from_json('{"data": {"corpus": "grammar", "tags": null, "train": [], "test": [], "max_length": 64}}')
    assert config.data == DataConfig(corpus="package:quickstart.jsonl.xz", max_length=64)
    assert from_json(to_json(config)) == config


def test_from_json_takes_whole_numbers_for_floats():
    config = from_json('{"model": {"dropout": 0}, "optimizer": {"clip_norm": 2}}')
    assert isinstance(config.model.dropout, float)
    assert isinstance(config.optimizer.clip_norm, float)


def test_load_config(tmp_path: Path):
    file = tmp_path / "small.py"
    file.write_text("from transformer.config import Config\nconfig = Config(seed=5)\n")
    assert load_config(str(file)) == Config(seed=5)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("c.py", None, r"There is no config file .*c\.py"),
        ("c.json", "{}", r"c\.json is not a \.py"),
        ("c.py", "import a_module_that_is_not_there", "fails when run: ModuleNotFoundError: .*a_module_that"),
        ("c.py", "config = ", "fails when run: SyntaxError"),
        ("c.py", "x = 1", r"must define `config`, a transformer\.config\.Config"),
        ("c.py", "config = {}", r"must define `config`, a transformer\.config\.Config"),
        ("c.py", "from transformer.config import Config\nconfig = Config(seed=-1)", "seed must not be negative"),
    ],
)
def test_load_config_names_what_is_wrong(tmp_path: Path, name: str, text: str | None, message: str):
    if text is not None:
        (tmp_path / name).write_text(text)
    with pytest.raises(InputError, match=message):
        load_config(str(tmp_path / name))


CONFIGS = sorted((Path(__file__).parents[1] / "configs").glob("*.py"))


def commands(file: Path) -> list[list[str]]:
    """The arguments of each `python train.py` in a config's docstring."""
    text = ast.get_docstring(ast.parse(file.read_text(encoding="utf-8")))
    assert text is not None
    assert [
        line.split(":")[0] for line in text.splitlines() if line.startswith(("Source", "Command", "Score", "Time"))
    ] == [
        "Source",
        "Command",
        "Score",
        "Time",
    ]
    described = text.split("Command: ")[1].split("\nScore: ")[0]
    return [shlex.split(command.split("\n    or ")[0]) for command in described.split("python train.py")[1:]]


@pytest.mark.parametrize("file", CONFIGS, ids=lambda file: file.stem)
def test_the_command_of_each_config(file: Path, monkeypatch):
    """It gives the config itself, apart from the data that the user has to name."""
    monkeypatch.chdir(file.parents[1])
    config = load_config(str(file))
    assert config.run_dir == f"runs/{file.stem}"
    for arguments in commands(file):
        parsed = parse_config(arguments or ["--config", str(file)])  # train.py takes the quickstart by itself
        assert dataclasses.replace(parsed, data=config.data) == config
        files = [argument for argument in arguments if argument.endswith((".gz", ".en", ".de"))]
        assert [*parsed.data.train, *parsed.data.validation, *parsed.data.test] == files or parsed == config


def test_the_recipes_of_wmt14_run_on_local_files(monkeypatch):
    (base,) = (file for file in CONFIGS if file.stem == "wmt14_base")
    monkeypatch.chdir(base.parents[1])
    hub, local = map(parse_config, commands(base))
    assert (hub.data.corpus, hub.data.corpus_config) == ("wmt/wmt14", "de-en")
    assert (hub.data.train, hub.data.validation, hub.data.test) == (("train",), ("validation",), ("test",))
    assert (local.data.corpus, local.data.corpus_config) == ("files", None)
    assert local.data.test == ("newstest2014.en", "newstest2014.de")
    assert (local.data.source_language, local.data.target_language) == ("en", "de")
