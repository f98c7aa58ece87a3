import dataclasses
import json
import sys
from itertools import product
from typing import Any

import flax.linen as nn
import jax
import numpy as np
import pytest

from transformer.analysis.complexity import measure as measuring
from transformer.analysis.complexity import paths
from transformer.analysis.complexity.formulas import TABLE, Size, ceil_log
from transformer.analysis.complexity.layers import (
    ATTENTION,
    CONVOLUTION,
    GRU,
    LAYERS,
    LSTM,
    PROJECTED,
    RESTRICTED,
    make_layers,
)
from transformer.analysis.complexity.measure import DIRECTIONS, Measurement, compile_layer, compile_step, measure
from transformer.analysis.complexity.report import Report, to_json, to_text
from transformer.analysis.complexity.settings import Settings
from transformer.analysis.figures.complexity import draw
from transformer.cli import main

# Products of one layer forward, two operations each, by hand. With r = 9, a query meets three blocks of 4 keys.
OPERATIONS = {
    ATTENTION: lambda n, d: 4 * n**2 * d,
    PROJECTED: lambda n, d: 4 * n**2 * d + 8 * n * d**2,
    RESTRICTED: lambda n, d: 4 * n * 3 * 4 * d,
    GRU: lambda n, d: 12 * n * d**2,
    LSTM: lambda n, d: 16 * n * d**2,
    CONVOLUTION: lambda n, d: 2 * 3 * n * d**2,
}


@pytest.fixture(scope="module")
def report() -> Report:
    """A report in which every operation takes a nanosecond, and three with gradients."""
    settings = Settings(lengths=(64, 128, 256, 512), widths=(32, 64), neighbourhood=9)
    measurements = []
    for n, d, layer, factor in product(settings.lengths, settings.widths, LAYERS, (1, 3)):
        flops = float(factor * OPERATIONS[layer](n, d))
        times = (share * flops / 1e9 for share in (1, 0.9, 1.5))
        measurements.append(Measurement(layer, DIRECTIONS[factor == 3], n, d, flops, *times))
    lengths = {16: {row.layer: row.path.count(Size(16, 4, 3, 9)) for row in TABLE}}
    return Report(settings, "cpu, jax 0", measurements, lengths)


def test_table_1_by_hand():
    size = Size(n=100, d=8, k=3, r=7)
    counts = {row.layer: [order.count(size) for order in (row.operations, row.sequential, row.path)] for row in TABLE}
    assert counts == {
        "self-attention": [80_000, 1, 1],
        "recurrent": [6_400, 100, 100],
        "convolutional": [19_200, 1, 5],  # 3^4 < 100 <= 3^5
        "convolutional, contiguous": [19_200, 1, 34],
        "self-attention, restricted": [5_600, 1, 15],
    }
    assert [ceil_log(5, 125), ceil_log(3, 243), ceil_log(3, 244), ceil_log(2, 1)] == [3, 5, 6, 0]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_every_layer_maps_a_sequence_to_one_of_the_same_shape(dtype):
    for layer in make_layers(Size(7, 5, 3, 5), batch=2, dtype=dtype).values():
        y = jax.eval_shape(layer.apply, layer.params, layer.x)
        assert (y.shape, layer.x.dtype) == ((2, 7, 5), dtype)


def test_xla_counts_the_operations_of_table_1():
    for n, d in ((64, 128), (128, 64)):  # n^2 d and n d^2 differ by a factor of 2
        for name, layer in make_layers(Size(n, d, 3, 9)).items():
            if layer.step is None:
                operations = compile_layer(layer, "forward").flops()
            else:
                operations = n * compile_step(layer, layer.step, "forward").flops()
            assert operations == pytest.approx(OPERATIONS[name](n, d), rel=0.15), (name, n, d)


def test_a_recurrent_layer_counts_as_a_loop_written_out():
    """One more position adds the operations of one step, including gradients. The ends of the loop are simpler."""

    def operations(n: int) -> float:
        layer = make_layers(Size(n, 16, 3, 3))[GRU]
        unrolled: Any = nn.RNN(nn.GRUCell(16), unroll=n)
        apply = lambda params, x: unrolled.apply({"params": {"cell": params["params"]}}, x)  # noqa: E731
        return compile_layer(dataclasses.replace(layer, apply=apply), "forward and backward").flops()

    layer = make_layers(Size(1, 16, 3, 3))[GRU]
    assert layer.step is not None
    step = compile_step(layer, layer.step, "forward and backward").flops()
    assert operations(3) - operations(2) == pytest.approx(step, rel=0.1)


def test_paths_are_as_long_as_their_graphs_say():
    """n = 10: dilations 1, 3, 9 with kernel 3; 2 positions per layer; 3 positions on either side."""
    assert paths.path_lengths(10, kernel=3, neighbourhood=7) == {
        "self-attention": 1,
        "recurrent": 10,
        "convolutional": 3,
        "convolutional, contiguous": 5,
        "self-attention, restricted": 3,
    }


def test_path_length_of_a_chain():
    chain = np.eye(5, dtype=bool) | np.eye(5, k=-1, dtype=bool)
    assert paths.path_length([chain] * 9, np.tril(np.ones((5, 5), bool))) == 4
    with pytest.raises(ValueError, match="do not connect every wanted pair"):
        paths.path_length([chain] * 9, np.ones((5, 5), bool))


def test_report(report):
    text = to_text(report)
    for said in ("O(log_k n)", "12.0 n d^2", "67.11  (60.40 to 100.66)"):
        assert said in text, said
    as_json = json.loads(json.dumps(to_json(report), allow_nan=False))
    assert as_json["table"][0]["operations"] == {"formula": "n^2 d", "count": 512**2 * 64}
    assert len(as_json["measurements"]) == len(report.measurements)
    lines = text.partition("Forward time in ms by sequence length n, at d = 64")[2].splitlines()
    assert lines[3].split() == [ATTENTION, "1.05", "4.19", "16.78", "67.11"]


def test_plot(report):
    above, _, below, _ = draw(report).axes
    gru = [OPERATIONS[GRU](n, 32) / 1e6 for n in (64, 128, 256, 512)]
    operations, times = ([np.asarray(line.get_ydata()) for line in axes.lines] for axes in (above, below))
    np.testing.assert_allclose(operations[LAYERS.index(GRU)], gru)
    assert any(len(line) == 4 and np.allclose(line, gru) for line in times)  # in ms, at 1e9 operations a second


def test_measure(monkeypatch):
    two = (ATTENTION, CONVOLUTION)
    kept = lambda *given: {name: layer for name, layer in make_layers(*given).items() if name in two}  # noqa: E731
    monkeypatch.setattr(measuring, "make_layers", kept)
    found = [*measure(Settings(lengths=(8, 4, 4), widths=(3,), repeats=2, batch=3))]
    assert [(one.n, one.d) for one in found[::4]] == [(4, 3), (8, 3)]
    assert {one.layer for one in found} == {*two}
    for one in found:
        assert 0 < one.fastest <= one.seconds <= one.slowest
        assert one.flops > 0


def test_command(report, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(measuring, "measure", lambda settings: iter(report.measurements))
    monkeypatch.setattr(paths, "path_lengths", lambda n, kernel, neighbourhood: report.paths[16])
    arguments = ["complexity", "--lengths", "64", "128", "256", "512", "--widths", "32", "64", "--neighbourhood", "9"]
    assert main([*arguments, "--json", f"{tmp_path}/x.json", "--output", f"{tmp_path}/x.svg"]) == 0
    assert "Table 1 of the paper, at n = 512, d = 64, k = 3, r = 9" in capsys.readouterr().out
    assert (tmp_path / "x.svg").read_bytes().startswith(b"<?xml")
    assert main([*arguments, "--json", "-"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed == json.loads((tmp_path / "x.json").read_text())
    assert printed["settings"]["neighbourhood"] == 9


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--lengths"], "--lengths needs at least one value"),
        (["--widths", "0", "64"], "--widths must be at least 1, but one of its values is 0"),
        (["--kernel", "1"], "--kernel must be at least 2, but is 1"),
        (["--neighbourhood", "8"], "--neighbourhood must be odd and at least 3, but is 8"),
        (["--batch", "0"], "--batch must be at least 1, but is 0"),
        (["--repeats", "0"], "--repeats must be at least 1, but is 0"),
        (["--output", "plot.pdf"], "--output must end in .png or .svg, but is plot.pdf"),
        (["--json", "nowhere/x.json"], "Cannot write nowhere/x.json: "),
    ],
    ids=lambda given: given[0] if isinstance(given, list) else "",
)
def test_bad_input(arguments, message, capsys):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("COLUMNS", "200")
        try:
            status = main(["complexity", *arguments])
        except SystemExit as exit:  # raised by tyro, which prints what the dataclass refused
            status = exit.code
    assert status == 2
    said = capsys.readouterr()
    assert message in " ".join((said.out + said.err).split())
    assert "Traceback" not in said.err


def test_without_matplotlib_it_says_so_before_it_measures(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.delitem(sys.modules, "transformer.analysis.figures")
    monkeypatch.delattr("transformer.analysis.figures")
    assert main(["complexity", "--output", "plot.png"]) == 2
    assert "Pictures need matplotlib" in capsys.readouterr().err
