"""Admission: only calls that carry the run's token get in; where the others came from is logged once."""

from __future__ import annotations

import asyncio
import hmac
import logging
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Any

import grpc

from ps.wire.client import TOKEN
from ps.wire.codec import Traffic

HEAR_OUT_SECONDS = 2.0
STRANGERS_NAMED = 1000
_STRANGER = "wrong or missing run token"

log = logging.getLogger("distbelief.wire")


class Admission:
    """Compares tokens, in a time that says nothing about them.

    Args:
        token: The run's token.
        traffic: Where calls without it are counted.
    """

    def __init__(self, token: str, traffic: Traffic) -> None:
        self._token = token.encode()
        self._traffic = traffic
        self._strangers: set[str] = set()  # peers that were named in the log

    async def admit(self, context: Any, requests: AsyncIterator[bytes] | None = None) -> None:
        """Return if this call may go on; otherwise end it. `requests`: what the caller sends, if it sends a stream."""
        given = dict(context.invocation_metadata() or ()).get(TOKEN, "")
        if hmac.compare_digest(str(given).encode(), self._token):
            return
        self.turn_away(context.peer().rpartition(":")[0])  # without the port: another one for every connection
        if requests is not None:
            await hear_out(requests)
        await context.abort(grpc.StatusCode.UNAUTHENTICATED, _STRANGER)

    def turn_away(self, peer: str) -> None:
        """Count somebody who has no token, and name the address in the log, once."""
        self._traffic.unauthenticated += 1
        if peer not in self._strangers and len(self._strangers) < STRANGERS_NAMED:
            self._strangers.add(peer)
            log.warning("refused a call without the run's token, from %s; more from there are only counted", peer)


async def hear_out(requests: AsyncIterator[bytes]) -> None:
    """Let a caller finish before it is refused: grpc.aio takes its failure to send for the answer, and misses ours."""
    with suppress(TimeoutError):
        async with asyncio.timeout(HEAR_OUT_SECONDS):
            async for _ in requests:
                pass
