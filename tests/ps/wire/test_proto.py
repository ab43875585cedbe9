"""The committed Python modules say what the committed .proto files say."""

from __future__ import annotations

import sys
from pathlib import Path
from subprocess import run

import pytest
from google.protobuf.descriptor_pb2 import FileDescriptorProto, FileDescriptorSet

from ps.wire import gateway_pb2 as gateway
from ps.wire import parameter_server_pb2 as pb

ROOT = Path(pb.__file__).parents[2]
PROTO = "ps/wire/parameter_server.proto"
PROTOS = {PROTO: pb.DESCRIPTOR, "ps/wire/gateway.proto": gateway.DESCRIPTOR}


def compiled(root: Path, out: Path, proto: str = PROTO) -> FileDescriptorProto:
    command = [sys.executable, "-m", "grpc_tools.protoc", f"-I{root}", f"--descriptor_set_out={out}", proto]
    made = run(command, cwd=root, capture_output=True, text=True, check=False)
    assert made.returncode == 0, made.stderr
    (file,) = FileDescriptorSet.FromString(out.read_bytes()).file
    return file


def committed(proto: str = PROTO) -> FileDescriptorProto:
    file = FileDescriptorProto()
    PROTOS[proto].CopyToProto(file)
    return file


def plain(file: FileDescriptorProto) -> str:
    """As text, without the names that compilers of some versions derive and others leave out."""
    copy = FileDescriptorProto()
    copy.CopyFrom(file)
    messages = list(copy.message_type)
    while messages:
        message = messages.pop()
        messages += message.nested_type
        for field in message.field:
            field.ClearField("json_name")
    return str(copy)


@pytest.mark.parametrize("proto", PROTOS)
def test_the_generated_module_is_current(tmp_path: Path, proto: str) -> None:
    """If not, with grpcio-tools 1.62: python -m grpc_tools.protoc -I. --python_out=. --pyi_out=. PROTO."""
    assert plain(committed(proto)) == plain(compiled(ROOT, tmp_path / "set", proto))


def test_a_change_to_the_proto_would_be_seen(tmp_path: Path) -> None:
    changed = tmp_path / PROTO
    changed.parent.mkdir(parents=True)
    text = (ROOT / PROTO).read_text()
    assert "REFUSAL_LENGTH = 1;" in text
    changed.write_text(text.replace("REFUSAL_LENGTH = 1;", "REFUSAL_LENGHT = 1;"))
    assert plain(committed()) != plain(compiled(tmp_path, tmp_path / "set"))
