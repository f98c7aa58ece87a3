"""Windows hold what has arrived, need bounded memory, and pass on exceptions."""

import itertools
import threading
from queue import Queue

import pytest

from transformer.inference.windows import windows


def test_a_collection_gives_full_windows():
    assert list(windows(list(range(7)), 3)) == [[0, 1, 2], [3, 4, 5], [6]]
    assert list(windows((), 3)) == list(windows(iter([]), 3)) == []


def test_a_stream_gives_full_windows_where_enough_is_waiting():
    found = list(windows(iter(range(10_000)), 2048))
    assert [*itertools.chain.from_iterable(found)] == [*range(10_000)]
    assert max(map(len, found)) <= 2048
    first, *_ = windows(iter(range(6)), 2)
    assert first == [0, 1]


def test_a_window_is_what_has_arrived():
    questions = Queue()
    found = windows(iter(questions.get, None), 8)
    for batch in ([1], [2, 3, 4], [5]):
        for question in batch:
            questions.put(question)
        answered = next(found)
        while len(answered) < len(batch):  # on a busy machine, a question may have come late
            answered += next(found)
        assert answered == batch
    questions.put(None)
    assert list(found) == []


def test_memory_is_bounded():
    read = []
    found = windows((read.append(number) or number for number in itertools.count(1)), 4)
    assert next(found) == [1, 2, 3, 4]
    assert len(read) <= 4 + 4 + 1  # a window, as many items waiting, and one that does not fit yet
    assert next(found) == [5, 6, 7, 8]
    found.close()


def test_exceptions_come_after_the_items_before_them():
    def broken():
        yield from "abc"
        raise OSError("the disk is gone")

    found = windows(broken(), 2)
    assert [next(found), next(found)] == [["a", "b"], ["c"]]
    with pytest.raises(OSError, match="the disk is gone"):
        next(found)


def test_the_thread_ends_with_the_windows():
    before = threading.active_count()
    found = windows(itertools.count(), 4)
    next(found)
    (thread,) = [thread for thread in threading.enumerate() if thread.name == "windows" and thread.is_alive()]
    found.close()
    thread.join(10)
    assert not thread.is_alive()
    assert threading.active_count() == before
