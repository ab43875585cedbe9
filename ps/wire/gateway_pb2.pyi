from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Mapping as _Mapping, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Guest(_message.Message):
    __slots__ = ("hello", "journal")
    HELLO_FIELD_NUMBER: _ClassVar[int]
    JOURNAL_FIELD_NUMBER: _ClassVar[int]
    hello: Hello
    journal: bytes
    def __init__(self, hello: _Optional[_Union[Hello, _Mapping]] = ..., journal: _Optional[bytes] = ...) -> None: ...

class Hello(_message.Message):
    __slots__ = ("workers", "version")
    WORKERS_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    workers: int
    version: str
    def __init__(self, workers: _Optional[int] = ..., version: _Optional[str] = ...) -> None: ...

class Welcome(_message.Message):
    __slots__ = ("run", "config", "first_worker", "parameters", "data")
    RUN_FIELD_NUMBER: _ClassVar[int]
    CONFIG_FIELD_NUMBER: _ClassVar[int]
    FIRST_WORKER_FIELD_NUMBER: _ClassVar[int]
    PARAMETERS_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    run: str
    config: str
    first_worker: int
    parameters: int
    data: str
    def __init__(self, run: _Optional[str] = ..., config: _Optional[str] = ..., first_worker: _Optional[int] = ..., parameters: _Optional[int] = ..., data: _Optional[str] = ...) -> None: ...

class ResizeRequest(_message.Message):
    __slots__ = ("add",)
    ADD_FIELD_NUMBER: _ClassVar[int]
    add: int
    def __init__(self, add: _Optional[int] = ...) -> None: ...

class ResizeReply(_message.Message):
    __slots__ = ("workers",)
    WORKERS_FIELD_NUMBER: _ClassVar[int]
    workers: int
    def __init__(self, workers: _Optional[int] = ...) -> None: ...
