"""Large pieces of memory that are filled in place.

Most of the time that it takes to hand over a large table goes into touching fresh memory, page by page: on
Linux the system is asked for large pages.
"""

from __future__ import annotations

import ctypes
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["blank_bytes", "encode_in_place", "encode_to_bytes"]

_MADV_HUGEPAGE = 14
_LARGE = 2**22
"""From so many bytes on large pages are worth asking for."""
_PAGE = 4096


def blank_bytes(size: int) -> tuple[bytes, memoryview]:
    """A bytes object of *size* bytes and a view through which its maker fills it, before anybody else has it.

    It is what C code does, too: https://docs.python.org/3/c-api/bytes.html#c.PyBytes_FromStringAndSize.
    """
    if sys.implementation.name != "cpython":
        raise NotImplementedError("bytes can be filled in place in CPython only")
    make, locate = ctypes.pythonapi.PyBytes_FromStringAndSize, ctypes.pythonapi.PyBytes_AsString
    make.restype, make.argtypes = ctypes.py_object, [ctypes.c_void_p, ctypes.c_ssize_t]
    locate.restype, locate.argtypes = ctypes.c_void_p, [ctypes.py_object]
    data: bytes = make(None, size)
    address = locate(data)
    if sys.platform == "linux" and size >= _LARGE:
        start = -(-address // _PAGE) * _PAGE
        length = (address + size - start) // _PAGE * _PAGE
        # What the system does not grant changes nothing but the time.
        ctypes.CDLL(None).madvise(ctypes.c_void_p(start), ctypes.c_size_t(length), _MADV_HUGEPAGE)
    return data, memoryview((ctypes.c_char * size).from_address(address)).cast("B")


def encode_in_place(table: pa.Table) -> memoryview:
    """The table as an Arrow IPC stream, in memory of the right size from the start."""
    import pyarrow as pa

    buffer = pa.allocate_buffer(_stream_size(table))
    _write_stream(table, pa.FixedSizeBufferWriter(buffer))
    return memoryview(buffer)


def encode_to_bytes(table: pa.Table) -> bytes:
    """The same as bytes, which can be pickled, without a copy on the way."""
    import pyarrow as pa

    data, view = blank_bytes(_stream_size(table))
    _write_stream(table, pa.FixedSizeBufferWriter(pa.py_buffer(view)))
    return data


def _stream_size(table: pa.Table) -> int:
    import pyarrow as pa

    counter = pa.MockOutputStream()
    _write_stream(table, counter)
    return int(counter.size())


def _write_stream(table: pa.Table, sink: pa.NativeFile) -> None:
    import pyarrow as pa

    from batchrun.data.table import batches_of

    with pa.ipc.new_stream(sink, table.schema) as writer:
        for batch in batches_of(table):
            writer.write_batch(batch)
