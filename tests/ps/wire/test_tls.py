"""TLS: only who trusts the run's certificate gets through, and only to servers that hold its key."""

from __future__ import annotations

import socket
from dataclasses import replace
from pathlib import Path

import pytest

from ps.errors import BadInput, PeerLost
from ps.messages import Exchanged
from ps.wire import tls
from ps.wire.client import Peer
from ps.wire.files import SUFFIX, JournalWriter
from ps.wire.mailbox import SharedVectors
from ps.wire.server import Gate, MachineServer
from ps.wire.tls import Identity
from tests.ps.wire.test_server import SECONDS, SHARD, TOKEN_HERE, N, World, exchange, shard, world

__all__ = ["world"]  # a fixture

OURS = tls.made()


@pytest.fixture
def guarded(world: World) -> World:
    """A shard that speaks TLS."""
    journal = JournalWriter(world.folder / f"shard-0{SUFFIX}", "run", "shard-0")
    server = MachineServer(shard(), Gate(TOKEN_HERE, {0: N}, OURS), journal, lambda: 0.0)
    world.servers[SHARD] = server
    world.targets[SHARD] = server.start("127.0.0.1")
    world.peers[SHARD] = peer(world, OURS)
    return world


def peer(world: World, identity: Identity | None) -> Peer:
    return world.loop.call(lambda: Peer(world.targets[SHARD], TOKEN_HERE, SharedVectors(), identity=identity))


def works(world: World, identity: Identity) -> None:
    world.loop.run(world.peers[SHARD].close())
    world.peers[SHARD] = peer(world, identity)
    assert isinstance(world.exchange(exchange(1, 0)), Exchanged)
    assert world.status(SHARD).version == 1


def lost(world: World, identity: Identity | None) -> None:
    stranger = peer(world, identity)
    with pytest.raises(PeerLost, match="UNAVAILABLE"):
        world.loop.run(stranger.exchange(exchange(1, 0), SECONDS))
    world.loop.run(stranger.close())


def test_the_run_s_own_get_through_without_the_key(guarded: World) -> None:
    works(guarded, Identity(OURS.certificate, name=OURS.name))


def test_another_run_s_certificate_and_plaintext_do_not(guarded: World) -> None:
    lost(guarded, tls.made())
    lost(guarded, None)
    lost(guarded, replace(OURS, name="elsewhere"))
    works(guarded, OURS)


def test_tls_to_a_plain_port_is_lost(world: World) -> None:
    world.serve(SHARD, shard(), {0: N})
    lost(world, OURS)
    assert isinstance(world.exchange(exchange(1, 0)), Exchanged)


@pytest.mark.parametrize(
    "data", [b"", b"GET / HTTP/1.1\r\n\r\n", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", bytes(1000), b"\x16\x03\x01\xff\xff"]
)
def test_plain_bytes_to_a_tls_port_do_nothing(guarded: World, data: bytes) -> None:
    host, _, port = guarded.targets[SHARD].rpartition(":")
    with socket.create_connection((host, int(port)), SECONDS) as connection:
        connection.sendall(data)
        connection.shutdown(socket.SHUT_WR)
        connection.settimeout(SECONDS)
        while connection.recv(1 << 16):
            pass
    works(guarded, OURS)


def test_the_key_is_not_shown() -> None:
    assert OURS.key
    assert OURS.key.decode().splitlines()[1] not in repr(OURS)


# --- certificates of one's own ---------------------------------------------------------------------------------------


def files(folder: Path, certificate: bytes, key: bytes) -> tuple[Path, Path]:
    (folder / "c.pem").write_bytes(certificate)
    (folder / "k.pem").write_bytes(key)
    return folder / "c.pem", folder / "k.pem"


def test_a_certificate_of_ones_own_is_taken_with_its_name(tmp_path: Path) -> None:
    assert tls.given(*files(tmp_path, OURS.certificate, OURS.key)) == OURS


@pytest.mark.parametrize(
    ("certificate", "key", "said"),
    [
        (b"", OURS.key, "expected a PEM certificate"),
        (b"garbage", OURS.key, "expected a PEM certificate"),
        (OURS.certificate, b"garbage", "expected a PEM certificate"),
        (OURS.certificate, tls.made().key, r"cluster\.key: got .*, expected the key of "),
    ],
)
def test_what_is_no_certificate_with_its_key_is_refused(
    tmp_path: Path, certificate: bytes, key: bytes, said: str
) -> None:
    with pytest.raises(BadInput, match=said):
        tls.given(*files(tmp_path, certificate, key))


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"cannot read .*nowhere: No such file"):
        tls.given(tmp_path / "nowhere", tmp_path / "nowhere")
