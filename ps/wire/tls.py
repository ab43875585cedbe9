"""TLS: a certificate for one run, which every actor shows and every client trusts, it and no other.

Whoever holds the key is part of the run. It lives in memory and travels with the run's specification, never to disk.
"""

from __future__ import annotations

import os
import ssl
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

import grpc

from ps.errors import BadInput

NAME = "distbelief"  # in certificates that are made here; hosts' own names change, and say nothing about a run
DAYS = 365


@dataclass(frozen=True, slots=True)
class Identity:
    """What a run's servers prove themselves with.

    Attributes:
        certificate: PEM; clients trust it.
        key: Its private key, PEM; empty at a client.
        name: A DNS name that the certificate is for.
    """

    certificate: bytes
    key: bytes = field(default=b"", repr=False)
    name: str = NAME

    def server_credentials(self) -> grpc.ServerCredentials:
        """For a port that listens."""
        return grpc.ssl_server_credentials([(self.key, self.certificate)])

    def channel(self, target: str, options: list[tuple[str, int]]) -> grpc.aio.Channel:
        """A connection to a server with this identity."""
        credentials = grpc.ssl_channel_credentials(self.certificate)
        named = [*options, ("grpc.ssl_target_name_override", self.name)]
        return grpc.aio.secure_channel(target, credentials, options=named)

    def server_context(self) -> ssl.SSLContext:
        """The same for a socket that listens. The ssl module reads keys from files only: it gets one in memory."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        with open(os.memfd_create("distbelief-key", os.MFD_CLOEXEC), "wb") as file:
            file.write(self.certificate + b"\n" + self.key)
            file.flush()
            context.load_cert_chain(f"/proc/self/fd/{file.fileno()}")
        return context

    def client_context(self) -> ssl.SSLContext:
        """The same for a socket that connects; to be told `name`."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.load_verify_locations(cadata=self.certificate.decode())
        context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN  # trusted as it is, whoever signed it
        return context


def made() -> Identity:
    """A new certificate with a new key, signed by itself."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, NAME)])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))  # clocks of a cluster differ
        .not_valid_after(now + timedelta(days=DAYS))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(NAME)]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    plain = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    return Identity(certificate.public_bytes(pem), key.private_bytes(pem, *plain))


def given(certificate: Path, key: Path) -> Identity:
    """A certificate of the user's own, with whatever signed it behind it in the same file, and its key; both PEM.

    Raises:
        BadInput: A file is unreadable or not what it must be, or the certificate names no DNS name.
    """
    from cryptography import x509
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    try:
        chain, secret = certificate.read_bytes(), key.read_bytes()
    except OSError as error:
        raise BadInput(f"cluster.certificate, cluster.key: cannot read {error.filename}: {error.strerror}") from error
    try:
        first = x509.load_pem_x509_certificate(chain)
        names = first.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        (name, *_) = names.get_values_for_type(x509.DNSName)
        fits = load_pem_private_key(secret, None).public_key() == first.public_key()
    except (ValueError, TypeError, x509.ExtensionNotFound) as error:
        expected = "a PEM certificate with a DNS name, and its PEM key without a password"
        got = f"{certificate} and {key} ({error})"
        raise BadInput(f"cluster.certificate, cluster.key: got {got}, expected {expected}") from error
    if not fits:
        raise BadInput(f"cluster.key: got {key}, expected the key of {certificate}")
    return Identity(chain, secret, name)
