import re


def test_every_it_and_its_of_the_test_set_has_an_antecedent(corpus):
    known = [(row, antecedent) for row in corpus["test"] for antecedent in row.get("antecedents", [])]
    assert len(known) > 300
    assert {antecedent["pronoun"] for _, antecedent in known} == {"it", "its"}
    with_pronoun = [row for row in corpus["test"] if re.search(r"\b(it|its)\b", row["en"], re.IGNORECASE)]
    assert [row for row, _ in known] == with_pronoun
    for row, antecedent in known:
        words = re.findall(r"[\w-]+", row["en"].lower())
        assert words.count(antecedent["pronoun"]) == words.count(antecedent["noun"]) == 1
        assert antecedent["noun"] in antecedent["nouns"]
        assert {*antecedent["nouns"]} <= {*words}
        assert "antecedent-gender" in row["tags"]
        if antecedent["pronoun"] == "it":
            assert antecedent["owned"] is None
        else:
            assert antecedent["owned"] in antecedent["nouns"]
            after = words[words.index("its") + 1 :]
            assert antecedent["owned"] in after[:2]  # perhaps an adjective between


def test_by_hand(corpus):
    (row,) = (row for row in corpus["test"] if row["en"].startswith("The farmer praises the decision, but its bad"))
    nouns = ["decision", "effects", "farmer"]
    assert row["antecedents"] == [{"pronoun": "its", "noun": "decision", "nouns": nouns, "owned": "effects"}]
