"""The few records of the MCAP container that the episode store needs (https://mcap.dev/spec, version 0).

A file is ``magic, Header, Chunk, Chunk, …, DataEnd, Footer, magic``. Every record is
``opcode (1 byte), length (8), content``, integers little-endian. Here each chunk is uncompressed
and holds either declarations (schemas, channels, metadata) or exactly one message, so that the
chunk's CRC-32 guards every message on its own and a crash costs at most the message being written.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from typing import NamedTuple, TypeAlias

from zlib_ng.zlib_ng import crc32, crc32_combine

Buffer: TypeAlias = bytes | memoryview

MAGIC = b"\x89MCAP0\r\n"
HEADER, FOOTER, SCHEMA, CHANNEL, MESSAGE, CHUNK, METADATA, DATA_END = 1, 2, 3, 4, 5, 6, 12, 15

RECORD = struct.Struct("<BQ")  # opcode, length
CHUNK_HEAD = struct.Struct("<QQQII0sQ")  # first time, last time, size, CRC-32, length of "" (compression), "", size
MESSAGE_HEAD = struct.Struct("<HIQQ")  # channel, sequence, log time, publish time (ns)
SKIM = RECORD.size + CHUNK_HEAD.size + RECORD.size + MESSAGE_HEAD.size  # bytes up to a message's data


class McapError(ValueError):
    """Bytes that are not the MCAP records expected here; the text names the fault."""


class Message(NamedTuple):
    """``data`` on ``channel``; ``sequence`` counts per channel, ``log_time`` in ns since 1970."""

    channel: int
    sequence: int
    log_time: int
    data: Buffer


def _string(text: str) -> bytes:
    data = text.encode()
    return struct.pack("<I", len(data)) + data


def _strings(pairs: Mapping[str, str]) -> bytes:
    body = b"".join(_string(key) + _string(value) for key, value in pairs.items())
    return struct.pack("<I", len(body)) + body


def record(opcode: int, content: bytes) -> bytes:
    """One record of any kind."""
    return RECORD.pack(opcode, len(content)) + content


def header(library: str) -> bytes:
    """The first bytes of a file."""
    return MAGIC + record(HEADER, _string("") + _string(library))


def ending() -> bytes:
    """The last bytes of a file without a summary section."""
    return record(DATA_END, bytes(4)) + record(FOOTER, bytes(20)) + MAGIC


def schema(number: int, name: str, encoding: str, text: str) -> bytes:
    """A schema record; channels refer to it by ``number``, which starts at 1."""
    data = text.encode()
    content = struct.pack("<H", number) + _string(name) + _string(encoding) + struct.pack("<I", len(data)) + data
    return record(SCHEMA, content)


def channel(number: int, schema_number: int, topic: str, encoding: str, pairs: Mapping[str, str]) -> bytes:
    """A channel record; messages refer to it by ``number``."""
    content = struct.pack("<HH", number, schema_number) + _string(topic) + _string(encoding) + _strings(pairs)
    return record(CHANNEL, content)


def metadata(name: str, pairs: Mapping[str, str]) -> bytes:
    """A metadata record."""
    return record(METADATA, _string(name) + _strings(pairs))


def chunk(records: bytes) -> bytes:
    """A chunk of declarations."""
    return _chunk_head(0, len(records), crc32(records)) + records


def message_chunk_head(message: Message, data_crc: int) -> bytes:
    """Everything of a chunk with one message up to its data, whose CRC-32 is known and which follows as it is."""
    length = MESSAGE_HEAD.size + len(message.data)
    inner = RECORD.pack(MESSAGE, length) + MESSAGE_HEAD.pack(
        message.channel, message.sequence, message.log_time, message.log_time
    )
    crc = crc32_combine(crc32(inner), data_crc, len(message.data))
    return _chunk_head(message.log_time, RECORD.size + length, crc) + inner


def _chunk_head(time: int, size: int, crc: int) -> bytes:
    return RECORD.pack(CHUNK, CHUNK_HEAD.size + size) + CHUNK_HEAD.pack(time, time, size, crc, 0, b"", size)


def chunk_records(content: Buffer) -> memoryview:
    """The records inside a chunk's content. Raises `McapError` if compressed, truncated or damaged."""
    view = memoryview(content)
    if len(view) < CHUNK_HEAD.size:
        raise McapError(f"chunk of {len(view)} bytes is too short")
    _, _, size, crc, name_length, _, length = CHUNK_HEAD.unpack_from(view)
    if name_length:
        raise McapError("compressed chunk: this store writes none; decompress the file with `mcap compress` first")
    inner = view[CHUNK_HEAD.size :]
    if size != length or length != len(inner):
        raise McapError(f"chunk announces {length} bytes and holds {len(inner)}")
    if crc32(inner) != crc:
        raise McapError("chunk with a wrong CRC")
    return inner


def split(view: memoryview) -> list[tuple[int, memoryview]]:
    """``(opcode, content)`` of each record in ``view``. Raises `McapError` if it ends within one."""
    found: list[tuple[int, memoryview]] = []
    while len(view):
        if len(view) < RECORD.size:
            raise McapError("truncated record")
        opcode, length = RECORD.unpack_from(view)
        if length > len(view) - RECORD.size:
            raise McapError(f"record {opcode} announces {length} bytes, {len(view) - RECORD.size} are there")
        found.append((opcode, view[RECORD.size : RECORD.size + length]))
        view = view[RECORD.size + length :]
    return found


def parse_message(content: Buffer) -> Message:
    """The content of a message record; its data is a view. Raises `McapError` if truncated."""
    view = memoryview(content)
    if len(view) < MESSAGE_HEAD.size:
        raise McapError("truncated message")
    number, sequence, log_time, _ = MESSAGE_HEAD.unpack_from(view)
    return Message(number, sequence, log_time, view[MESSAGE_HEAD.size :])


def parse_channel(content: Buffer) -> tuple[int, dict[str, str]]:
    """``(number, metadata)`` of a channel record."""
    reader = _Reader(content)
    number, _ = reader.unpack("<HH")
    reader.string()
    reader.string()
    return number, reader.strings()


def parse_metadata(content: Buffer) -> tuple[str, dict[str, str]]:
    """``(name, pairs)`` of a metadata record."""
    reader = _Reader(content)
    return reader.string(), reader.strings()


class _Reader:
    """Reads the fields of one record in their order. Raises `McapError` past its end."""

    def __init__(self, content: Buffer) -> None:
        self._view = memoryview(content)

    def take(self, size: int) -> bytes:
        if size > len(self._view):
            raise McapError(f"field of {size} bytes, {len(self._view)} are left")
        data, self._view = bytes(self._view[:size]), self._view[size:]
        return data

    def unpack(self, form: str) -> tuple[int, ...]:
        return struct.unpack(form, self.take(struct.calcsize(form)))

    def string(self) -> str:
        (length,) = self.unpack("<I")
        try:
            return self.take(length).decode()
        except UnicodeDecodeError as error:
            raise McapError(f"text that is not UTF-8: {error}") from error

    def strings(self) -> dict[str, str]:
        (length,) = self.unpack("<I")
        inner = _Reader(self.take(length))
        pairs: dict[str, str] = {}
        while len(inner._view):
            key = inner.string()
            pairs[key] = inner.string()
        return pairs
