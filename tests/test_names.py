import unicodedata

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from connectors.names import KINDS, LONGEST, BadName, Names, clean, identity, stable_hash
from connectors.sources._short import KEPT, ShortTexts, addresses

PATIENT = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("10.1.2.3", "10.1.2.3"),
        ("010.001.002.003", "10.1.2.3"),
        ("000.0.0.7", "0.0.0.7"),
        (" 10.1.2.3 ", "10.1.2.3"),
        ("::ffff:10.1.2.3", "10.1.2.3"),
        ("::FFFF:0A01:0203", "10.1.2.3"),
        ("2001:0DB8:0000::0001", "2001:db8::1"),
        ("2001:db8:0:0:0:0:0:1", "2001:db8::1"),
        ("[2001:db8::1]", "2001:db8::1"),
        ("fe80::1%eth0", "fe80::1"),
    ],
)
def test_every_form_of_an_address_has_one_spelling(text: str, address: str) -> None:
    assert identity("ip", text) == f"ip:{address}"


@pytest.mark.parametrize(
    "text",
    ["", " ", "10.1.2", "10.1.2.3.4", "10.1.2.256", "10.1.2.0003", "0x0a.1.2.3", "10.1.2.٣", "10.1.2.-3", "host", "1::2::3", ":"],
)
def test_what_is_no_address_is_refused(text: str) -> None:
    with pytest.raises(BadName):
        identity("ip", text)


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_case_is_folded_for_some_kinds_and_kept_for_the_others(kind: str) -> None:
    if KINDS[kind] == "ip":
        return
    assert identity(kind, "Team-A/Ä") == f"{kind}:" + ("team-a/ä" if KINDS[kind] == "fold" else "Team-A/Ä")


def test_users_hosts_nodes_and_cards_fold_and_names_of_the_cluster_do_not() -> None:
    assert {kind for kind, rule in KINDS.items() if rule == "fold"} == {"user", "mac", "host", "node"}


def test_composed_and_decomposed_letters_are_one_name() -> None:
    assert identity("user", unicodedata.normalize("NFD", "Zoë")) == identity("user", "zoë")


@pytest.mark.parametrize(
    "text", ["a\0b", "a\nb", "a\x1bb", "a\x7fb", "a\u202eb", "a\u200bb", "a\u2028b", "a\ud800b", "\ufeffa", "a\ue000"]
)
def test_control_and_invisible_characters_are_refused(text: str) -> None:
    with pytest.raises(BadName, match=r"U\+"):
        clean(text)


@pytest.mark.parametrize("text", ["..", "../a", "a/../b", "a/..", "a\\..\\b"])
def test_a_path_segment_that_goes_up_is_refused(text: str) -> None:
    with pytest.raises(BadName, match=r"'\.\.' path segment"):
        clean(text)


@pytest.mark.parametrize("text", ["a..b", "...", "a/.b/c", "v1..2/x", "Ünï/日本語", "a b"])
def test_dots_letters_and_blanks_within_a_name_are_kept(text: str) -> None:
    assert clean(text) == text


def test_a_name_is_refused_from_one_byte_over_the_limit() -> None:
    assert clean("é" * (LONGEST // 2)) == "é" * (LONGEST // 2)
    for text in ("x" * (LONGEST + 1), "é" * (LONGEST // 2) + "x", "x" * 10_000):
        with pytest.raises(BadName, match="longer than 512 bytes"):
            clean(text)


def test_an_unknown_kind_is_a_fault_of_the_caller() -> None:
    with pytest.raises(KeyError):
        identity("address", "x")
    with pytest.raises(KeyError):
        Names().of("address")


@PATIENT
@given(st.sampled_from(sorted(KINDS)), st.text(max_size=30))
def test_a_normalised_identity_is_its_own_normal_form(kind: str, text: str) -> None:
    try:
        once = identity(kind, text)
    except BadName:
        return
    assert identity(kind, once.partition(":")[2]) == once


def test_codes_are_given_in_order_of_first_sight_and_stay() -> None:
    names = Names()
    users = names.of("user")
    assert [users[raw] for raw in ("Alice", "bob", "alice", "a\0", "bob")] == [0, 1, 0, -1, 1]
    assert names.values == ["user:alice", "user:bob"]
    assert names.code("user:alice") == 0
    assert (users.problem("a\0") != "", users.problem("bob")) == (True, "")


def test_a_coder_that_forgets_its_spellings_still_gives_the_same_codes() -> None:
    names = Names(limit=3)
    users = names.of("user")
    first = [users[f"u{i}"] for i in range(10)]
    assert [users[f"u{i}"] for i in range(10)] == first
    assert len(users) <= 3


def test_a_coder_keeps_no_text_that_is_too_long_for_a_name() -> None:
    users = Names().of("user")
    assert [users[" " * LONGEST + "a"], users["x" * 10_000], users["a"]] == [0, -1, 0]
    assert list(users) == ["a"]


def test_a_restart_lets_go_of_all_texts_but_the_kept_and_those_given_for_good() -> None:
    names = Names()
    users = names.of("user")
    codes = [users[f"u{i}"] for i in range(6)]
    lasting = names.code("tcp/443")
    mapping = names.restart(np.array([codes[4], -1, codes[1]], np.int32))
    assert mapping.tolist() == [-1, 0, -1, -1, 1, -1, 6, -1]
    assert (names.values[0], names.values[1], names.values[lasting]) == ("user:u1", "user:u4", "tcp/443")
    assert (names.held, names.epoch, names.find("user:u0")) == (3, 1, None)
    assert [int(names.hashes[code]) for code in (0, 1, lasting)] == [stable_hash(text) for text in ("user:u1", "user:u4", "tcp/443")]


def test_what_comes_after_a_restart_is_numbered_above_all_that_was_kept() -> None:
    names = Names()
    users = names.of("user")
    kept = [users["a"], users["b"], names.code("detail")][1:]
    names.restart(np.array(kept, np.int32))
    after = len(names)
    assert [users["a"], users["b"], users["c"], names.code("detail")] == [after, 0, after + 1, 2]
    assert [names.values[code] for code in (users["a"], users["b"], users["c"])] == ["user:a", "user:b", "user:c"]


def test_a_code_asked_for_in_passing_and_then_for_good_stays_for_good() -> None:
    names = Names()
    code = names.passing("tcp/22")
    assert names.code("tcp/22") == code
    for _ in range(3):
        assert names.restart(np.empty(0, np.int32))[code] == code
    assert names.passing("tcp/22") == names.code("tcp/22") == code


def test_a_restart_is_due_after_as_many_new_texts_or_spellings_as_the_limit_allows() -> None:
    names = Names(limit=4)
    users = names.of("user")
    assert [(users[raw], names.full)[1] for raw in ("a", "b", "A", "B")] == [False, False, False, True]
    names.restart(np.array([0, 1], np.int32))
    assert [(names.code(text), names.full)[1] for text in "wxyz"] == [False, False, False, True]


@PATIENT
@given(st.lists(st.tuples(st.sampled_from(["code", "passing", "restart"]), st.integers(0, 20)), max_size=60))
def test_every_valid_code_means_its_text_however_often_the_dictionary_starts_afresh(steps: list[tuple[str, int]]) -> None:
    names = Names()
    lasting: dict[str, int] = {}
    passing: dict[str, int] = {}
    for what, number in steps:
        text = f"t{number}"
        if what == "restart":
            keep = [code for text, code in passing.items() if int(text[1:]) % 3 == number % 3]
            mapping = names.restart(np.array([-1, *keep], np.int32))
            assert mapping[-1] == -1
            passing = {text: int(mapping[code]) for text, code in passing.items() if code in keep}
        elif what == "code":
            lasting[text] = names.code(text)
        else:
            passing[text] = names.passing(text)
        for held in (lasting, passing):
            assert {text: names.values[code] for text, code in held.items()} == {text: text for text in held}
            assert {int(names.hashes[code]) for code in held.values()} == {stable_hash(text) for text in held}
        assert names.held >= len(lasting.keys() | passing.keys())


def test_hashes_are_the_same_in_every_process_and_follow_the_table_as_it_grows() -> None:
    names = Names()
    for i in range(3000):
        names.code(f"user:u{i}")
    assert names.hashes.tolist() == [stable_hash(text) for text in names.values]
    assert stable_hash("user:alice") == 6905215558418927598
    assert len({*names.hashes.tolist()}) == 3000


TEXTS = st.lists(st.sampled_from(["", "a", "\0a", "a\0", "x" * KEPT, "x" * (KEPT + 1), "é", "a\nb", "10.0.0.1"]) | st.text(max_size=20))


@PATIENT  # the first call compiles
@given(st.lists(TEXTS, max_size=4), st.integers(1, 6))
def test_the_table_of_short_texts_answers_as_a_dictionary_would(batches: list[list[str]], limit: int) -> None:
    known: dict[str, int] = {}
    table = ShortTexts(lambda text: known.setdefault(text, len(known)) if text else -1, limit)
    for batch in batches:
        found = table.codes(batch).tolist()
        assert found == [known.get(text, -1) for text in batch]


def test_addresses_are_coded_as_the_coder_codes_them() -> None:
    texts = ["10.0.0.1", "010.0.0.1", "::ffff:10.0.0.1", "2001:db8::1", "2001:0db8::0001", "no", "", "10.0.0.1\0", "x" * 10_000]
    names, other = Names(), Names()
    fast = addresses(names)
    for _ in range(2):
        assert fast.codes(texts).tolist() == [other.of("ip")[text] for text in texts] == [0, 0, 0, 1, 1, -1, -1, -1, -1]
    assert names.values == other.values == ["ip:10.0.0.1", "ip:2001:db8::1"]
