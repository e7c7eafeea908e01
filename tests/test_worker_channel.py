"""Messages between worker and child, and what a child prints."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator

import pyarrow as pa
import pytest

from batchrun.data.buffers import blank_bytes, encode_in_place, encode_to_bytes
from batchrun.data.table import decode, encode
from batchrun.outcome import Cause
from batchrun.worker.capture import NEWS, Capture, HeadTail, chunk_logger
from batchrun.worker.channel import Channel, ChannelError, frame
from batchrun.worker.messages import Stop


@pytest.fixture
def ends() -> Iterator[tuple[Channel, Channel]]:
    there, back = os.pipe(), os.pipe()
    here, other = Channel(back[0], there[1]), Channel(there[0], back[1])
    yield here, other
    for channel in (here, other):
        channel.finish()
        channel.close_reader()


class TestAChannel:
    @pytest.mark.parametrize("size", [0, 1, 2**16, 2**20, 5_000_001])
    def test_carries_payloads_of_any_size(self, ends: tuple[Channel, Channel], size: int) -> None:
        payload = os.urandom(size)
        sender = threading.Thread(target=ends[0].send, args=(Stop(Cause.CANCEL), payload))
        sender.start()
        message, got = ends[1].receive()
        sender.join()
        assert message == Stop(Cause.CANCEL)
        assert type(got) is bytes
        assert got == payload

    def test_says_when_the_other_end_closed_it(self, ends: tuple[Channel, Channel]) -> None:
        ends[0].send(Stop(Cause.CANCEL))
        ends[0].finish()
        ends[1].receive()
        with pytest.raises(EOFError):
            ends[1].receive()
        with pytest.raises(BrokenPipeError):
            ends[0].send(Stop(Cause.CANCEL))

    @pytest.mark.parametrize("size", [3, 30, 200, 2_000_050])
    def test_refuses_half_a_message(self, ends: tuple[Channel, Channel], size: int) -> None:
        head, payload = frame(Stop(Cause.CANCEL), bytes(4_000_000))
        whole = memoryview(head + payload)[:size]

        def send() -> None:
            rest = whole
            while rest:
                rest = rest[os.write(ends[0].fds[1], rest) :]
            ends[0].finish()

        sender = threading.Thread(target=send)
        sender.start()
        with pytest.raises(ChannelError, match="closed"):
            ends[1].receive()
        sender.join()

    @pytest.mark.parametrize("garbage", [b"garbage" * 10, frame(1)[0][:20] + b"no pickle at all"])
    def test_refuses_garbage(self, ends: tuple[Channel, Channel], garbage: bytes) -> None:
        os.write(ends[0].fds[1], garbage)
        ends[0].finish()
        with pytest.raises(ChannelError):
            ends[1].receive()


def test_blank_bytes_are_ordinary_bytes_once_filled() -> None:
    data, view = blank_bytes(5_000_000)
    view[:] = b"x" * 5_000_000
    view.release()
    assert data == b"x" * 5_000_000
    assert hash(data) == hash(b"x" * 5_000_000)


@pytest.mark.parametrize(
    "table",
    [
        pa.table({"a": [1, 2], "b": ["x", None]}),
        pa.table({"a": pa.array([], pa.int64())}),
        pa.table({}),
        pa.table({"c": pa.array(["x", "y", "x"]).dictionary_encode()}),
        pa.concat_tables([pa.table({"a": [1]}), pa.table({"a": [2, 3]})]),
    ],
)
def test_a_table_encoded_in_place_is_the_same_stream(table: pa.Table) -> None:
    assert bytes(encode_in_place(table)) == encode_to_bytes(table) == encode(table)
    assert decode(bytes(encode_in_place(table))).equals(table)


class TestHeadTail:
    def test_keeps_a_short_text_whole(self) -> None:
        text = HeadTail(10, 10)
        for piece in (b"one ", b"two ", b"three"):
            text.add(piece)
        assert text.take() == "one two three"
        assert text.take() == ""

    @pytest.mark.parametrize("piece", [1, 7, 64, 10_000])
    def test_keeps_head_and_tail_of_a_long_one(self, piece: int) -> None:
        data = bytes(range(65, 91)) * 100
        text = HeadTail(10, 20)
        for start in range(0, len(data), piece):
            text.add(data[start : start + piece])
        taken = text.take()
        assert taken.startswith("ABCDEFGHIJ\n")
        assert taken.endswith("\n" + data[-20:].decode())
        assert f"{len(data) - 30} bytes left out" in taken

    def test_tells_what_is_new_once(self) -> None:
        text = HeadTail()
        text.add("grün ".encode()[:3])
        assert text.news() == "gr"
        text.add("grün ".encode()[3:])
        assert text.news() == "ün "
        assert text.news() == ""
        text.add(b"x" * 10 * NEWS)
        assert len(text.news()) == NEWS + 1


class TestACapture:
    def test_has_all_that_was_written_when_it_is_drained(self) -> None:
        read_fd, write_fd = os.pipe()
        capture = Capture(os.fdopen(read_fd, "rb", buffering=0))
        for number in range(300):
            os.write(write_fd, b"%d\n" % number)
            capture.drain()
            assert capture.text.take() == f"{number}\n"
        os.close(write_fd)
        capture.close()

    def test_lets_go_of_a_pipe_that_somebody_else_holds(self) -> None:
        read_fd, write_fd = os.pipe()
        pipe = os.fdopen(read_fd, "rb", buffering=0)
        capture = Capture(pipe)
        os.write(write_fd, b"last words")
        capture.close()
        assert capture.text.take() == "last words"
        capture.thread.join(5)
        assert pipe.closed
        os.close(write_fd)


def test_a_message_that_cannot_be_formatted_is_shown_as_it_was_given() -> None:
    lines: list[str] = []
    log = chunk_logger(lines.append)
    log.info("%d of %d", *["one"])
    log.debug("not shown")
    assert len(lines) == 1
    assert "'%d of %d'" in lines[0]
