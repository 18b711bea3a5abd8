"""Signals about workloads: GPU-hours, GPUs held at once, talk with the outside, and what the hardware can prove."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from connectors.event import Action, Stream
from models.kernels import HOUR, MINUTE
from models.signals import EXPECTED, SEEN, SURPRISE, USUAL, Signal
from models.signals.attestation import Attestation
from models.signals.egress import Egress
from models.signals.gpu_hours import GpuHours
from models.signals.hoarding import Hoarding
from models.signals.outward import Outward
from tests.signal_stage import SECOND, START, Events, Stage, events, joined

Make = Callable[[], Signal]


def _sorted(*parts: Events) -> Events:
    whole = joined(*parts)
    return whole.take(np.argsort(whole.time, kind="stable").tolist())


def _after(make: Make, past: Events) -> Stage:
    stage = Stage(make)
    stage.play(past)
    return stage


def _surprise(stage: Stage, given: Events) -> np.ndarray:
    return np.asarray(stage.probe(given)[0][SURPRISE])


def _jobs(
    action: Action, time: list[float], gpus: float | list[float], hours: float = np.nan, who: int = 1, pace: float = 1.0
) -> Events:
    """Jobs that start or end at hours since START."""
    many = np.array([START + int(each * HOUR) for each in time])
    held = np.broadcast_to(np.asarray(gpus, np.float64), len(many))
    return events(many, who, 500, stream=Stream.job, action=action, gpus=held, gpu_seconds=held * hours * 3600.0, pace=pace)


# --- GPU-hours ------------------------------------------------------------------------------------------------------------------------


def _users(days: int = 20, many: int = 12) -> Events:
    """People whose jobs end once or twice a day: two GPUs, some hours."""
    rng = np.random.default_rng(5)
    jobs = []
    for who in range(1, many + 1):
        for day in range(days):
            at = 24.0 * day + 9.0 + rng.random() * 9.0
            jobs.append(_jobs(Action.end, [at], 2.0, float(rng.lognormal(1.0, 0.6)), who))
    return _sorted(*jobs)


def test_a_job_a_hundred_times_the_usual_is_strange_and_a_usual_one_is_not() -> None:
    stage = _after(GpuHours, _users())
    usual, large = (_surprise(stage, _jobs(Action.end, [20 * 24 + 12], 2.0, hours))[0] for hours in (4.0, 400.0))
    assert usual < 1.0
    assert large > 4.0


def test_a_hundred_usual_jobs_within_a_day_are_as_strange_as_one_large() -> None:
    stage = _after(GpuHours, _users())
    many = [20 * 24 + hour / 10 for hour in range(100)]
    assert _surprise(stage, _jobs(Action.end, many, 2.0, 4.0)).max() > 4.0


def test_use_of_weeks_ago_does_not_add_up() -> None:
    stage = _after(GpuHours, _users())
    stage.play(_jobs(Action.end, [20 * 24], 2.0, 400.0))
    seen = stage.probe(_jobs(Action.end, [30 * 24], 2.0, 4.0))[0][SEEN, 0]
    assert seen == pytest.approx(8.0, rel=0.01)


def test_rows_that_tell_no_gpu_seconds_say_nothing() -> None:
    assert np.isnan(Stage(GpuHours).play(_jobs(Action.start, [0.0, 1.0], 8.0))).all()


def test_a_job_that_never_ran_is_not_strange() -> None:
    stage = _after(GpuHours, _users())
    stage.play(_jobs(Action.end, [20 * 24], 2.0, 400.0))
    assert _surprise(stage, _jobs(Action.end, [20 * 24 + 0.1], 2.0, 0.0))[0] == 0.0


def test_a_flood_of_small_jobs_is_one_lesson_an_hour() -> None:
    stage = _after(GpuHours, _users())
    before = stage.probe(_jobs(Action.end, [480.0], 2.0, 1.0))[0][EXPECTED, 0]
    stage.play(_jobs(Action.end, [480.0 + k / 10_000 for k in range(5000)], 64.0, 10.0))
    stage.play(_jobs(Action.end, [482.0], 2.0, 0.01))
    after = stage.probe(_jobs(Action.end, [483.0], 2.0, 1.0))[0][EXPECTED, 0]
    assert after < 1.3 * before


def test_heavy_users_are_used_to_themselves() -> None:
    rng = np.random.default_rng(6)
    heavy = _sorted(*[_jobs(Action.end, [24.0 * day + 12.0], 64.0, float(rng.lognormal(2.0, 0.4)), 77) for day in range(20)])
    stage = _after(GpuHours, _sorted(_users(), heavy))
    same = _jobs(Action.end, [20 * 24 + 12.0], 64.0, 8.0, 77)
    assert _surprise(stage, same)[0] < 1.5
    same.actor[:] = 1
    assert _surprise(stage, same)[0] > 4.0


def test_gpu_hours_are_told_with_what_would_be_normal() -> None:
    said = GpuHours().text(812.34, 3.21, 9.87, "user:ann", "-")
    assert said == "jobs of user:ann used 812 GPU-hours in the last day, 3.2 expected, up to 9.9 would be normal"


# --- hoarding -------------------------------------------------------------------------------------------------------------------------


def _tenants(days: int = 20) -> Events:
    """People who hold two GPUs for four hours a day, then give them back."""
    jobs = []
    for who in range(1, 9):
        for day in range(days):
            jobs.append(_jobs(Action.start, [24.0 * day + 9 + who / 10], 2.0, who=who))
            jobs.append(_jobs(Action.end, [24.0 * day + 13 + who / 10], 2.0, 4.0, who=who))
    return _sorted(*jobs)


def test_holding_many_at_once_is_strange_and_each_in_turn_is_not() -> None:
    stage = _after(Hoarding, _tenants())
    at_once = _jobs(Action.start, [480.0 + k / 60 for k in range(24)], 2.0)
    in_turn = _sorted(
        _jobs(Action.start, [480.0 + k for k in range(24)], 2.0), _jobs(Action.end, [480.5 + k for k in range(24)], 2.0, 0.5)
    )
    assert _surprise(stage, at_once).max() > 4.0
    assert _surprise(stage, in_turn).max() < 1.0


def test_what_is_given_back_is_not_held_and_never_below_nothing() -> None:
    stage = Stage(Hoarding)
    stage.play(_jobs(Action.start, [0.0], 8.0))
    ended = stage.play(_jobs(Action.end, [1.0, 1.1], [8.0, 8.0], 1.0))
    assert ended[SEEN].tolist() == [pytest.approx(0.0, abs=0.1), 0.0]
    assert ended[SURPRISE].max() == 0.0


def test_a_job_that_failed_gives_its_gpus_back_too() -> None:
    stage = _after(Hoarding, _jobs(Action.start, [0.0], 8.0))
    failed = _jobs(Action.end, [1.0], 8.0, 1.0)
    failed.refused[:] = 1.0
    assert stage.play(failed)[SEEN, 0] < 0.1


def test_where_no_end_is_ever_told_what_is_held_does_not_grow_for_ever() -> None:
    made = _jobs(Action.create, [float(hour) for hour in range(24 * 120)], 1.0)
    out = Stage(Hoarding).play(made)
    assert out[SEEN, -1] < 1.05 * out[SEEN, 24 * 60]
    assert out[SURPRISE, 24 * 30 :].max() < 1.5


def test_a_request_that_was_refused_holds_nothing_but_is_seen() -> None:
    stage = _after(Hoarding, _tenants())
    wish = _jobs(Action.start, [480.0], 512.0)
    wish.refused[:] = 1.0
    out, state = stage.probe(wish)
    assert out[SURPRISE, 0] > 4.0
    assert state == stage.state()


def test_a_submission_counts_only_where_starts_are_not_told() -> None:
    stage = _after(Hoarding, _tenants())
    assert np.isnan(_surprise(stage, _jobs(Action.submit, [480.0], 512.0))).all()
    stage = _after(Hoarding, _jobs(Action.submit, [24.0 * day for day in range(20)], 2.0))
    assert _surprise(stage, _jobs(Action.submit, [480.0], 512.0))[0] > 3.0


def test_only_ends_that_are_told_are_never_strange() -> None:
    ends = _jobs(Action.end, [float(hour) for hour in range(200)], 8.0, 1.0)
    assert Stage(Hoarding).play(ends)[SURPRISE].max() == 0.0


def test_rows_of_other_acts_say_nothing() -> None:
    assert np.isnan(Stage(Hoarding).play(_jobs(Action.read, [0.0], 8.0))).all()
    assert np.isnan(Stage(Hoarding).play(_jobs(Action.start, [0.0], np.nan))).all()


def test_what_is_held_is_told_with_what_would_be_normal() -> None:
    assert Hoarding().text(64.2, 2.04, 3.5, "user:ann", "-") == "user:ann holds 64 GPUs at once, 2 expected, up to 4 would be normal"


# --- egress to the outside ------------------------------------------------------------------------------------------------------------


def _sent(hours: range, moved: float, outside: bool = False) -> Events:
    return events([START + int(hour * HOUR) for hour in hours], 1, 300, stream=Stream.flow, moved=moved, outward=outside)


def test_what_moves_within_the_site_is_no_cover_for_what_leaves_it() -> None:
    past = _sorted(_sent(range(200), 400e9), _sent(range(200), 1e6, outside=True))
    theft = _sent(range(200, 201), 60e9, outside=True)
    both, alone = _surprise(_after(Egress, past), theft)[0], _surprise(_after(lambda: Egress(outside=True), past), theft)[0]
    assert both < 1.0
    assert alone > 6.0
    assert np.isnan(_surprise(_after(lambda: Egress(outside=True), past), _sent(range(200, 201), 60e9))).all()
    assert "sent to the outside" in Egress(outside=True).text(15.0, 0.1, 0.2, "sa:bio/loader", "ip:203.0.113.9")


# --- outward --------------------------------------------------------------------------------------------------------------------------


def _flows(hours: range, who: int = 1, outside: bool | np.ndarray = False, each: int = 3, pace: float = 1.0) -> Events:
    """Some flows an hour."""
    time = np.array([START + int(hour * HOUR + k * MINUTE) for hour in hours for k in range(each)])
    return events(time, who, 300, stream=Stream.flow, action=Action.connect, outward=outside, moved=1e4, pace=pace)


def _site() -> Events:
    """Nine workloads that stay inside for a fortnight, and one that calls out all day."""
    inside = [_flows(range(14 * 24), who) for who in range(1, 10)]
    return _sorted(*inside, _flows(range(14 * 24), 10, outside=True))


LATER = range(14 * 24, 14 * 24 + 1)


def test_a_workload_that_never_did_and_now_talks_to_the_outside_is_strange() -> None:
    stage = _after(Outward, _site())
    assert _surprise(stage, _flows(LATER, 1, outside=True)).min() > 4.0
    assert _surprise(stage, _flows(LATER, 10, outside=True)).max() < 0.2
    assert _surprise(stage, _flows(LATER, 1)).max() == 0.0


def test_the_longer_it_stayed_inside_the_stranger() -> None:
    said = [
        _surprise(_after(Outward, _flows(range(hours))), _flows(range(hours + 1, hours + 2), outside=True))[0] for hours in (2, 20, 200)
    ]
    assert said == sorted(said)
    assert said[-1] > said[0] + 2.0


def test_a_flood_to_the_outside_is_one_hour() -> None:
    stage = _after(Outward, _site())
    said = stage.play(_flows(LATER, 1, outside=True, each=59))[SURPRISE]
    # The first row alone does not yet know the hour before it.
    assert np.ptp(said) < 0.01
    again = _surprise(stage, _flows(range(LATER.stop, LATER.stop + 1), 1, outside=True))[0]
    assert again > 0.7 * said[0]


def test_throw_away_identities_do_not_make_the_outside_usual() -> None:
    stage = _after(Outward, _site())
    before = _surprise(stage, _flows(LATER, 1, outside=True))[0]
    crowd = events(
        START + int(LATER.start * HOUR) + np.arange(5000) * SECOND // 2, np.arange(1000, 6000), stream=Stream.flow, outward=True
    )
    stage.play(crowd)
    assert _surprise(stage, _flows(range(LATER.start + 1, LATER.start + 2), 1, outside=True))[0] == pytest.approx(before, abs=0.1)


def test_a_newcomer_is_judged_by_everyone() -> None:
    alone = _surprise(_after(Outward, _site()), _flows(LATER, 99, outside=True))[0]
    among_callers = _after(Outward, _sorted(*[_flows(range(200), who, outside=True) for who in range(1, 5)]))
    assert 1.5 < alone < 4.0
    assert _surprise(among_callers, _flows(range(201, 202), 99, outside=True))[0] < 0.1


def test_other_streams_say_nothing_of_the_outside() -> None:
    assert np.isnan(Stage(Outward).play(events([START], stream=Stream.registry, outward=True))).all()


def _log_ins(hours: range, who: int = 1, outside: bool = False) -> Events:
    time = np.array([START + int(hour * HOUR) for hour in hours])
    return events(time, who, 300, stream=Stream.auth, action=Action.login, outward=outside)


def test_a_log_in_from_outside_is_strange_where_people_work_inside_and_only_there() -> None:
    def calls() -> Outward:
        return Outward(calls=True)

    office = _sorted(*[_log_ins(range(300), who) for who in range(1, 10)])
    assert _surprise(_after(calls, office), _log_ins(range(301, 302), 1, outside=True))[0] > 4.0
    remote = _sorted(*[_log_ins(range(300), who, outside=True) for who in range(1, 10)])
    assert _surprise(_after(calls, remote), _log_ins(range(301, 302), 1, outside=True))[0] < 0.2
    # Flows are the trade of the other.
    assert np.isnan(Stage(calls).play(_flows(range(1), outside=True))).all()
    assert "user:ann comes from ip:203.0.113.9, which is outside" in calls().text(0.0, 0.1, 200.0, "user:ann", "ip:203.0.113.9")


def test_calling_out_is_sooner_usual_inside_an_announced_change() -> None:
    said = []
    for pace in (1.0, 4.0):
        stage = _after(Outward, _site())
        stage.play(_flows(range(LATER.start, LATER.start + 6), 1, outside=True, pace=pace))
        said.append(_surprise(stage, _flows(range(LATER.start + 8, LATER.start + 9), 1, outside=True))[0])
    assert said[1] < said[0] - 0.7


def test_the_outside_is_told_with_the_hours_and_with_everyone() -> None:
    said = Outward().text(0.0, 8.0, 300.0, "job:a", "ip:8.8.8.8")
    assert (
        said == "job:a talks to ip:8.8.8.8, which is outside; in 0 of its 300 active hours it talked to the outside (everyone: 1 in 40)"
    )
    assert "in its first active hour (everyone: 1 in 10)" in Outward().text(0.0, 2.0, 0.0, "job:a", "ip:8.8.8.8")


# --- attestation ----------------------------------------------------------------------------------------------------------------------

NODES = range(601, 611)


def _attests(hours: list[float], node: int = 601, failed: bool = False) -> Events:
    time = [START + int(hour * HOUR) for hour in hours]
    return events(time, 50, node, stream=Stream.attestation, action=Action.attest, refused=float(failed))


def _starts(hours: list[float], node: int = 601, action: Action = Action.start, stream: Stream = Stream.job) -> Events:
    return events([START + int(hour * HOUR) for hour in hours], 1, node, stream=stream, action=action)


def _attested_site(days: int = 10) -> Events:
    """Ten nodes attested every eight hours, with work started on each every hour."""
    parts = []
    for node in NODES:
        parts.append(_attests([8.0 * k for k in range(3 * days)], node))
        parts.append(_starts([0.1 + hour for hour in range(24 * days)], node))
    return _sorted(*parts)


END = 240.0


def test_work_on_a_node_whose_attestation_failed_ran_out_or_never_was_is_strange() -> None:
    stage = _after(Attestation, _attested_site())
    good = _surprise(stage, _starts([END]))[0]
    stale = _surprise(stage, _starts([END + 24.0]))[0]
    never = _surprise(stage, _starts([END], 699))[0]
    failed = _surprise(stage, joined(_attests([END], failed=True), _starts([END + 0.1])))[1]
    assert good == 0.0
    assert min(stale, never) > 3.0
    assert failed >= stale


@pytest.mark.parametrize(
    ("action", "stream"), [(Action.submit, Stream.job), (Action.exec, Stream.auth), (Action.release_key, Stream.attestation)]
)
def test_shells_submissions_and_keys_count_like_starts(action: Action, stream: Stream) -> None:
    stage = _after(Attestation, _attested_site())
    assert _surprise(stage, _starts([END], 699, action, stream))[0] > 3.0
    assert _surprise(stage, _starts([END], 601, action, stream))[0] == 0.0


def test_a_failed_attestation_is_strange_in_itself_and_a_good_one_heals() -> None:
    stage = _after(Attestation, _attested_site())
    assert stage.play(_attests([END], failed=True))[SURPRISE, 0] > 3.0
    assert stage.play(_starts([END + 0.1]))[SURPRISE, 0] > 3.0
    assert stage.play(_attests([END + 0.2]))[SURPRISE, 0] == 0.0
    assert stage.play(_starts([END + 0.3]))[SURPRISE, 0] == 0.0


def test_where_nobody_attests_nothing_is_said_or_learned() -> None:
    stage = Stage(Attestation)
    empty = stage.state()
    assert np.isnan(stage.play(_starts([float(hour) for hour in range(500)]))).all()
    assert stage.state() == empty


def test_a_site_that_stopped_attesting_falls_silent() -> None:
    stage = _after(Attestation, _attested_site())
    assert not np.isnan(_surprise(stage, _starts([END + 9 * 24.0])))[0]
    assert np.isnan(_surprise(stage, _starts([END + 11 * 24.0])))[0]


def test_queues_and_pods_that_nobody_attests_are_not_strange() -> None:
    queues = _sorted(*[_starts([0.5 + hour for hour in range(240)], queue) for queue in range(700, 730)])
    stage = _after(Attestation, _sorted(_attested_site(), queues))
    assert _surprise(stage, _starts([END], 700))[0] < 0.3
    # Nor is a new queue; but a node that always attested still is.
    assert _surprise(stage, _starts([END], 799))[0] < 0.5
    assert _surprise(stage, _starts([END + 24.0], 601))[0] > 2.0


def test_an_attestation_without_an_outcome_proves_nothing() -> None:
    stage = Stage(Attestation)
    unknown = _attests([0.0])
    unknown.refused[:] = np.nan
    assert np.isnan(stage.play(unknown)).all()
    assert np.isnan(stage.play(_starts([1.0]))).all()


def test_a_flood_of_work_on_a_failed_node_is_one_hour() -> None:
    stage = _after(Attestation, _attested_site())
    stage.play(_attests([END], failed=True))
    said = stage.play(_starts([END + 0.1 + k / 10_000 for k in range(2000)]))[SURPRISE]
    assert np.ptp(said) == 0.0
    assert stage.play(_starts([END + 2.0]))[SURPRISE, 0] > 0.7 * said[0]


def test_flows_and_reads_are_none_of_its_business() -> None:
    stage = _after(Attestation, _attested_site())
    other = events([START + int(END * HOUR)], 1, 699, stream=Stream.flow, action=Action.connect)
    assert np.isnan(stage.play(other)).all()


@pytest.mark.parametrize(
    ("seen", "usual", "words"),
    [
        (31.0, 24.0, "user:ann used node:gpu-07, which attested 31 hours ago, 24 at most are good; that is so in 1.00% of such hours"),
        (490_000.0, 24.0, "user:ann used node:gpu-07, which has never attested; that is so in 1.00% of such hours"),
        (3.0, 0.0, "the last attestation of node:gpu-07 failed, and user:ann was at it; that is so in 1.00% of such hours"),
        (3.0, 24.0, "node:gpu-07 attested 3 hours ago, which is good for 24 hours"),
        (0.0, 0.0, "node:gpu-07 has just attested"),
    ],
)
def test_an_attestation_is_told_in_words(seen: float, usual: float, words: str) -> None:
    assert Attestation().text(seen, 0.01, usual, "user:ann", "node:gpu-07") == words


def test_what_is_said_in_numbers_is_said_in_the_same_words() -> None:
    stage = _after(Attestation, _attested_site())
    never = stage.probe(_starts([END], 699))[0][:, 0]
    stale = stage.probe(_starts([END + 24.0]))[0][:, 0]
    failed = stage.play(_attests([END], failed=True))[:, 0]
    after = stage.probe(_starts([END + 1.0]))[0][:, 0]
    told = [Attestation().text(each[SEEN], each[EXPECTED], each[USUAL], "a", "b") for each in (never, stale, failed, after)]
    assert "never attested" in told[0]
    assert "hours ago" in told[1]
    assert "failed" in told[2]
    assert "failed" in told[3]


def test_a_day_is_not_needed_where_attestation_is_good_for_an_hour() -> None:
    stage = _after(lambda: Attestation(valid_hours=8.5), _attested_site())
    assert _surprise(stage, _starts([END - 1.0 / 60.0]))[0] == 0.0
    assert _surprise(stage, _starts([END + 2.0]))[0] > 3.0
