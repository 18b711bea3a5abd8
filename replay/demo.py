"""``tocsin demo``: a simulated week of an AI factory through the whole pipeline, with the lab as what is contained."""

from __future__ import annotations

import tempfile
from importlib import metadata
from pathlib import Path

import msgspec
from rich.progress import BarColumn, Progress, TextColumn

from connectors.alert import Alert
from connectors.containment.lab import Job, Lab, LabSettings, Pod, Session, State, Token, User
from connectors.names import identity
from detector.config import Config, parse
from detector.ledger import Ledger
from detector.respond import Outcome, Responder
from replay import screen
from replay.play import Plan, Summary, play
from replay.simulate import Truth, simulate
from replay.simulate.truth import INVENTORY, Inventory

#: The demo climbs the whole ladder, because the lab is all it can reach.
POLICY = """
[respond]
mode = "enforce"
protected = ["user:admin*", "sa:kube-system/*"]

[[respond.rules]]
name = "contain what two signals agree on"
match = { min_severity = "medium", min_signals = 2 }
actions = [
    { verb = "revoke_sessions", mode = "enforce", ttl_seconds = 14400 },
    { verb = "isolate_pod", mode = "enforce", ttl_seconds = 14400 },
    { verb = "suspend_job", mode = "enforce", ttl_seconds = 14400 },
]
"""

#: Outcomes worth a line of their own while it runs.
_TOLD = {
    "carried-out": "accepted by the lab",
    "already-so": "was so already",
    "failed": "failed",
    "verified": "done, and seen to hold",
    "unverified": "done, but not seen to hold",
    "not-effective": "done, without effect",
    "undone": "taken back",
    "undo-verified": "taken back, and seen to be gone",
    "undo-failed": "could not be taken back",
    "protected": "not touched",
    "limited": "held back",
}


def lab_of(known: Inventory) -> Lab:
    """The simulated factory as a lab: its users and accounts with their sessions and tokens, its pods, its jobs."""
    state = State()
    holders: list[tuple[str, list[str], list[str]]] = [
        *((identity("user", user.name), user.sessions, user.tokens) for user in known.users),
        *((identity("sa", f"{account.namespace}/{account.name}"), [], account.tokens) for account in known.service_accounts),
    ]
    for name, sessions, tokens in holders:
        state.users[name] = User()
        state.sessions |= {identity("session", session): Session(owner=name) for session in sessions}
        state.tokens |= {identity("token", token): Token(owner=name) for token in tokens}
    for pod in known.pods:
        state.pods[identity("pod", f"{pod.namespace}/{pod.name}")] = Pod(
            uid=pod.uid,
            ip=pod.ip,
            service_account=identity("sa", f"{pod.namespace}/{pod.service_account}"),
            owner=pod.owner,
            labels={"pod": pod.name},
        )
    for job in known.jobs:
        state.jobs[identity("job", job.id)] = Job(user=identity("user", job.user), state=job.state)
    return Lab(LabSettings(state=state))


class _Telling(Responder):
    """A responder that says what it did."""

    show: screen.Screen

    def handle(self, alert: Alert, now: int | None = None, *, replay: bool = False) -> list[Outcome]:
        """See ``Responder``."""
        return self._tell(super().handle(alert, now, replay=replay))

    def expire(self, now: int) -> list[Outcome]:
        """See ``Responder``."""
        return self._tell(super().expire(now))

    def _tell(self, outcomes: list[Outcome]) -> list[Outcome]:
        for outcome in outcomes:
            if outcome.result in _TOLD:
                why = f" ({outcome.reason})" if outcome.reason else ""
                self.show.say(f"      -> {outcome.verb} {outcome.target}: {_TOLD[outcome.result]}{why}")
        return outcomes


def _simulated(folder: Path, days: int, seed: int, scale: float, show: screen.Screen) -> Truth:
    show.say(f"simulating {days} days of an AI factory (seed {seed}), attacks on the last")
    if not show.console.is_terminal or show.quiet:
        return simulate(folder, days=days, seed=seed, scale=scale)
    with Progress(TextColumn("simulating"), BarColumn(), console=show.console, transient=True) as progress:
        task = progress.add_task("simulating", total=1.0)
        return simulate(folder, days=days, seed=seed, scale=scale, progress=lambda share: progress.update(task, completed=share))


def _caught(truth: Truth, alerts: list[Alert]) -> list[str]:
    """Per attack, the first alert that names someone behind it while it went on or soon after."""
    lines = []
    for attack in truth.attacks:
        # Alerts on the scene's own actors, from the first move to six hours after the last.
        involved = set(attack.actors)
        mine = [
            alert
            for alert in alerts
            if attack.first <= alert.time <= attack.last + 6 * 3_600_000_000
            and involved & {alert.blamed, *alert.principals, *alert.targets}
        ]
        if mine:
            first = min(mine, key=lambda alert: alert.time)
            lines.append(f"  {attack.name:17} alert {first.uid[:8]} {(first.time - attack.first) / 60e6:,.0f} min after it began")
        else:
            lines.append(f"  {attack.name:17} not alerted on")
    return lines


def run_demo(days: int, seed: int, scale: float, out: Path | None, json_: bool) -> Summary:
    """Simulate, replay, contain, sum up. ``out`` keeps the traces, the alerts and the ledger."""
    version = metadata.version("tocsin")
    config: Config = parse(POLICY)
    with tempfile.TemporaryDirectory(prefix="tocsin-demo-") as scratch:
        folder = out if out is not None else Path(scratch)
        folder.mkdir(parents=True, exist_ok=True)
        with screen.Screen(version, quiet=json_, title="detecting") as show:
            truth = _simulated(folder, days, seed, scale, show)
            show.say("compiling the detector's inner loops (only the first run takes long)")
            ledger_path = folder / "ledger.sqlite"
            ledger_path.unlink(missing_ok=True)
            lab = lab_of(msgspec.json.decode((folder / INVENTORY).read_bytes(), type=Inventory))
            with Ledger.at(ledger_path) as ledger:
                responder = _Telling(config.respond, [lab], ledger)
                responder.show = show
                plan = Plan(
                    paths=[folder / name for name in truth.records], config=config, version=version, alerts=folder / "alerts.jsonl"
                )
                summary = play(plan, responder, show)
                broken = ledger.verify_chain()
        screen.close(summary, json_=json_, to_stdout=False)
        if not json_:
            state = "intact" if broken is None else broken.reason
            where = f", in {ledger_path}" if out is not None else ""
            screen.page(["", "the attacks, and what came of them", *_caught(truth, show.opened), f"ledger      {state}{where}"])
    return summary
