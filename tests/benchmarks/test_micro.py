"""The single measurements of `benchmarks/micro.py`."""

from collections.abc import Callable


def test_the_most_expensive_operations_are_named(benchmark: Callable) -> None:
    done = benchmark("micro", "operations", "--size", "tiny", "--number", "40")
    assert done.returncode == 0, done.stderr
    rows = [line.split(" | ") for line in done.stdout.splitlines() if "%" in line]
    shares = [float(row[0].strip("| %")) for row in rows]
    assert len(rows) == 40
    assert all(0 <= float(row[2].rstrip("%")) <= 100 for row in rows)
    assert shares == sorted(shares, reverse=True)
    assert 0 < sum(shares) <= 101  # each is rounded
    assert "loss/dot_general" in [row[4] for row in rows]


def test_operations_that_run_beside_each_other_share_their_time() -> None:
    from train_step import divide  # here, since it sets the allocator of the process

    spent, alone = divide([(0, 4, "a"), (2, 6, "b"), (3, 3, "no time"), (6, 7, "b"), (9, 10, "c"), (9, 10, "c")])
    assert spent == {"a": 3, "b": 4, "c": 1}  # 8 units in which anything ran: 0 to 7 and 9 to 10
    assert alone == {"a": 2, "b": 3}


def test_a_wrong_run_is_said_in_a_sentence(benchmark: Callable) -> None:
    done = benchmark("micro", "search-errors", "--run", "nowhere")
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")
    assert "nowhere" in done.stderr
