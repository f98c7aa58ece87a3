import ast
import dataclasses
import json
import shlex
from pathlib import Path

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
from transformer.config_files import experiments, from_json, load_config, to_json
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


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "not valid JSON"),
        ("[]", "top level must be an object"),
        ('{"model": 3}', r"config's model must be an object"),
        ('{"sede": 1}', "has a field sede that this version"),
        ('{"model": {"d_modle": 64}}', r"has a field model\.d_modle that this version"),
        ('{"model": {"d_model": 100}}', r"100 is not divisible by 8"),
        (f'{{"optimizer": {{"scale": {10**400}}}}}', r"field optimizer\.scale is too large"),
    ],
)
def test_from_json_names_what_is_wrong(text: str, message: str):
    with pytest.raises(InputError, match=message):
        from_json(text)


def test_from_json_knows_the_quickstart_s_corpus_by_its_former_name():
    config = from_json('{"data": {"corpus": "grammar", "tags": null, "train": [], "test": [], "max_length": 64}}')
    assert config.data == DataConfig(corpus="package:quickstart.jsonl.xz", max_length=64, normalization="none")
    assert from_json(to_json(config)) == config


def test_runs_from_before_normalization_read_text_as_it_is():
    values = json.loads(to_json(Config()))
    assert values["data"].pop("normalization") == "nfc"
    assert from_json(json.dumps(values)) == Config(data=DataConfig(normalization="none"))


def test_from_json_takes_whole_numbers_for_floats():
    config = from_json('{"model": {"dropout": 0}, "optimizer": {"clip_norm": 2}}')
    assert isinstance(config.model.dropout, float)
    assert isinstance(config.optimizer.clip_norm, float)


def test_load_config(tmp_path: Path, monkeypatch):
    file = tmp_path / "small.py"
    file.write_text("from transformer.config import Config\nconfig = Config(seed=5)\n")
    assert load_config(str(file)) == Config(seed=5)
    monkeypatch.chdir(tmp_path)
    assert load_config("small.py") == Config(seed=5)
    assert load_config("base") == Config(run_dir="runs/base")  # by name, wherever one is


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("c.py", None, r"no config file .*c\.py\. .* project: base, multi30k, quickstart, wmt14_base, wmt14_big\.$"),
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


@pytest.mark.parametrize("name", experiments())
def test_the_command_of_each_experiment(name: str):
    """It gives the config itself, apart from the data that the user has to name."""
    config = load_config(name)
    assert config.run_dir == f"runs/{name}"
    for arguments in commands(experiments()[name]):
        parsed = parse_config(arguments)
        assert dataclasses.replace(parsed, data=config.data) == config
        files = [argument for argument in arguments if argument.endswith((".gz", ".en", ".de"))]
        assert [*parsed.data.train, *parsed.data.validation, *parsed.data.test] == files or parsed == config


def test_the_recipes_of_wmt14_run_on_local_files():
    hub, local = map(parse_config, commands(experiments()["wmt14_base"]))
    assert (hub.data.corpus, hub.data.corpus_config) == ("wmt/wmt14", "de-en")
    assert (hub.data.train, hub.data.validation, hub.data.test) == (("train",), ("validation",), ("test",))
    assert (local.data.corpus, local.data.corpus_config) == ("files", None)
    assert local.data.test == ("newstest2014.en", "newstest2014.de")
    assert (local.data.source_language, local.data.target_language) == ("en", "de")
