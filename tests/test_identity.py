"""Bindings: who is behind an address, a pod, a job, at the time of the event and no other."""

from __future__ import annotations

import itertools
import random

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from connectors.event import MINUTE, SECOND, Binding, Block, block_of
from connectors.names import Names
from detector.identity import LONGEST_HISTORY, Bindings
from tests.logs import START, row

IP, POD, SA, USER = "ip:10.1.2.3", "pod:team-a/train-0", "sa:team-a/trainer", "user:alice"


def binding(minutes: float, subject: str, target: str | None, record: int = 0) -> Binding:
    return Binding(record, START + int(minutes * MINUTE), subject, target)


def bound(*bindings: Binding, limit: int = 100) -> Bindings:
    made = Bindings(limit)
    for each in bindings:
        made.bind(each)
    return made


def who(bindings: Bindings, identity: str, minutes: float) -> str:
    return bindings.principal(identity, START + int(minutes * MINUTE))[0]


def block(names: Names, events: list[tuple[float, str, str]]) -> Block:
    rows = [row(names, i, START + int(at * MINUTE), actor, object_) for i, (at, actor, object_) in enumerate(events)]
    return block_of(names, "made_up", rows)


def said(resolved: Block, column: str) -> list[str]:
    return [resolved.names.values[code] if code >= 0 else "" for code in getattr(resolved, column).tolist()]


def test_a_chain_from_address_to_person_is_followed_to_its_end() -> None:
    chain = bound(binding(0, IP, POD), binding(0, POD, SA), binding(0, SA, USER))
    assert [who(chain, each, 1) for each in (IP, POD, SA, USER, "ip:10.9.9.9")] == [USER, USER, USER, USER, "ip:10.9.9.9"]


def test_a_binding_holds_from_its_time_until_the_next_or_its_end() -> None:
    pods = bound(binding(10, IP, "pod:a/one"), binding(20, IP, "pod:a/two"), binding(30, IP, None))
    assert [who(pods, IP, at) for at in (9, 10, 19.9, 20, 29, 30, 99)] == [
        IP,
        "pod:a/one",
        "pod:a/one",
        "pod:a/two",
        "pod:a/two",
        IP,
        IP,
    ]


def test_the_span_in_which_an_answer_holds_is_told() -> None:
    chain = bound(binding(10, IP, POD), binding(40, IP, None), binding(5, POD, SA), binding(20, POD, "sa:team-a/other"))
    name, begin, end = chain.principal(IP, START + 15 * MINUTE)
    assert (name, begin - START, end - START) == (SA, 10 * MINUTE, 20 * MINUTE)
    name, begin, end = chain.principal(IP, START + 25 * MINUTE)
    assert (name, begin - START, end - START) == ("sa:team-a/other", 20 * MINUTE, 40 * MINUTE)
    name, begin, end = chain.principal(IP, START)
    assert (name, end - START) == (IP, 10 * MINUTE)


def test_a_reused_address_does_not_pass_its_past_on() -> None:
    pods = bound(
        binding(0, IP, "pod:a/one"),
        binding(0, "pod:a/one", "sa:a/first"),
        binding(50, IP, "pod:b/two"),
        binding(50, "pod:b/two", "sa:b/second"),
    )
    events = block(Names(), [(at, IP, "host:api") for at in (1.0, 49.0, 51.0)])
    pods.resolve(events, [])
    assert said(events, "actor") == ["sa:a/first", "sa:a/first", "sa:b/second"]


def test_a_cycle_ends_where_it_began_to_repeat() -> None:
    ring = bound(binding(0, "pod:a/one", "pod:a/two"), binding(0, "pod:a/two", "pod:a/three"), binding(0, "pod:a/three", "pod:a/one"))
    assert who(ring, "pod:a/one", 1) == "pod:a/three"
    assert who(bound(binding(0, IP, IP)), IP, 1) == IP


def test_a_chain_without_end_is_followed_only_so_far() -> None:
    long = bound(*[binding(0, f"pod:a/p{i}", f"pod:a/p{i + 1}") for i in range(50)])
    assert who(long, "pod:a/p0", 1) == "pod:a/p5"


def test_a_late_binding_takes_its_place_in_time() -> None:
    pods = bound(binding(20, IP, "pod:a/two"), binding(10, IP, "pod:a/one"), binding(15, IP, None))
    assert [who(pods, IP, at) for at in (5, 12, 17, 25)] == [IP, "pod:a/one", IP, "pod:a/two"]


def test_the_last_word_on_one_moment_counts() -> None:
    assert who(bound(binding(10, IP, "pod:a/one"), binding(10, IP, "pod:a/two")), IP, 10) == "pod:a/two"


_history = st.lists(
    st.tuples(st.integers(0, 20), st.sampled_from(["pod:a/one", "pod:a/two", None])),
    min_size=1,
    max_size=8,
    unique_by=lambda each: each[0],
)


@settings(max_examples=200, deadline=None)
@given(_history, st.randoms(use_true_random=False))
def test_the_order_in_which_bindings_arrive_does_not_matter(history: list[tuple[int, str | None]], rng: random.Random) -> None:
    bindings = [binding(at, IP, target) for at, target in history]
    shuffled = bindings.copy()
    rng.shuffle(shuffled)
    ordered, disordered = bound(*sorted(bindings)), bound(*shuffled)
    assert [who(ordered, IP, at) for at in range(25)] == [who(disordered, IP, at) for at in range(25)]


@settings(max_examples=100, deadline=None)
@given(_history)
def test_bindings_in_order_of_time_mean_what_they_say(history: list[tuple[int, str | None]]) -> None:
    ordered = sorted(history, key=lambda each: each[0])
    bindings = bound(*[binding(at, IP, target) for at, target in ordered])
    for at in range(25):
        told = [target for when, target in ordered if when <= at]
        assert who(bindings, IP, at) == ((told[-1] or IP) if told else IP)


def test_a_subjects_history_is_bounded_and_the_oldest_goes_first() -> None:
    pods = bound(*[binding(i, IP, f"pod:a/p{i}") for i in range(LONGEST_HISTORY + 10)])
    assert who(pods, IP, 9) == IP
    assert who(pods, IP, 10) == "pod:a/p10"
    assert who(pods, IP, 999) == f"pod:a/p{LONGEST_HISTORY + 9}"
    (_, times, targets) = pods.dump()["histories"][0]
    assert len(times) == len(targets) == LONGEST_HISTORY


def test_subjects_are_bounded_and_those_not_renewed_for_longest_go_first() -> None:
    pods = bound(binding(0, "ip:10.0.0.1", "pod:a/x"), binding(0, "ip:10.0.0.2", "pod:a/y"), limit=2)
    pods.bind(binding(1, "ip:10.0.0.1", "pod:a/x"))
    pods.bind(binding(2, "ip:10.0.0.3", "pod:a/z"))
    assert [who(pods, f"ip:10.0.0.{i}", 5) for i in (1, 2, 3)] == ["pod:a/x", "ip:10.0.0.2", "pod:a/z"]
    assert (len(pods), pods.forgotten) == (2, 1)


def test_the_record_s_own_identity_is_kept_beside_the_principal() -> None:
    names = Names()
    events = block(names, [(1, IP, "host:api"), (2, USER, "host:api"), (3, IP, IP)])
    events.via[2] = names.code("token:t1")
    bound(binding(0, IP, USER)).resolve(events, [])
    assert said(events, "actor") == [USER, USER, USER]
    assert said(events, "object") == ["host:api", "host:api", USER]
    assert said(events, "via") == [IP, "", "token:t1"]


def test_a_row_sees_only_the_bindings_of_earlier_records() -> None:
    events = block(Names(), [(1, IP, "host:api"), (2, IP, "host:api"), (3, IP, "host:api")])
    Bindings(10).resolve(events, [(1, binding(0, IP, POD)), (2, binding(0, POD, USER)), (3, binding(0, POD, None))])
    assert said(events, "actor") == [IP, POD, USER]


def test_names_met_after_their_binding_are_resolved_too() -> None:
    names = Names()
    bindings = Bindings(10)
    bindings.resolve(block(names, [(1, "ip:10.0.0.1", "host:api")]), [(1, binding(0, IP, USER))])
    later = block(names, [(2, IP, "host:api")])
    bindings.resolve(later, [])
    assert said(later, "actor") == [USER]
    fresh = block(Names(), [(2, IP, "host:api")])
    bindings.resolve(fresh, [])
    assert said(fresh, "actor") == [USER]


def test_a_dump_goes_over_the_wire_and_means_the_same() -> None:
    one = bound(binding(0, IP, POD), binding(0, POD, SA), binding(9, POD, None), binding(1, IP, POD), limit=2)
    one.bind(binding(3, "ip:10.0.0.7", USER))
    two = Bindings(2)
    two.load(msgspec.msgpack.decode(msgspec.msgpack.encode(one.dump())))
    assert two.dump() == one.dump()
    for bindings in (one, two):
        bindings.bind(binding(20, "ip:10.0.0.8", USER))
    assert two.dump() == one.dump()


def test_a_dump_of_another_version_is_refused_with_a_sentence() -> None:
    with pytest.raises(ValueError, match="state of the bindings: version 2, this release reads 1"):
        Bindings(10).load(Bindings(10).dump() | {"version": 2})


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000), st.lists(st.integers(1, 79), max_size=10))
def test_resolution_does_not_depend_on_how_the_log_is_cut(seed: int, places: list[int]) -> None:
    rng = random.Random(seed)
    addresses = [f"ip:10.0.0.{i}" for i in range(5)]
    pods = [f"pod:a/p{i}" for i in range(5)]
    events = [(rng.uniform(0, 60), rng.choice(addresses + pods), rng.choice(addresses)) for _ in range(80)]
    bindings = []
    for _ in range(30):
        subject = rng.choice(addresses + pods)
        target = rng.choice([None, *pods] if subject in addresses else [None, "sa:a/x", USER])
        bindings.append((rng.randrange(81), binding(rng.uniform(0, 60), subject, target)))
    bindings.sort(key=lambda each: each[0])

    def play(ends: list[int]) -> tuple[list[str], list[str], list[str], object]:
        names, held = Names(), Bindings(6)
        whole = block(names, events)
        parts = []
        for a, b in itertools.pairwise([0, *ends, 80]):
            part = whole.take(np.arange(a, b))
            last = b == 80
            held.resolve(part, [(at - a, each) for at, each in bindings if a <= at < b or (last and at == b)])
            parts.append(part)
        done = Block.concat(parts)
        return said(done, "actor"), said(done, "object"), said(done, "via"), held.dump()

    assert play(sorted(set(places))) == play([])


def test_times_are_microseconds_to_the_last() -> None:
    at = START + 5 * SECOND
    pods = bound(Binding(0, at, IP, USER))
    assert pods.principal(IP, at - 1)[0] == IP
    assert pods.principal(IP, at)[0] == USER
