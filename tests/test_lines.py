"""What the cores do together: two lines, several partitions, peer groups, announced changes, and a word when memory is full."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest

from connectors.alert import Alert
from connectors.event import DAY, HOUR, MINUTE, Action, Block, Outcome, Stream
from connectors.names import Names
from detector.checkpoint import digest
from detector.config import Config, ConfigError, parse
from detector.partitions import Partitions
from detector.pipeline import Cores
from replay.explain import explain, headline

#: A Monday, 2024-01-01.
START = 1_704_067_200_000_000


def habits(days: float, users: int = 40, services: int = 12, seed: int = 1, grows: float = 1.0) -> Block:
    """Users of two teams at their own teams' services, one by day, one in the evening, and a user that calls more every day."""
    draw = np.random.default_rng(seed)
    names = Names()
    people = np.array([names.code(f"user:u{i}@team{i % 2}.corp") for i in range(users)], np.int32)
    models = np.array([names.code(f"model:reg/team{i % 2}/m{i}") for i in range(services)], np.int32)
    time, who, where = [], [], []
    for day in range(int(days)):
        for user in range(users):
            calls = 20 if user else round(20 * grows**day)
            time.append(START + day * DAY + (6 + 9 * (user % 2)) * HOUR + draw.integers(0, 8 * HOUR, calls))
            who.append(np.full(calls, people[user]))
            where.append(models[(2 * draw.integers(0, services // 2, calls) + user % 2) % services])
    order = np.argsort(np.concatenate(time), kind="stable")
    columns = {
        "time": np.concatenate(time)[order],
        "stream": Stream.registry,
        "action": Action.pull,
        "outcome": Outcome.ok,
        "actor": np.concatenate(who)[order],
        "object": np.concatenate(where)[order],
        "record": np.arange(len(order)),
    }
    return Block(names, "made_up", columns)


def folded(cores: Cores | Partitions, block: Block, size: int = 1000) -> tuple[list[Alert], np.ndarray]:
    alerts: list[Alert] = []
    scores: list[np.ndarray] = []
    for start in range(0, len(block), size):
        alerts += cores.fold(block.take(slice(start, start + size)), scores.append)
    return alerts, np.concatenate(scores)


def told(alerts: list[Alert]) -> list[bytes]:
    return [msgspec.json.encode(alert) for alert in alerts]


def configured(text: str = "", **limits: int) -> Config:
    config = parse("[budget]\nalerts_per_day = 5\n" + text)
    for name, limit in limits.items():
        setattr(config.limits, name, limit)
    return config


TEN_DAYS = habits(10)


def test_one_partition_is_the_detector_without_partitions() -> None:
    plain, scores = folded(Cores(configured()), TEN_DAYS)
    one, same = folded(Partitions(configured(), 1), TEN_DAYS)
    assert scores.tobytes() == same.tobytes()
    assert told(plain) == told(one)
    assert plain


def test_four_partitions_do_not_depend_on_the_cut_and_say_much_the_same_as_one() -> None:
    _, alone = folded(Cores(configured()), TEN_DAYS)
    alerts, scores = folded(Partitions(configured(), 4), TEN_DAYS)
    for size in (7, 313, len(TEN_DAYS)):
        again, same = folded(Partitions(configured(), 4), TEN_DAYS, size)
        assert same.tobytes() == scores.tobytes()
        assert told(again) == told(alerts)
    order = [np.argsort(np.argsort(each)) for each in (alone, scores)]
    assert np.corrcoef(order[0], order[1])[0, 1] > 0.6


def test_peer_groups_are_formed_at_the_same_row_however_the_log_is_cut() -> None:
    whole = Cores(configured())
    folded(whole, TEN_DAYS)
    assert whole.actors.peering.peers.version >= 2
    for size in (13, 999):
        parts = Cores(configured())
        folded(parts, TEN_DAYS, size)
        assert digest(parts) == digest(whole)


def test_a_newcomer_at_its_teams_services_is_less_strange_than_at_the_other_teams() -> None:
    names = TEN_DAYS.names
    config = configured()
    config.signals = {"object_at_actor": config.signals["object_at_actor"] | {"weight": 1.0}}
    cores = Cores(config)
    folded(cores, TEN_DAYS)
    said = []
    for model in ("model:reg/team0/m0", "model:reg/team1/m1"):
        code = names.find(model)
        newcomer = names.code(f"user:new-{model[-1]}@team0.corp")
        columns = {"time": [START + 10 * DAY + 9 * HOUR], "stream": Stream.registry, "action": Action.pull, "outcome": Outcome.ok}
        columns |= {"actor": [newcomer], "object": [code], "record": [0]}
        _, score = folded(cores, Block(names, "made_up", columns))
        said.append(float(score[0]))
    assert said[0] < said[1] - 0.5, said


def test_the_slow_line_sees_what_grows_by_a_half_a_day_and_leaves_the_main_score_alone() -> None:
    grown = habits(18, grows=1.5)
    alerts, scores = folded(Cores(configured()), grown)
    slow = [alert for alert in alerts if alert.line == "slow" and alert.activity == "open"]
    assert "user:u0@team0.corp" in {alert.blamed for alert in slow}
    assert len(slow) <= 18
    fast = configured()
    fast.signals = {name: table for name, table in fast.signals.items() if table["learner"] not in ("volume", "drip")}
    without, same = folded(Cores(fast), grown)
    assert same.tobytes() == scores.tobytes()
    assert told(without) == told([alert for alert in alerts if alert.line == "main"])


def test_an_announced_change_is_learned_faster_and_scored_as_ever_and_the_alert_says_so() -> None:
    block = habits(12)
    names = block.names
    stranger, target = names.code("sa:deploy/bot"), names.code("model:reg/team0/m0")
    begin = START + 11 * DAY + 3 * HOUR
    extra = {
        "time": [begin + i * MINUTE for i in range(8)],
        "stream": Stream.registry,
        "action": Action.push,
        "outcome": Outcome.ok,
        "actor": [stranger] * 8,
        "object": [target] * 8,
        "record": range(8),
    }
    change = '[[changes]]\nname = "roll-out"\nsince = 2024-01-12T00:00:00Z\nuntil = 2024-01-13T00:00:00Z\nscope = ["sa:deploy/*"]\n'
    said = {}
    for text in ("", change):
        cores = Cores(configured(text))
        folded(cores, block.take(block.time < begin))
        alerts, scores = folded(cores, Block(names, "made_up", extra))
        (later,) = folded(cores, Block(names, "made_up", extra | {"time": [begin + DAY] * 8}))[1][:1]
        pieces = [piece for alert in alerts for piece in alert.evidence]
        said[text] = scores[0], later, [why for piece in pieces for why in piece.lowered]
    assert said[change][0] == said[""][0], "scored as ever"
    assert said[change][1] < said[""][1], "and learned faster"
    assert any("roll-out" in why for why in said[change][2])
    assert not any("roll-out" in why for why in said[""][2])


def test_a_flood_of_newcomers_is_told_once_and_restricted_profiles_stay() -> None:
    names = Names()
    ann = names.code("user:ann")
    model = names.code("model:reg/m")

    def block(actors: list[int], begin: int) -> Block:
        many = len(actors)
        columns = {"time": begin + np.arange(many) * 1000, "stream": Stream.registry, "action": Action.pull, "outcome": Outcome.ok}
        return Block(names, "made_up", columns | {"actor": actors, "object": [model] * many, "record": np.arange(many)})

    cores = Cores(configured('[identities]\nrestricted = ["user:ann"]\n', actors=500, pairs=800, objects=200, endpoints=200))
    cores.fold(block([ann] * 50, START))
    flood = [names.code(f"user:x{i}") for i in range(5000)]
    alerts = [alert for at in range(0, 5000, 700) for alert in cores.fold(block(flood[at : at + 700], START + HOUR))]
    notices = [alert for alert in alerts if alert.notice]
    assert len(notices) == 1
    assert "limit of" in notices[0].notice
    assert notices[0].principals == []
    assert "limit of 500 profiles" in explain(notices[0]).replace("\n          ", " ")
    assert "limit of 500" in headline(notices[0])
    key = names.hashes[ann : ann + 1]
    assert cores.actors.tables["actor"].known(key).all()
    assert all(table.used <= table.limit for visit in (cores.actors, cores.objects) for table in visit.tables.values())


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ("since = 2024-01-12T00:00:00", "changes[0].since: expected a time with its offset"),
        ("until = 2024-03-12T00:00:00Z", "changes[0].until: expected a time after since, at most 14 days"),
        ("scope = []", "changes[0].scope: expected at least one pattern"),
        ('scope = ["everyone"]', "changes[0].scope: expected 'kind:pattern'"),
        ("pace = 0.5", "changes[0].pace: expected 1 to 10"),
    ],
)
def test_a_change_that_makes_no_sense_is_refused_by_name(wrong: str, says: str) -> None:
    given = {
        "name": 'name = "x"',
        "since": "since = 2024-01-12T00:00:00Z",
        "until": "until = 2024-01-13T00:00:00Z",
        "scope": 'scope = ["sa:a/*"]',
    }
    given[wrong.partition(" ")[0]] = wrong
    with pytest.raises(ConfigError) as caught:
        parse("[[changes]]\n" + "\n".join(given.values()))
    assert says in str(caught.value)
