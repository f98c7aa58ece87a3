"""Options of the commands, their defaults, and what is refused."""

import ast
import dataclasses
import inspect
import itertools
import re
from dataclasses import is_dataclass

import pytest
from command_line import assert_refused, call, contents, flat

from transformer.cli import COMMANDS, refuse_repeated_options
from transformer.cli.decoding import parse
from transformer.cli.process import common_options
from transformer.cli.train import parse_config
from transformer.cli.translate import TranslationOptions
from transformer.config import Config, DataConfig, SearchConfig
from transformer.config_files import experiments, load_config, to_json
from transformer.errors import InputError

pytestmark = pytest.mark.usefixtures("quick_compilation")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train", "--model.d-modle", "8"], r"Unrecognized options: --model\.d-modle, 8 .* --model\.d-model INT"),
        (["train", "--model.d-mod", "8"], r"Unrecognized options: --model\.d-mod, 8"),  # no abbreviations
        (["train", "--model.norm", "group"], "invalid choice.* 'group'.*layer.*rms.*batch"),
        (["train", "--model.d-model", "many"], "d-model.*many"),
        (["train", "--config"], "Missing value for argument '--config'"),
        (["train", "--confg", "x.py"], "Unrecognized options: --confg, x.py .* --config"),
        (["train", "--config={}/none.py"], r"Found no config file .*none\.py"),
        (["train", "--config", "multi3k"], r"no config file multi3k\. .* base, multi30k, quickstart, wmt14_base"),
        (["trian"], r"^error: Unknown command trian\. Did you mean train\?$"),
        (["--seed", "1"], rf"^error: Unknown command --seed\. The commands are {', '.join(COMMANDS)}\.$"),
        ([], "^usage: transformer COMMAND"),
        (["evaluate"], "RUN|run"),
        (["translate", "{}"], r"is not a run directory: it has no config\.json"),
        (["evaluate", "{}/run", "--checkpoint", "15"], r"Cannot find the checkpoint of step 15: .* of steps 10, 20\."),
        (["evaluate", "{}/run", "--checkpoint", "first"], "checkpoint.*first"),
        (["evaluate", "{}/run", "--beam-size", "0"], "error: --beam-size must be at least 1, but is 0"),
        (["evaluate", "{}/run", "--beem-size", "1"], "Unrecognized options: --beem-size, 1 .* --beam-size"),
        (["evaluate", "{}/run", "--source", "{}/val.en"], "--source and --reference go together"),
        (["evaluate", "{}/run", "--source", "{}/val.en", "--reference", "{}/test.de"], "val.en has 12 lines, but"),
        (["export", "{}/run"], "FILE|file"),
    ],
)
def test_commands_refuse_bad_arguments(corpus, trained, arguments, message):
    before = contents(corpus)
    assert_refused(call(*(argument.format(corpus) for argument in arguments)), message)
    assert contents(corpus) == before


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["train", "--data.train", "a", "b", "--data.train", "c", "d"],
            r"error: --data\.train is given twice\. Give it",
        ),
        (["train", "--config", "base", "--seed", "1", "--config=multi30k"], "error: --config is given twice"),
        (
            ["train", "--data.drop-empty", "--data.no-drop-empty"],
            "--data.drop-empty and --data.no-drop-empty are the same option",
        ),
        (["translate", "run", "--beam-size=2", "--beam_size", "3"], "--beam-size and --beam_size are the same option"),
        (["evaluate", "--json", "run", "--json"], "--json is given twice"),
        (["score", "run", "--source", "a", "--source=b"], "--source is given twice"),
        (["tune", "run", "--beams", "1", "2", "--beams", "4"], "--beams is given twice"),
        (["export", "run", "file", "--no-sample", "--sample"], "--no-sample and --sample are the same option"),
        (["compare", "a", "b", "--sentences", "1", "--sentences", "2"], "--sentences is given twice"),
        (["figures", "--schedules", "8:1", "--schedules", "8:2"], "--schedules is given twice"),
        (["complexity", "--lengths", "8", "--lengths", "16"], "--lengths is given twice"),
    ],
)
def test_an_option_given_twice_is_refused(arguments, message):
    assert_refused(call(*arguments), message)


@pytest.mark.parametrize(
    "arguments",
    [
        ["--source=--target", "--target=--source"],
        ["--prefix", "--- a", "--no-repeat-ngram", "2", "--repetition-penalty", "2"],
        ["--alphas", "-1", "-1", "--beams", "1"],
        ["--", "--source", "--source"],
        ["--data.train", "a", "--data.test", "a"],
    ],
)
def test_values_that_look_like_options_are_accepted(arguments):
    refuse_repeated_options(arguments)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--training.steps", "0"], "--training.steps must be at least 1, but is 0."),
        (["--seed", "-1"], "--seed must not be negative, but is -1."),
        (["--data.max-length", "500"], "--data.max-length (500) must not exceed --model.max-positions (128)."),
        (
            ["--search.top-k", "3"],
            "--search.temperature, --search.top-k and --search.top-p only affect sampling, so they need "
            "--search.sample.",
        ),
        (
            ["--average", "9"],
            "--average must be between 1 and --training.keep-last (5), but is 9. Only checkpoints that are kept can "
            "be averaged.",
        ),
    ],
)
def test_train_names_options_in_errors_as_they_are_typed(arguments, message):
    assert call("train", *arguments).err == f"error: {message}\n"


def test_train_starts_from_an_experiment():
    assert parse_config([]) == load_config("quickstart")
    assert parse_config(["--seed", "3", "--config", "base"]) == Config(run_dir="runs/base", seed=3)
    own = parse_config(["--config=base", "--data.train", "a.en", "a.de", "--run-dir", "runs/own"])
    assert own == Config(run_dir="runs/own", data=DataConfig(train=("a.en", "a.de")))
    assert parse_config(["--config", "multi30k", "--training.steps", "2"]).training.pack_length == 40


def test_a_search_is_the_run_s_unless_its_options_are_given(tmp_path):
    own = SearchConfig(beam_size=1, sample=True, top_k=7, max_length=30, forbidden=("a", "b"))
    run, other = str(tmp_path / "run"), str(tmp_path / "other")
    for folder, kept in ((run, own), (other, SearchConfig())):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "config.json").write_text(to_json(Config(search=kept)))

    def search(*arguments: str) -> SearchConfig:
        options = parse(TranslationOptions, list(arguments), "translate")
        assert options.run == run
        assert type(options.search) is SearchConfig
        return options.search

    assert search(run) == own
    assert search("--top-p", "0.5", run, "--beam-size", "4") == dataclasses.replace(own, top_p=0.5, beam_size=4)
    assert search(run, "--ensemble", other, f"{other}@5", "--seed", "1") == dataclasses.replace(own, seed=1)
    assert search("--ensemble", other, other, run) == own
    assert search(run, "--max-length", "None", "--forbidden") == dataclasses.replace(own, max_length=None, forbidden=())
    assert search(run, "--no-sample", "--top-k", "0").sample is False
    with pytest.raises(InputError, match=r"they need --sample"):
        search(run, "--no-sample")
    with pytest.raises(InputError, match=r"--min-length \(31\) must not exceed --max-length \(30\)"):
        search(run, "--min-length", "31")


@pytest.mark.parametrize("command", ["translate", "evaluate", "score", "tune", "attention", "heads", "export"])
def test_commands_that_compute_with_a_run_take_a_dtype(command):
    shown = flat(call(command, "--help").out)
    further = ",float16,int8" if command == "translate" else ""  # which CTranslate2 has
    assert f"auto,bfloat16,float32{further}}} Compute dtype" in shown.replace("{None}|", "").replace("{None,", "{")
    assert f"(default: {'float32' if command == 'export' else 'None'})" in shown.split("Compute dtype")[1]


def test_the_usage_names_every_command():
    for arguments in ([], ["--help"], ["-h"], ["help"]):
        shown = call(*arguments)
        assert shown.status == (0 if arguments else 2)
        assert (shown.err if arguments else shown.out) == ""
        text = shown.out or shown.err
        assert text.startswith("usage: transformer COMMAND")
        assert [line.split()[0] for line in text.splitlines()[4 : 4 + len(COMMANDS)]] == [*COMMANDS]


@pytest.mark.parametrize("command", COMMANDS)
def test_the_help_of_a_command_has_an_example(command):
    shown = call(command, "--help")
    assert (shown.status, shown.err) == (0, "")
    assert re.search(rf"^ +transformer {command}\b", shown.out, re.MULTILINE)
    assert flat(shown.out).endswith(f" {common_options(command)}")
    assert "Every command also takes --devices N, which simulates N devices on the CPU." in shown.out
    assert max(map(len, shown.out.splitlines())) <= 120  # COLUMNS of `call`


def test_help_shows_every_field_with_its_meaning():
    result = call("train", "--help")
    assert result.status == 0
    shown = flat(result.out)
    assert set(experiments()) <= set(re.findall(r"\w+", shown))
    fields = [("", field) for field in fields_of(Config)]
    for part in ("data", "tokenizer", "model", "optimizer", "training", "parallel", "search"):
        fields += [(f"{part}.", field) for field in fields_of(type(getattr(Config(), part)))]
    assert len(fields) > 60
    for prefix, (name, meaning) in fields:
        assert re.search(rf"--{prefix}{name.replace('_', '-')}[ ,]", shown), name
        assert " ".join(meaning.replace("`", "").split()[:3]) in shown.replace("`", ""), name


def fields_of(config_class: type) -> list[tuple[str, str]]:
    """The fields of a config that are not configs themselves, each with its docstring."""
    (definition,) = ast.parse(inspect.getsource(config_class)).body
    assert isinstance(definition, ast.ClassDef)
    meanings = {}
    for parts in itertools.pairwise(definition.body):
        match parts:
            case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=text)):
                meanings[name] = text
    plain = [field.name for field in dataclasses.fields(config_class) if not is_dataclass(field.default_factory)]
    return [(name, meanings[name]) for name in plain]
