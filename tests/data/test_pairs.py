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
    ]
    assert len({own.fingerprint for own in (pairs, *others)}) == 1 + len(others)
