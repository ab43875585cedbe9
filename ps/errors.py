"""Errors: what a person reads when something cannot go on. One class per reaction of the caller.

A message is one line: what was wrong, got, expected.
"""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


class DistbeliefError(Exception):
    """Base of every error that a person is meant to read; its message is one clear line."""


class BadInput(DistbeliefError):  # noqa: N818 -- it says what happened, to whom it matters
    """The user can mend it: an option, a file or a setting is wrong. Commands exit with 2."""


def nearest(got: str, known: Iterable[str]) -> str:
    """Suggestion to append to a message: ' (did you mean "momentum"?)', or '' if nothing known is close."""
    close = get_close_matches(got, list(known), n=1)
    return f' (did you mean "{close[0]}"?)' if close else ""


def require(satisfied: bool, name: str, got: object, expected: str) -> None:
    """Raise BadInput unless a setting lies in its range. Write conditions so that NaN fails them: `0 <= x < 1`.

    Raises:
        BadInput: "NAME: got GOT, expected EXPECTED".
    """
    if not satisfied:
        raise BadInput(f"{name}: got {got!r}, expected {expected}")


class RunFailed(DistbeliefError):  # noqa: N818 -- as above
    """A run could not go on; nothing that was written before is harmed. Commands exit with 1."""


class NotWritten(RunFailed):
    """A process of a run could not read or write its files, on a full disk for example; mend that, then resume."""


class WireError(DistbeliefError):
    """Definite: bytes from outside are not what they claim to be; nothing was done with them."""


class PeerRefused(DistbeliefError):  # noqa: N818 -- as above
    """Definite: another actor refused a call, and nothing happened there. Asking again will not help."""


class PeerLost(DistbeliefError):  # noqa: N818 -- as above
    """Indefinite: another actor did not answer; it may have done what was asked. Ask again with the same number."""


class JournalDamaged(DistbeliefError):  # noqa: N818 -- as above
    """A journal is not what this program writes, or is damaged before its end."""


class SnapshotDamaged(DistbeliefError):  # noqa: N818 -- as above
    """A snapshot is not what this program writes, or was changed. An earlier one may be whole."""
