from transformer.data.pairs import Pairs


def test_the_fingerprint_is_of_the_sentences_and_their_pairing():
    pairs = Pairs(["a", "b"], ["A", "B"])
    assert pairs.fingerprint == Pairs(["a", "b"], ["A", "B"], tags=[("x",), ()]).fingerprint
    others = [
        Pairs(["b", "a"], ["B", "A"]),
        Pairs(["a", "b"], ["B", "A"]),
        Pairs(["A", "B"], ["a", "b"]),
        Pairs(["a"], ["A"]),
        Pairs(["a\nA", "b"], ["", "B"]),
        Pairs(["ä", "b"], ["A", "B"]),
        pairs._replace(further_references=(["A", "B"],)),
    ]
    assert len({own.fingerprint for own in (pairs, *others)}) == 1 + len(others)


def test_several_references_are_selected_with_their_source():
    pairs = Pairs(["a", "b", "c"], ["A", "B", " "], further_references=(["x", "", "z"], ["1", "2", "3"]))
    assert pairs.select([2, 0]) == Pairs(["c", "a"], [" ", "A"], further_references=(["z", "x"], ["3", "1"]))
    assert (pairs.num_empty, Pairs(["a", "b"], ["A", "B"]).num_empty) == (2, 0)
