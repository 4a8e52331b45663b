"""The streams of cells: in order, complete, and for one cell at a time."""

from __future__ import annotations

import io
import os
import threading
from collections.abc import Callable, Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlm_guest import streams
from rlm_guest.streams import BUFFER_BYTES, Output, for_callers_cell


@pytest.fixture
def cell(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """As if cell 1 ran in this thread."""
    monkeypatch.setattr(streams, "_running_cell", 1)
    token = streams._cell_of_context.set(1)
    yield
    streams._cell_of_context.reset(token)


def text_over(descriptor: int) -> tuple[Output, io.TextIOWrapper]:
    output = Output(descriptor, "<test>")
    text = io.TextIOWrapper(output)
    streams._configure(text)
    return output, text


PIECES = st.one_of(
    st.text(max_size=20), st.binary(max_size=20), st.sampled_from(["\n", "x" * BUFFER_BYTES, b"y" * 9000])
)


@given(st.lists(PIECES, max_size=30))
def test_text_and_bytes_arrive_complete_and_in_order(pieces: list[str | bytes]) -> None:
    with open(os.memfd_create("output"), "w+b") as file:
        output, text = text_over(file.fileno())
        for piece in pieces:
            assert (output.write(piece) if isinstance(piece, bytes) else text.write(piece)) == len(piece)
        output.flush()
        file.seek(0)
        shown = file.read()
    whole = b"".join(piece if isinstance(piece, bytes) else piece.encode(errors="backslashreplace") for piece in pieces)
    assert shown == whole


def run_in_thread(function: Callable[[], object]) -> None:
    thread = threading.Thread(target=function)
    thread.start()
    thread.join()


def test_work_belongs_to_the_cell_that_gave_it(cell: None, monkeypatch: pytest.MonkeyPatch) -> None:
    reader, writer = os.pipe()
    output, text = text_over(writer)
    first = for_callers_cell(lambda: text.write("first "))
    run_in_thread(first)
    monkeypatch.setattr(streams, "_running_cell", 2)
    second = for_callers_cell(lambda: text.write("second "))
    for work in (first, second, for_callers_cell(output.flush)):
        run_in_thread(work)
    os.close(writer)
    assert os.read(reader, 100) == b"first second "
    os.close(reader)


def test_closing_a_stream_keeps_it_open_for_later_cells(cell: None) -> None:
    reader, writer = os.pipe()
    output, text = text_over(writer)
    text.write("a")
    text.close()
    text.write("b")
    output.close()
    assert not output.closed
    assert os.read(reader, 100) == b"ab"
    os.close(reader)
    os.close(writer)
