"""The responder's process: what it takes and refuses, people's words, switches, clocks, and everything that can stop it."""

from __future__ import annotations

import asyncio
import os
import pwd
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from connectors import ocsf
from connectors.containment import Action, Applied, Trouble, Undone, Verified, offered
from connectors.containment.lab import Lab
from connectors.decision import encode, made
from connectors.event import HOUR, MINUTE, SECOND
from connectors.secret import Secret
from connectors.signing import Key
from detector import feeds
from detector.anchor import AnchorAway, Anchorer
from detector.decide import action_id
from detector.feeds import Delivery, alerts_in, decisions_in
from detector.history import Attempt, Entry
from detector.kernel import Outside
from detector.ledger import Ledger
from detector.policy import Approver, Breaker, Measure, Population, Respond, Retry, Rule, Shares
from detector.respond import UNDO_AGAIN, Responder
from detector.responder import Clock, News, Service, Switch, serve
from tests.alerts import T0, made_alert
from tests.test_respond import TTL, lab, table

POD = "pod:team-a/trainer-0"


class Now:
    """A clock that a test moves."""

    def __init__(self, time: int = T0) -> None:
        self.time = time

    def __call__(self) -> int:
        return self.time


class Stage:
    """A service over a lab, with everything from outside in the test's hand."""

    def __init__(self, respond: Respond, folder: Path, world: Lab | None = None, *, replay: bool = False) -> None:
        self.now, self.world, self.ledger = Now(), world or lab(), Ledger()
        self.switch = Switch(str(folder / "stop"))
        outside = lambda: Outside(self.switch(), replay)  # noqa: E731  a name would say less
        responder = Responder(respond, [self.world], self.ledger, clock=self.now, outside=outside, chance=lambda: 1.0)
        self.service = Service(responder, self.now, self.switch, replay=replay)

    def alert(self, **changes: Any) -> list[str]:
        alert = made_alert(**({"time": self.now.time} | changes))
        return self.results(self.service.take(Delivery("alert", ocsf.encode(alert, "0.1.0"), "alerts: line 1")))

    def say(self, word: Any, person: str = "user:ann", *, vouched: str | None = None, action: str = "") -> list[str]:
        history = self.ledger.history
        known = [action, *history.waiting, *(hold.entry.action for hold in history.holds.values()), "none"]
        record = encode(made(next(filter(None, known)), word, person, self.now.time, "because"))
        return self.results(self.service.take(Delivery("decision", record, "decision", person if vouched is None else vouched)))

    def tick(self, later: int = 0) -> list[str]:
        self.now.time += later
        return self.results(self.service.tick())

    def results(self, news: list[News]) -> list[str]:
        return [each.outcome.result if each.outcome else each.text for each in news]

    def rows(self) -> list[Entry]:
        return list(self.ledger.entries())


def approve(**more: Any) -> Respond:
    return Respond(mode="enforce", rules=[Rule(name="r", actions=[Measure(verb="isolate_pod", mode="approve", **more)])])


# --- What it takes ---------------------------------------------------------------------------------------------------------------


FOREIGN = ocsf.encode(made_alert(), "0.1.0").replace(b'"Tocsin"', b'"Other"')


@pytest.mark.parametrize("record", [b"", b"{}", b"\xff\x00", b'{"class_uid":2004}', FOREIGN, b"[" * 10_000])
def test_a_record_that_is_not_ours_is_refused_counted_and_leads_to_nothing(tmp_path: Path, record: bytes) -> None:
    stage = Stage(table(), tmp_path)
    (news,) = stage.service.take(Delivery("alert", record, "alerts: line 7"))
    assert news.text.startswith("alerts: line 7: refused: ")
    assert stage.service.refused == {"alert": 1}
    assert stage.rows() == []


def test_alerts_of_a_replay_are_only_observed_whatever_the_policy_says(tmp_path: Path) -> None:
    stage = Stage(table("isolate_pod"), tmp_path, replay=True)
    assert stage.alert() == ["observed"]
    assert stage.rows()[0].reason == "alerts of a replay are only observed"
    assert stage.world.target.can_connect(POD)


def test_an_old_alert_is_proposed_and_logged_and_a_person_may_approve_it(tmp_path: Path) -> None:
    stage = Stage(table("isolate_pod"), tmp_path)
    assert stage.alert(time=T0 - 16 * MINUTE) == ["proposed"]
    assert stage.rows()[0].reason == "the alert is from 960 seconds ago; after more than 900 a person is asked"
    assert stage.say("approve") == ["approved", "verified"]
    assert not stage.world.target.can_connect(POD)


def test_an_alert_from_the_future_does_not_stay_young_for_ever(tmp_path: Path) -> None:
    assert Stage(table("isolate_pod"), tmp_path).alert(time=T0 + HOUR) == ["proposed"]


def test_the_same_revision_delivered_again_is_settled_without_a_row(tmp_path: Path) -> None:
    stage = Stage(table("isolate_pod"), tmp_path)
    stage.alert()
    rows = len(stage.rows())
    assert stage.alert() == []
    assert len(stage.rows()) == rows


# --- People ------------------------------------------------------------------------------------------------------------------------


def test_an_approval_carries_out_what_waits_and_the_person_is_in_the_ledger(tmp_path: Path) -> None:
    stage = Stage(approve(), tmp_path)
    assert stage.alert() == ["awaiting-approval"]
    assert stage.world.target.can_connect(POD)
    assert stage.say("approve") == ["approved", "verified"]
    rows = stage.rows()
    assert [(each.person, each.reason) for each in rows if each.step == "approval"] == [("user:ann", "because")]
    assert next(each for each in rows if each.result == "enforced").reason == "rule r, approved by user:ann"
    assert stage.tick(14_400 * SECOND) == ["undo-verified"]


def test_four_eyes_are_two_different_people_and_neither_is_a_party_to_it(tmp_path: Path) -> None:
    stage = Stage(approve(approvals=2), tmp_path)
    stage.alert(principals=["user:alice"])
    assert stage.say("approve") == ["approved"]
    assert stage.say("approve") == ["approved"], "the same person again"
    assert stage.say("approve", "user:alice")[0].endswith("it is about user:alice, who has no say in it")
    assert stage.world.target.can_connect(POD)
    assert stage.say("approve", "user:bob") == ["approved", "verified"]


def test_a_denial_stands_for_all_later_revisions(tmp_path: Path) -> None:
    stage = Stage(approve(), tmp_path)
    stage.alert()
    assert stage.say("deny") == ["denied"]
    assert stage.alert(revision=2) == ["unchanged"]
    assert stage.say("approve", action=stage.rows()[0].action)[0].endswith("this action does not wait for anybody")
    assert stage.world.target.can_connect(POD)


def test_a_question_that_nobody_answers_expires(tmp_path: Path) -> None:
    stage = Stage(approve(), tmp_path)
    stage.alert()
    assert stage.tick(14_400 * SECOND) == []
    assert stage.tick(1) == ["expired"]
    assert stage.say("approve", action=stage.rows()[0].action)[0].endswith("this action does not wait for anybody")


def test_a_person_can_take_a_containment_back_before_its_time(tmp_path: Path) -> None:
    stage = Stage(table("isolate_pod"), tmp_path)
    stage.alert()
    stage.now.time += MINUTE
    assert stage.say("release") == ["", "undo-verified"]
    assert stage.world.target.can_connect(POD)
    assert next(each.reason for each in stage.rows() if each.step == "undo-intent") == "released by user:ann: because"


@pytest.mark.parametrize(
    ("vouched", "why"),
    [("", "it came from nobody known"), ("user:mallory", "it came from user:mallory")],
)
def test_t8_a_word_of_which_nobody_knows_who_said_it_does_not_count(tmp_path: Path, vouched: str, why: str) -> None:
    stage = Stage(approve(), tmp_path)
    stage.alert()
    (said,) = stage.say("approve", vouched=vouched)
    assert said.endswith(why)
    assert stage.world.target.can_connect(POD)


def test_t8_where_a_key_is_set_only_what_it_signed_counts_and_only_once(tmp_path: Path) -> None:
    (tmp_path / "key").write_text("a secret that is shared with ann only, and long")
    approver = Approver(secret=Secret(file=str(tmp_path / "key")))
    stage = Stage(replace(approve(), approvers={"user:ann": approver}), tmp_path)
    stage.alert()
    assert stage.say("approve", vouched="user:ann")[0].endswith("not signed with the key of user:ann")
    assert stage.say("approve", "user:bob", vouched="user:bob")[0].endswith("user:bob is not in respond.approvers")
    key = Key((tmp_path / "key").read_text())
    record = encode(made(stage.rows()[0].action, "approve", "user:ann", T0, "", key))
    forged = record.replace(b'"approve"', b'"deny"')
    assert stage.results(stage.service.take(Delivery("decision", forged, "d")))[0].endswith("not signed with the key of user:ann")
    assert stage.results(stage.service.take(Delivery("decision", record, "d"))) == ["approved", "verified"]
    assert stage.results(stage.service.take(Delivery("decision", record, "d")))[0].endswith("taken before")


@pytest.mark.parametrize("time", [T0 + HOUR, T0 - 5 * HOUR])
def test_a_word_from_the_future_or_the_past_does_not_count(tmp_path: Path, time: int) -> None:
    stage = Stage(approve(), tmp_path)
    stage.alert()
    record = encode(made(stage.rows()[0].action, "approve", "user:ann", time))
    assert "refused" in stage.results(stage.service.take(Delivery("decision", record, "d", "user:ann")))[0]


# --- Switches and clocks -----------------------------------------------------------------------------------------------------------


def test_the_kill_switch_stops_what_begins_and_not_what_ends(tmp_path: Path) -> None:
    stage = Stage(table("isolate_pod"), tmp_path)
    stage.alert()
    (tmp_path / "stop").write_text("maintenance\n")
    assert stage.alert(uid="alert-2", targets=["pod:team-a/trainer-1"]) == ["kill switch on: maintenance", "stopped"]
    assert stage.world.target.can_connect("pod:team-a/trainer-1")
    assert stage.tick(2 * HOUR) == ["undo-verified"]
    (tmp_path / "stop").unlink()
    assert stage.tick() == ["kill switch off"]
    assert [each.reason for each in stage.rows() if each.step == "switch"] == ["kill switch on: maintenance", "kill switch off"]


def test_a_kill_switch_that_cannot_be_looked_for_is_on(tmp_path: Path) -> None:
    (tmp_path / "stop").mkdir()
    assert Stage(table("isolate_pod"), tmp_path).alert()[-1] == "stopped"


def test_the_kill_switch_in_the_middle_of_an_alert_stops_the_next_call(tmp_path: Path) -> None:
    class Turner(Lab):
        def verify(self, action: Action) -> Verified:
            (tmp_path / "stop").write_text("enough")
            return super().verify(action)

    stage = Stage(table("isolate_pod", "suspend_job"), tmp_path, Turner(lab().settings))
    assert stage.alert() == ["verified", "withdrawn"]
    assert stage.world.target.is_running("job:slurm/1")


def test_t21_a_policy_read_anew_counts_for_what_waits_and_what_is_contained(tmp_path: Path) -> None:
    stage = Stage(table("isolate_pod"), tmp_path)
    stage.alert()
    news = stage.service.adopt(table("isolate_pod", protected=["user:alice"]))
    assert stage.results(news) == ["policy read anew", "undo-verified"]
    assert stage.alert(uid="alert-2") == ["protected"]


def test_t15_no_jump_of_the_wall_clock_moves_the_responders_time() -> None:
    wall, passed = [1_000_000.0], [5.0]
    clock = Clock(0, lambda: wall[0], lambda: passed[0])
    start = clock()
    for jump in (-30 * 86_400.0, 86_400.0 * 365):
        wall[0] += jump
        passed[0] += 2 * 86_400.0
    assert clock() - start == 4 * 86_400 * SECOND, "ages of more than a day, and no jump"
    assert Clock(start + HOUR, lambda: 0.0, lambda: 0.0)() == start + HOUR, "a wall clock behind the ledger does not stop time"


# --- Bad weather -------------------------------------------------------------------------------------------------------------------


class Weather(Lab):
    """What its calls answer before they work: a list for each step."""

    def __init__(self, *answers: Applied, seen: tuple[Verified, ...] = ()) -> None:
        super().__init__(lab().settings)
        self.answers, self.seen, self.calls = list(answers), list(seen), 0

    def apply(self, action: Action) -> Applied:
        self.calls += 1
        if not self.answers:
            return super().apply(action)
        answer = self.answers.pop(0)
        if answer.status == "unknown":
            super().apply(action)
        return answer

    def verify(self, action: Action) -> Verified:
        return self.seen.pop(0) if self.seen else super().verify(action)


def down(reason: str = "no connection") -> Applied:
    return Applied("failed", reason, Trouble("down"))


def test_a_target_that_is_down_is_tried_again_with_growing_pauses_until_it_is_up(tmp_path: Path) -> None:
    stage = Stage(table("isolate_pod"), tmp_path, Weather(down(), down()))
    assert stage.alert() == ["retrying"]
    assert stage.tick(2 * SECOND - 1) == []
    assert stage.tick(1) == ["retrying"]
    assert stage.tick(4 * SECOND - 1) == []
    assert stage.tick(1) == ["verified"]


def test_a_target_that_asks_to_wait_is_left_alone_for_so_long(tmp_path: Path) -> None:
    stage = Stage(table("isolate_pod"), tmp_path, Weather(Applied("failed", "HTTP 429", Trouble("busy", 60.0))))
    assert stage.alert() == ["retrying"]
    assert stage.tick(59 * SECOND) == []
    assert stage.tick(1 * SECOND) == ["verified"]


def test_what_is_tried_too_often_has_failed(tmp_path: Path) -> None:
    world = Weather(*[down()] * 50)
    stage = Stage(replace(table("isolate_pod"), retry=Retry(attempts=3)), tmp_path, world)
    stage.alert()
    for _ in range(10):
        stage.tick(2 * MINUTE)
    assert world.calls == 4
    assert stage.rows()[-1].result == "failed"
    assert stage.ledger.history.pending == {}


@pytest.mark.parametrize("kind", ["refused", "unauthorised", "gone"])
def test_what_trying_again_cannot_help_is_not_tried_again(tmp_path: Path, kind: Any) -> None:
    world = Weather(Applied("failed", "no", Trouble(kind)))
    assert Stage(table("isolate_pod"), tmp_path, world).alert() == ["failed"]
    assert world.calls == 1


def test_half_a_reply_is_looked_into_and_found_in_effect(tmp_path: Path) -> None:
    world = Weather(Applied("unknown", "half a reply", Trouble("down")))
    stage = Stage(table("isolate_pod"), tmp_path, world)
    assert stage.alert() == ["retrying"]
    assert stage.tick(2 * SECOND) == ["verified"]
    assert world.calls == 1, "found, not made again"


def test_a_call_that_may_have_arrived_is_held_and_taken_back_though_it_was_given_up(tmp_path: Path) -> None:
    blind = Verified("unverified", "no connection")
    stage = Stage(table("isolate_pod"), tmp_path, Weather(Applied("unknown", "half a reply", Trouble("down")), seen=(blind,) * 3))
    stage.alert()
    (tmp_path / "stop").touch()
    assert stage.tick(2 * SECOND)[1:] == ["unverified"]
    assert not stage.world.target.can_connect(POD)
    assert stage.tick(2 * HOUR) == ["undo-verified"]
    assert stage.world.target.can_connect(POD)


def test_a_retry_is_judged_anew_before_it_is_made(tmp_path: Path) -> None:
    world = Weather(down())
    stage = Stage(table("isolate_pod"), tmp_path, world)
    stage.alert()
    stage.service.adopt(table("isolate_pod", protected=["pod:team-a/*"]))
    assert stage.tick(2 * SECOND) == ["withdrawn"]
    assert world.calls == 1


def test_an_effect_that_lags_is_looked_for_until_it_is_seen(tmp_path: Path) -> None:
    late = Verified("not-effective", "the token is in a cache", again=10.0)
    stage = Stage(table("isolate_pod"), tmp_path, Weather(seen=(late, late)))
    assert stage.alert() == ["looking"]
    assert stage.tick(10 * SECOND - 1) == []
    assert stage.tick(1) == ["looking"]
    assert stage.tick(10 * SECOND) == ["verified"]


def test_t12_an_effect_that_never_comes_is_not_success_however_long_one_looks(tmp_path: Path) -> None:
    late = Verified("not-effective", "still there", again=50.0)
    stage = Stage(table("isolate_pod"), tmp_path, Weather(seen=(late,) * 9))
    seen = stage.alert()
    while seen[-1:] == ["looking"]:
        seen = stage.tick(50 * SECOND)
    assert seen == ["not-effective"]


def test_the_breaker_asks_a_person_after_too_much_went_wrong(tmp_path: Path) -> None:
    world = Weather(*[Applied("failed", "no", Trouble("refused"))] * 2)
    stage = Stage(replace(table("isolate_pod"), breaker=Breaker(wrong=2, window_seconds=600)), tmp_path, world)
    for i in range(2):
        assert stage.alert(uid=f"a{i}", targets=[f"pod:team-a/trainer-{i}"]) == ["failed"]
    assert stage.alert(uid="a2", targets=["pod:team-a/trainer-2"]) == ["breaker-open"]
    assert stage.say("approve") == ["approved", "verified"]
    stage.now.time += 600 * SECOND
    assert stage.alert(uid="a3", targets=["pod:team-a/trainer-1"]) == ["verified"]


def test_t5_a_share_of_a_small_population_lets_one_be_contained_and_says_why_not_two(tmp_path: Path) -> None:
    respond = replace(table("isolate_pod"), shares=Shares(namespace=33.0), population=Population(namespaces={"team-a": 3}))
    stage = Stage(respond, tmp_path)
    assert stage.alert(targets=["pod:team-a/trainer-0", "pod:team-a/trainer-1"]) == ["verified", "limited"]
    limited = next(each for each in stage.rows() if each.result == "limited")
    assert limited.reason == "limit reached: 33 percent of namespace team-a (3) are 1; 1 are contained"


@pytest.mark.parametrize(
    ("percent", "known", "result"), [(33.0, 0, "limited"), (100.0, 0, "verified"), (0.0, 3, "limited"), (66.7, 3, "verified")]
)
def test_t5_a_share_of_an_unknown_population_lets_nothing_happen(tmp_path: Path, percent: float, known: int, result: str) -> None:
    respond = replace(table("isolate_pod"), shares=Shares(namespace=percent), population=Population(namespaces={"team-a": known}))
    assert Stage(respond, tmp_path).alert(targets=[POD]) == [result]


def test_t11_a_repeated_containment_lasts_longer_each_time_and_starts_anew_after_a_quiet_day(tmp_path: Path) -> None:
    measure = Measure(verb="isolate_pod", mode="enforce", ttl_seconds=600, escalate=2.0)
    stage = Stage(Respond(mode="enforce", rules=[Rule(name="r", actions=[measure])]), tmp_path)
    lasted = []
    for i, pause in enumerate((HOUR, HOUR, 25 * HOUR, HOUR)):
        stage.alert(uid=f"a{i}")
        lasted.append((next(iter(stage.ledger.history.holds.values())).due - stage.now.time) // SECOND)
        stage.tick(pause)
        stage.tick()
    assert lasted == [600, 1_200, 2_400, 600]


# --- Feeds -------------------------------------------------------------------------------------------------------------------------


def served(service: Service, feeds: Callable[[], list[Any]]) -> list[News]:
    news: list[News] = []
    asyncio.run(serve(service, feeds(), news.extend, list))
    return news


def test_a_file_of_alerts_is_read_to_its_end_a_bad_line_costs_only_itself(tmp_path: Path) -> None:
    stage = Stage(table("isolate_pod"), tmp_path)
    lines = [ocsf.encode(made_alert(uid=f"a{i}", targets=[f"pod:team-a/trainer-{i}"]), "0.1.0") for i in range(2)]
    (tmp_path / "alerts").write_bytes(lines[0] + b"no finding\n\n" + lines[1].rstrip(b"\n"))
    news = served(stage.service, lambda: [alerts_in(tmp_path / "alerts", follow=False)])
    assert [each.outcome.result if each.outcome else each.text[-40:] for each in news][::2] == ["verified", "verified"]
    assert "line 2: refused" in news[1].text


def test_a_file_is_followed_as_it_grows_and_when_it_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "alerts"

    async def follow() -> list[bytes]:
        feed, got = alerts_in(path, follow=True), []
        first = asyncio.ensure_future(anext(feed))
        await asyncio.sleep(0)
        path.write_bytes(b"one\ntw")
        got.append((await first).record)
        second = asyncio.ensure_future(anext(feed))
        await asyncio.sleep(0)
        with path.open("ab") as file:
            file.write(b"o\n")
        got.append((await second).record)
        (tmp_path / "new").write_bytes(b"three\n")
        (tmp_path / "new").replace(path)
        got.append((await anext(feed)).record)
        await feed.aclose()  # type: ignore[attr-defined]
        return got

    assert asyncio.run(follow()) == [b"one", b"two", b"three"]


def test_a_decision_in_the_folder_is_its_owners_and_goes_away_when_it_is_settled(tmp_path: Path) -> None:
    me = f"user:{pwd.getpwuid(os.geteuid()).pw_name}"
    (tmp_path / "1.json").write_bytes(b"{}")
    (tmp_path / "2.json").symlink_to(tmp_path / "1.json")
    (tmp_path / "3.json").write_bytes(b"{}")
    os.link(tmp_path / "3.json", tmp_path / "4.json")
    (tmp_path / ".5").write_bytes(b"{}")

    async def all_of() -> list[Delivery]:
        return [each async for each in decisions_in(tmp_path, follow=False)]

    found = asyncio.run(all_of())
    assert [(Path(each.where).name, each.vouched) for each in found] == [("1.json", me), ("3.json", ""), ("4.json", "")]
    commit = found[0].commit
    assert commit is not None

    async def settle() -> None:
        await commit()

    asyncio.run(settle())
    assert not (tmp_path / "1.json").exists()


def test_a_delivery_is_committed_only_after_its_rows_are_written(tmp_path: Path) -> None:
    stage = Stage(table("isolate_pod"), tmp_path)
    rows: list[int] = []

    async def feed() -> Any:
        async def commit() -> None:
            rows.append(stage.ledger.head[0])

        yield Delivery("alert", ocsf.encode(made_alert(), "0.1.0"), "x", "", commit)

    served(stage.service, lambda: [feed()])
    assert rows == [4]


class StubbornLab(Lab):
    """Takes nothing back while ``stubborn``."""

    stubborn = True

    def undo(self, action: Action) -> Undone:
        return Undone("failed", "not now") if self.stubborn else super().undo(action)


def test_a_release_whose_undo_fails_is_tried_again_soon_and_not_at_the_end_of_its_time(tmp_path: Path) -> None:
    world = StubbornLab(lab().settings)
    stage = Stage(table("isolate_pod"), tmp_path, world)
    stage.alert()
    assert stage.say("release") == ["", "undo-failed"]
    assert stage.tick(UNDO_AGAIN - 1) == []
    assert stage.tick(1) == ["undo-failed"]
    world.stubborn = False
    assert stage.tick(UNDO_AGAIN) == ["undo-verified"]
    assert world.target.can_connect(POD)


def test_t21_whom_the_policy_protects_at_a_start_is_released_by_its_first_look(tmp_path: Path) -> None:
    stage = Stage(table("isolate_pod"), tmp_path)
    stage.alert()
    protected = table("isolate_pod", protected=["user:alice"])
    again = Service(Responder(protected, [stage.world], stage.ledger, clock=stage.now), stage.now, stage.switch)
    assert [each.outcome.result for each in served(again, list) if each.outcome] == ["undo-verified"]
    assert stage.world.target.can_connect(POD)


def test_t21_whom_the_policy_protects_at_a_start_and_whose_undo_fails_is_tried_again_soon(tmp_path: Path) -> None:
    world = StubbornLab(lab().settings)
    stage = Stage(table("isolate_pod"), tmp_path, world)
    stage.alert()
    stage.service.adopt(table("isolate_pod", protected=["user:alice"]))
    world.stubborn = False
    assert stage.tick(UNDO_AGAIN) == ["undo-verified"]


def test_anchors_that_cannot_be_kept_are_told_and_hold_up_no_undo(tmp_path: Path) -> None:
    stage, kept, full = Stage(table("isolate_pod"), tmp_path), list[bytes](), [True]

    def keep(line: bytes) -> None:
        if full[0]:
            raise AnchorAway("anchors: No space left on device")
        kept.append(line)

    key = Key("a shared key that is long enough to be one")
    service = Service(stage.service.responder, stage.now, stage.switch, anchorer=Anchorer(stage.ledger, key, keep, rows=1))
    stage.service = service
    assert stage.tick() == ["an anchor of the ledger waits: anchors: No space left on device"]
    assert stage.alert() == ["verified"]
    assert stage.tick(2 * HOUR) == ["undo-verified"]
    full[0] = False
    assert stage.tick(SECOND) == ["the ledger is anchored again"]
    assert len(kept) == 1


# --- What only looks allowed -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "change",
    [{"time": T0 - HOUR}, {"probation": True}, {"signals": ["actor_rarity"]}],
    ids=["old", "probation", "one witness"],
)
def test_an_alert_that_might_not_begin_a_containment_does_not_make_one_longer(tmp_path: Path, change: dict[str, Any]) -> None:
    stage = Stage(replace(table("isolate_pod"), min_signals=2), tmp_path)
    stage.alert()
    stage.now.time += 10 * MINUTE
    assert stage.alert(**({"uid": "alert-2"} | change)) == ["already-contained"]
    assert stage.tick(TTL - 10 * MINUTE) == ["undo-verified"]


def test_an_alert_that_needs_people_does_not_make_a_containment_longer_without_them(tmp_path: Path) -> None:
    stage = Stage(approve(), tmp_path)
    stage.alert()
    stage.say("approve")
    stage.now.time += HOUR
    assert stage.alert(uid="alert-2") == ["already-contained"]
    assert stage.tick(3 * HOUR) == ["undo-verified"]


@pytest.mark.parametrize("word", ["release", "approve", "deny"])
def test_nobody_decides_on_what_is_about_them(tmp_path: Path, word: str) -> None:
    stage = Stage(table("isolate_pod") if word == "release" else approve(), tmp_path)
    stage.alert()
    for_them = stage.say(word, "user:alice")
    assert for_them[0].endswith("it is about user:alice, who has no say in it")
    assert stage.world.target.can_connect(POD) == (word != "release")


def test_an_approver_who_was_removed_does_not_count_any_more(tmp_path: Path) -> None:
    both = {"user:ann": Approver(), "user:bob": Approver()}
    stage = Stage(replace(approve(approvals=2), approvers=both), tmp_path)
    stage.alert()
    assert stage.say("approve") == ["approved"]
    stage.service.adopt(replace(approve(approvals=2), approvers={"user:bob": Approver(), "user:eve": Approver()}))
    assert stage.say("approve", "user:bob") == ["approved"]
    assert stage.world.target.can_connect(POD)
    assert stage.say("approve", "user:eve") == ["approved", "verified"]


def test_only_what_is_usual_for_a_blind_verb_is_no_sign_of_trouble(tmp_path: Path) -> None:
    stage = Stage(replace(table("isolate_pod"), breaker=Breaker(wrong=1)), tmp_path)
    policy = stage.service.responder.policy
    policy.verbs["isolate_pod"] = replace(policy.verbs["isolate_pod"], blind=True)
    for result, opens in (("unverified", False), ("failed", True), ("", True)):
        stage.ledger.history.wrong = [Attempt(stage.now.time, "isolate_pod", POD, "a", result)]
        assert stage.alert(uid=f"a-{result}", targets=["pod:team-a/trainer-1"])[0] == ("breaker-open" if opens else "verified"), result
        stage.now.time += 3 * HOUR
        stage.tick()
        stage.ledger.history.wrong = []


def test_whoever_has_no_account_here_vouches_for_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "1.json").write_bytes(b"{}")
    monkeypatch.setattr(feeds, "_unmapped", os.geteuid)

    async def all_of() -> list[Delivery]:
        return [each async for each in decisions_in(tmp_path, follow=False)]

    assert [each.vouched for each in asyncio.run(all_of())] == [""]


# --- An attack that goes on --------------------------------------------------------------------------------------------------------


def test_an_attack_that_goes_on_is_contained_for_longer_and_anew_after_the_end(tmp_path: Path) -> None:
    stage = Stage(table("isolate_pod"), tmp_path)
    stage.alert()
    stage.now.time += HOUR
    assert stage.alert(revision=2) == ["already-contained"]
    assert stage.tick(TTL - SECOND) == [], "it lasts from the later revision"
    assert stage.tick(SECOND) == ["undo-verified"]
    assert stage.alert(revision=3) == ["verified"]
    assert not stage.world.target.can_connect(POD)
    actions = [each.action for each in stage.rows() if each.result == "enforced"]
    assert actions == [action_id("alert-1", "isolate_pod", POD, attempt) for attempt in (0, 1)]


def test_a_revision_that_might_not_begin_a_containment_does_not_make_its_own_longer(tmp_path: Path) -> None:
    stage = Stage(table("isolate_pod"), tmp_path)
    stage.alert()
    stage.now.time += HOUR
    assert stage.alert(revision=2, probation=True) == ["unchanged"]
    assert stage.tick(TTL - HOUR) == ["undo-verified"]


def test_what_has_failed_is_tried_anew_with_a_later_revision(tmp_path: Path) -> None:
    world = Weather(Applied("failed", "no", Trouble("refused")))
    stage = Stage(table("isolate_pod"), tmp_path, world)
    assert stage.alert() == ["failed"]
    assert stage.alert(revision=2) == ["cooling-down"]
    stage.now.time += 5 * MINUTE
    assert stage.alert(revision=3, severity=5) == ["verified"]


def test_what_a_person_released_is_not_contained_anew_by_the_same_alert(tmp_path: Path) -> None:
    stage = Stage(table("isolate_pod"), tmp_path)
    stage.alert()
    stage.say("release")
    stage.now.time += HOUR
    assert stage.alert(revision=2, severity=5) == ["unchanged"]
    assert stage.alert(uid="alert-2") == ["verified"], "another alert is another matter"


def test_what_failed_leaves_no_later_end_behind(tmp_path: Path) -> None:
    stage = Stage(table("isolate_pod"), tmp_path, Weather(down(), Applied("failed", "no", Trouble("refused"))))
    stage.alert()
    stage.now.time += SECOND
    stage.ledger.append([replace(stage.rows()[0], action="other", alert="other", result="already-contained", due=T0 + 20 * HOUR)])
    assert stage.tick(MINUTE) == ["failed"]
    stage.now.time += HOUR
    stage.alert(uid="alert-3")
    assert next(iter(stage.ledger.history.holds.values())).due == stage.now.time + TTL


# --- What cannot be done, and what is under way --------------------------------------------------------------------------------------


def without_adapters(stage: Stage, respond: Respond) -> Service:
    """The same, after a restart without any adapter."""
    return Service(Responder(respond, [], stage.ledger, offered(), clock=stage.now), stage.now, stage.switch)


def test_a_verb_that_nobody_can_do_is_not_begun_and_spends_nothing(tmp_path: Path) -> None:
    stage = Stage(table("isolate_pod"), tmp_path)
    stage.service = without_adapters(stage, table("isolate_pod"))
    for i in range(4):
        assert stage.alert(uid=f"a{i}") == ["none"]
    assert stage.rows()[0].reason == "no adapter for isolate_pod is set up"
    assert (stage.ledger.history.attempts, stage.ledger.history.wrong) == ([], [])


def test_what_is_under_way_when_its_adapter_is_taken_away_comes_to_an_end(tmp_path: Path) -> None:
    stage = Stage(table("isolate_pod"), tmp_path, Weather(down()))
    assert stage.alert() == ["retrying"]
    stage.service = without_adapters(stage, table("isolate_pod"))
    assert stage.tick(MINUTE) == ["withdrawn"]
    assert stage.ledger.history.pending == {}


def test_what_may_have_arrived_when_its_adapter_is_taken_away_is_taken_back_when_it_is_there_again(tmp_path: Path) -> None:
    blind = Verified("unverified", "no connection")
    stage = Stage(table("isolate_pod"), tmp_path, Weather(Applied("unknown", "half a reply", Trouble("down")), seen=(blind,)))
    assert stage.alert() == ["retrying"]
    whole, stage.service = stage.service, without_adapters(stage, table("isolate_pod"))
    assert stage.tick(MINUTE) == ["unverified"]
    assert stage.tick(TTL) == ["undo-failed"]
    stage.service = whole
    assert stage.tick(UNDO_AGAIN) == ["undo-verified"]
    assert stage.world.target.can_connect(POD)


@pytest.mark.parametrize("word", ["deny", "release"])
def test_what_is_tried_again_can_be_denied_and_released(tmp_path: Path, word: str) -> None:
    world = Weather(down(), down())
    stage = Stage(table("isolate_pod"), tmp_path, world)
    assert stage.alert() == ["retrying"]
    action = stage.rows()[0].action
    assert stage.say(word, action=action) == ["denied" if word == "deny" else "", "withdrawn"]
    assert stage.rows()[-1].reason == f"{'denied' if word == 'deny' else 'released'} by user:ann: because"
    assert stage.tick(HOUR) == []
    assert (world.calls, stage.alert(revision=2)) == (1, ["unchanged"])


def test_what_is_tried_again_and_has_arrived_is_taken_back_when_it_is_denied(tmp_path: Path) -> None:
    stage = Stage(table("isolate_pod"), tmp_path, Weather(Applied("unknown", "half a reply", Trouble("down"))))
    assert stage.alert() == ["retrying"]
    assert stage.say("deny", action=stage.rows()[0].action) == ["denied", "verified", "undo-verified"]
    assert stage.world.target.can_connect(POD)


# --- Clocks and switches that are not as they should be ------------------------------------------------------------------------------


@pytest.mark.parametrize("drift", [-HOUR, -2 * MINUTE, 2 * MINUTE, HOUR])
@pytest.mark.parametrize("word", ["approve", "deny", "release"])
def test_a_decision_counts_by_the_wall_clock_too_and_a_drift_is_told(tmp_path: Path, drift: int, word: Any) -> None:
    stage = Stage(table("isolate_pod") if word == "release" else approve(), tmp_path)
    stage.service.wall = lambda: stage.now.time + drift
    (told, _) = stage.alert()
    assert told.startswith(f"the wall clock is {drift // SECOND:+d} seconds from the responder's time")
    record = encode(made(stage.rows()[0].action, word, "user:ann", stage.now.time + drift + SECOND))
    first, *_ = stage.results(stage.service.take(Delivery("decision", record, "d", "user:ann")))
    assert first == {"approve": "approved", "deny": "denied", "release": ""}[word]
    assert stage.tick() == [], "told once"
    stage.service.wall = stage.now
    assert stage.tick() == ["the wall clock and the responder's time are the same again"]


def test_a_kill_switch_whose_folder_is_missing_or_that_is_a_link_to_nothing_is_on(tmp_path: Path) -> None:
    assert Switch(str(tmp_path / "stop"))() == ""
    assert "its folder is missing" in Switch(str(tmp_path / "gone" / "stop"))()
    (tmp_path / "stop").symlink_to(tmp_path / "gone")
    assert "a link to nothing" in Switch(str(tmp_path / "stop"))()


def test_the_file_of_the_kill_switch_is_the_present_policys(tmp_path: Path) -> None:
    stage = Stage(table("isolate_pod"), tmp_path)
    (tmp_path / "other").write_text("enough\n")
    stage.service.adopt(replace(table("isolate_pod"), kill_switch_file=str(tmp_path / "other")))
    assert stage.alert() == ["kill switch on: enough", "stopped"]


@pytest.mark.parametrize("uid", ["a\x00b", "a\nb", "a\u00a0b", "x" * 201])
def test_an_alert_whose_id_a_ledger_would_not_keep_to_the_letter_is_refused(tmp_path: Path, uid: str) -> None:
    stage = Stage(table("isolate_pod"), tmp_path)
    (said,) = stage.alert(uid=uid)
    assert "refused" in said
    assert stage.rows() == []
