"""Words of a text, words of a query, and the excerpt of a message."""

from __future__ import annotations

import unicodedata
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tidings_db.queries.words import MAX_WORD, WINDOW, Phrase, matches, parse, snippet, words

_content = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=300)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("¡Buenos DÍAS, señor!", ["buenos", "dias", "senor"]),
        ("STRASSE straße ﬁne İstanbul", ["strasse", "strasse", "fine", "istanbul"]),
        ("ΟΔΥΣΣΕΎΣ Ὀδυσσεύς", ["οδυσσευσ", "οδυσσευσ"]),
        ("Ёлка елка", ["елка", "елка"]),
        ("हिन्दी में क़िताब", ["हिन्दी", "में", "क\u093cिताब"]),
        ("مُحَمَّد محمد مـحمد", ["محمد"] * 3),
        ("שָׁלוֹם שלום", ["שלום", "שלום"]),
        ("我在東京", ["我", "在", "東", "京"]),
        ("アパートｶﾞ", ["ア", "パ", "ー", "ト", "ガ"]),
        ("か\u3099 が", ["が", "が"]),
        ("한국어 iPhone手机", ["한", "국", "어", "iphone", "手", "机"]),
        ("สวัสดี", ["ส", "ว", "ั", "ส", "ด", "ี"]),
        ("don't e-mail a_b x=1,5 ½", ["don", "t", "e", "mail", "a", "b", "x", "1", "5", "1", "2"]),
        ("👍 🏳️‍🌈 … ¶7 #1", ["7", "1"]),
        ("soft\u00adhyphen می\u200cخواهم", ["softhyphen", "میخواهم"]),
    ],
)
def test_equivalent_spellings_give_the_same_words(text: str, expected: list[str]) -> None:
    assert words(text) == expected
    assert words(unicodedata.normalize("NFD", text)) == expected


@settings(deadline=None)
@given(_content)
def test_a_word_consists_of_letters_digits_and_marks_and_is_stable(text: str) -> None:
    first = words(text)
    assert all(unicodedata.category(char)[0] in "LNM" for word in first for char in word)
    assert all(0 < len(word) <= MAX_WORD for word in first)
    assert words(" ".join(first)) == first


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("one Two one", [("one",), ("two",)]),
        ('"Good morning" lunch*', [("good", "morning"), ("lunch", "*")]),
        ("東京* 大", [("東", "京", "*"), ("大",)]),
        ("e-mail don't", [("e", "mail"), ("don", "t")]),
        ('"open end', [("open", "end")]),
        ('a"b c"d', [("a",), ("b", "c"), ("d",)]),
        ('"begin wi"*', [("begin", "wi", "*")]),
        ("foo-* foo** *bar", [("foo",), ("foo", "*"), ("bar",)]),
        ("AND OR NOT NEAR(a b) x:y ^z", [("and",), ("or",), ("not",), ("near", "a"), ("b",), ("x", "y"), ("z",)]),
        ('* "" " -- " !? 👍', []),
    ],
)
def test_a_query_consists_of_words_prefixes_and_phrases(query: str, expected: list[tuple[str, ...]]) -> None:
    phrases = [(*words, "*") if prefix else words for words, prefix in parse(query)]
    assert list(dict.fromkeys(phrases)) == expected


def test_a_text_matches_a_query_if_it_contains_every_phrase() -> None:
    text = "Good morning: lunchtime is at noon"
    for query in ("noon GOOD", '"good morning" lunch*', "lunch* good*", '"lunchtime is a"*', "good-morning"):
        assert matches(parse(query), 1, text), query
    for query in ("noon midnight", '"morning good"', "lunch", '"good lunch"', '"good morning lunch"', "oon"):
        assert not matches(parse(query), 1, text), query


def test_a_snippet_shows_the_original_text_around_the_first_match() -> None:
    assert snippet(parse("dias senor*"), "Buenos DÍAS, señorita!") == [
        ("Buenos ", False),
        ("DÍAS", True),
        (", ", False),
        ("señorita", True),
        ("!", False),
    ]
    assert snippet(parse("東京"), "我在東京工作") == [("我在", False), ("東京", True), ("工作", False)]
    assert snippet(parse("a"), "nothing") == [("nothing", False)]
    assert snippet(parse('"b a" "a b"'), "a b a") == [("a b a", True)]
    long = "before " * 100 + "the needle" + " after" * 100
    (lead, _), (needle, is_match), (tail, _) = snippet(parse("needle"), long)
    assert (needle, is_match) == ("needle", True)
    assert lead.startswith("…before ")
    assert tail.endswith("…")


@settings(deadline=None)
@given(_content, _content)
def test_a_snippet_is_a_window_of_the_text_with_its_matches_marked(text: str, more: str) -> None:
    for query in (parse(text[:20]), (*parse(more[:9]), Phrase(("a",), True))):
        parts = snippet(query, text)
        shown = "".join(part for part, _ in parts)
        assert len(shown) <= WINDOW + 2
        assert shown.strip("…") in unicodedata.normalize("NFC", text)
        assert all(part for part, _ in parts)
        assert all(left[1] != right[1] for left, right in pairwise(parts))
