"""What can be done to a Keycloak account: end its logins, disable it, ask for more at the next login."""

from __future__ import annotations

from connectors.containment import Action, Applied, Prepared, Snapshot, Trouble, Verb, Verified
from connectors.containment._doing import OneWay, kept
from connectors.containment._http import CallFailed
from connectors.containment._keycloak_api import SERVICE_ACCOUNT, Api, User
from connectors.containment._keycloak_realm import ONCE_MORE, TOKENS_LIVE, since
from connectors.containment._marked import Marked, unsure


class _Account:
    """What the verbs on one account have in common."""

    def __init__(self, api: Api, token_seconds: float) -> None:
        self.api = api
        self._token_seconds = token_seconds

    def find(self, action: Action) -> User:
        """The account ``prepare`` saw, or the one of that name; never our own. Raises CallFailed."""
        known = kept(action).get("id")
        user = self.api.user_by(str(known)) if known else self.api.user(action.target)
        if user.username == f"{SERVICE_ACCOUNT}{self.api.client_id}".lower():
            raise CallFailed("refused", "this is our own account")
        return user

    def residual(self, action: Action) -> str:
        """Until when issued tokens may still be taken."""
        return f"{TOKENS_LIVE}, at most {self._token_seconds:.0f} s from now"

    def alive(self, action: Action, user: User) -> Verified | None:
        """What of the sessions that ``prepare`` saw is still there; None where nothing is."""
        online = set(kept(action).get("sessions", ())) & set(self.api.sessions(user))
        offline = set(kept(action).get("offline", ())) & set(self.api.offline(user))
        if online or offline:
            return Verified("not-effective", f"{len(online)} sessions and {len(offline)} offline sessions live on")
        return None

    def snapshot(self, user: User) -> Snapshot:
        """Which account, and what of it lives."""
        return {"id": user.id, "sessions": self.api.sessions(user), "offline": self.api.offline(user)}


class RevokeSessions(OneWay, _Account):
    """End every session of a user, offline ones too; of a client's own account, every token."""

    verb = Verb(
        name="revoke_sessions",
        kinds=("user", "client"),
        undoable=False,
        residual=f"The account can log in again; {TOKENS_LIVE}.",
        needs=("realm-management: manage-users",),
    )

    def prepare(self, action: Action) -> Prepared:
        """See ``Doing``."""
        user = self.find(action)
        found = self.snapshot(user)
        live = len(found["sessions"]) + len(found["offline"])
        if not live and not self._tokens_may_live(action, user):
            return Prepared("already", "no live session, and no token from before this decision is accepted")
        return Prepared("ready", f"{live} sessions", {**found, "now": self.api.now()})

    def apply(self, action: Action) -> Applied:
        """See ``Doing``."""
        user = self.find(action)
        if self.alive(action, user) is None and not self._tokens_may_live(action, user):
            return Applied("already", "none of its sessions lives")
        self.api.log_out(user)
        try:
            user = self.find(action)
        except CallFailed as error:
            raise unsure(error) from None
        if self._tokens_may_live(action, user):
            return Applied("unknown", "tokens issued in this very second are still accepted", Trouble("busy", ONCE_MORE))
        return Applied("applied", "logged out", residual=self.residual(action))

    def verify(self, action: Action) -> Verified:
        """See ``Doing``."""
        user = self.find(action)
        if action.snapshot is None:
            action = Action(id=action.id, verb=action.verb, target=action.target, time=action.time, snapshot=self.snapshot(user))
        alive = self.alive(action, user)
        if alive is not None:
            return alive
        if self._tokens_may_live(action, user):
            return Verified("not-effective", "tokens from before the decision are still accepted", again=ONCE_MORE)
        return Verified("verified", "none of its sessions lives")

    def _tokens_may_live(self, action: Action, user: User) -> bool:
        """Whether tokens without a session, which only a robot's account has, are accepted although they are older than the action."""
        return user.is_robot and user.not_before <= since(action)


class RevokeOffline(OneWay, _Account):
    """End the offline sessions of a user: the tokens that programs keep for months. Sessions of people go on."""

    verb = Verb(
        name="revoke_offline",
        kinds=("user",),
        undoable=False,
        residual=f"Other sessions go on, and the account can log in again; {TOKENS_LIVE}.",
        needs=("realm-management: manage-users",),
    )

    def prepare(self, action: Action) -> Prepared:
        """See ``Doing``."""
        user = self.find(action)
        offline = self.api.offline(user)
        if not offline:
            return Prepared("already", "no offline session")
        return Prepared("ready", f"{len(offline)} offline sessions", {"id": user.id, "offline": offline})

    def apply(self, action: Action) -> Applied:
        """See ``Doing``."""
        user = self.find(action)
        if self.alive(action, user) is None:
            return Applied("already", "none of its offline sessions lives")
        self.api.end_offline(user)
        return Applied("applied", "offline sessions ended", residual=self.residual(action))

    def verify(self, action: Action) -> Verified:
        """See ``Doing``."""
        user = self.find(action)
        left = self.api.offline(user) if action.snapshot is None else []
        if left:
            return Verified("not-effective", f"{len(left)} offline sessions live")
        return self.alive(action, user) or Verified("verified", "none of its offline sessions lives")


class _Marks(_Account, Marked[User]):
    """A change of an account, noted in a group."""

    def noted(self, action: Action) -> bool:
        return bool(self.api.noted(action))

    def note(self, action: Action) -> None:
        self.api.note(action)

    def forget(self, action: Action) -> None:
        self.api.forget(action)

    def rest(self, action: Action, thing: User) -> None:
        if self.alive(action, thing) is not None:
            self.api.log_out(thing)

    def prepare(self, action: Action) -> Prepared:
        """See ``Doing``."""
        ready = super().prepare(action)
        if ready.snapshot is None:
            return ready
        return ready._replace(snapshot={**self.snapshot(self.find(action)), **ready.snapshot})


class DisableUser(_Marks):
    """Disable an account and end its sessions, so that its old tokens do not come to life when it is enabled again."""

    verb = Verb(
        name="disable_user",
        kinds=("user", "client"),
        undoable=True,
        residual=f"Its sessions stay ended when it is enabled again; {TOKENS_LIVE}.",
        needs=("realm-management: manage-users",),
    )

    def so(self, thing: User) -> str:
        return "" if thing.enabled else "the account is disabled"

    def read(self, thing: User) -> tuple[str, Snapshot]:
        return "", {"enabled": thing.enabled}

    def do(self, action: Action, thing: User) -> None:
        try:
            self.api.change(thing, enabled=False)
        except CallFailed as error:
            if error.trouble.kind != "refused":
                raise
            # Keycloak checks the whole profile, even where one field is written: an attribute that is required and missing keeps the
            # account enabled. Ending its sessions is what is left.
            self.api.log_out(thing)
            raise CallFailed("refused", f"its sessions are ended, but the account stays enabled: {error.reason}") from None
        self.api.log_out(thing)

    def take_back(self, action: Action, thing: User) -> None:
        # Tokens from before are dead only after a logout, and one in the middle of a crash may be missing.
        self.api.log_out(thing)
        self.api.change(thing, enabled=True)

    def seen(self, action: Action, thing: User) -> Verified:
        if thing.enabled:
            return Verified("not-effective", "the account is enabled")
        return self.alive(action, thing) or Verified("verified", "the account is disabled, and none of its sessions lives")


class RequireStepUp(_Marks):
    """Ask for another factor at the next login, and end the sessions, which would go on without."""

    verb = Verb(
        name="require_step_up",
        kinds=("user",),
        undoable=True,
        residual=f"Whoever holds the password can set the new factor up; sessions stay ended; {TOKENS_LIVE}.",
        needs=("realm-management: manage-users",),
    )

    def __init__(self, api: Api, token_seconds: float, step: str) -> None:
        super().__init__(api, token_seconds)
        self._step = step

    def so(self, thing: User) -> str:
        return f"{self._step} is asked for" if self._step in thing.required_actions else ""

    def read(self, thing: User) -> tuple[str, Snapshot]:
        if thing.is_robot:
            raise CallFailed("refused", "a client's own account never logs in by hand: nothing can be asked of it")
        return "", {"required_actions": thing.required_actions}

    def do(self, action: Action, thing: User) -> None:
        self.api.change(thing, requiredActions=[*thing.required_actions, self._step])
        missing = {*thing.required_actions, self._step} - {*self.api.user_by(thing.id).required_actions}
        if missing:
            # Keycloak drops an action that the realm does not know, without a word.
            self.api.change(thing, requiredActions=thing.required_actions)
            raise CallFailed("refused", f"the realm does not know the required action {', '.join(sorted(missing))}")
        self.api.log_out(thing)

    def take_back(self, action: Action, thing: User) -> None:
        self.api.change(thing, requiredActions=[one for one in thing.required_actions if one != self._step])

    def seen(self, action: Action, thing: User) -> Verified:
        if not self.so(thing):
            # Whoever did what was asked has it no longer on the list; that, too, is the effect, but it cannot be told from here.
            return Verified("not-effective", f"{self._step} is not asked for: never was, or was done")
        return self.alive(action, thing) or Verified("verified", f"{self._step} is asked for, and none of the sessions lives")
