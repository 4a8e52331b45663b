r"""Finds out whether bytes are text, and in which encoding. Pure: it reads what its caller passes, piece by piece.

Valid UTF-8 is always text. Text with a few invalid bytes stays text, with escapes such as `\xe9` in their place.
"""

from __future__ import annotations

import codecs
import re
import unicodedata
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Final

HEAD_BYTES: Final = 1 << 16  # examined for a byte order mark and for UTF-16 without one
MAX_INVALID_SHARE: Final = 0.01  # of the bytes of a text: more of them mean another encoding, or no text
FEW_INVALID: Final = 3  # in a short text, so many bytes may be invalid,
FEW_INVALID_SHARE: Final = 1 / 8  # up to this share
MIN_UTF16_BYTES: Final = 8  # shorter data is too little evidence for UTF-16 without a byte order mark
MIN_UTF16_ASCII: Final = 1 / 32  # share of ASCII characters (blanks, line ends, digits) in UTF-16 text of any script
MIN_UTF16_CONTROLS: Final = 0.8  # share of controls in every second byte, if the data is valid UTF-8 as well
BOMS: Final = (  # UTF-32 first: its little-endian mark begins with that of UTF-16
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
_NAMES: Final = {
    "utf-16-le": "UTF-16 (little-endian)",
    "utf-16-be": "UTF-16 (big-endian)",
    "utf-32-le": "UTF-32 (little-endian)",
    "utf-32-be": "UTF-32 (big-endian)",
}
_TEXT_CONTROLS: Final = b"\a\b\t\n\v\f\r\x1b"  # ESC begins the colours of terminal output
_OTHER_CONTROLS: Final = bytes(code for code in range(32) if code not in _TEXT_CONTROLS)
_HIGH_BYTES: Final = bytes(range(128, 256))
_MARK: Final = 0xDC00  # the error handler turns byte b into the lone surrogate U+DC00 + b, which no decoder yields
_MARKED: Final = re.compile("[\udc00-\udcff]")
_HANDLER: Final = "rlm-mark"


def _mark(error: UnicodeError) -> tuple[str, int]:
    assert isinstance(error, UnicodeDecodeError)
    return "".join(chr(_MARK + byte) for byte in error.object[error.start : error.end]), error.end


codecs.register_error(_HANDLER, _mark)


@dataclass(frozen=True, slots=True, kw_only=True)
class Decoding:
    """What some bytes are.

    Attributes:
        encoding: name of the codec; None for data that is not text.
        bom: size of the byte order mark, which is removed.
        size: size of the text in UTF-8; of other data as it is.
        invalid: number of bytes that are not valid in the encoding. Text shows each as an escape.
        example: the first of these escapes.
        eight_bit: whether data that is not text may be text in an 8-bit encoding such as Latin-1.
    """

    encoding: str | None
    size: int
    bom: int = 0
    invalid: int = 0
    example: str = ""
    eight_bit: bool = False

    @property
    def is_plain(self) -> bool:
        """Whether the bytes are valid UTF-8 without a byte order mark, or not text at all."""
        return self.encoding is None or (self.encoding == "utf-8" and not self.bom and not self.invalid)


def find_decoding(read: Callable[[], Iterable[bytes]]) -> Decoding:
    """Find the encoding of data.

    Args:
        read: yields the data from its beginning. It is called up to three times.
    """
    head = _head(read())
    for bom, encoding in BOMS:
        if head.startswith(bom) and (found := _measure(read(), encoding, bom=len(bom))):
            return found
    guess = _utf16_without_bom(head)
    if guess and (found := _measure(read(), guess)) and found.invalid < 2:  # one byte at the end may be cut off
        return found
    return _measure(read(), "utf-8") or _not_text(read())


def decoded(chunks: Iterable[bytes], decoding: Decoding) -> Iterator[bytes]:
    """The text of data, in UTF-8. Each piece is at most four times the size of its chunk."""
    assert decoding.encoding is not None
    for _, encoded in _decode(_without(chunks, decoding.bom), decoding.encoding):
        yield encoded


def decode_text(data: bytes) -> tuple[str | None, Decoding]:
    """The text of data, or None, and how it was decoded."""
    decoding = find_decoding(lambda: (data,))
    if decoding.encoding is None:
        return None, decoding
    return b"".join(decoded((data,), decoding)).decode("utf-8"), decoding


def describe(decoding: Decoding, subject: str) -> tuple[str, ...]:
    """What was done to read data, as sentences about `subject`; none for plain data."""
    if decoding.encoding is None:
        guess = f"{subject} is not UTF-8. It may be text in an 8-bit encoding such as Latin-1."
        return (guess,) if decoding.eight_bit else ()
    shown = invalid_bytes(decoding.invalid, decoding.example)
    match decoding.encoding:
        case "utf-8" if decoding.invalid:
            return (f"{subject} was decoded as UTF-8; {shown}.",)
        case "utf-8" if decoding.bom:
            return (f"{subject} began with a byte order mark, which was removed.",)
        case "utf-8":
            return ()
    return (f"{subject} was decoded from {_NAMES[decoding.encoding]}" + (f"; {shown}." if shown else "."),)


def invalid_bytes(count: int, example: str) -> str:
    """How invalid bytes are shown, as a clause; empty without any."""
    match count:
        case 0:
            return ""
        case 1:
            return f"1 invalid byte is shown as {example}"
    return f"{count:,} invalid bytes are shown as escapes such as {example}"


def _head(chunks: Iterable[bytes]) -> bytes:
    return next(iter(chunks), b"")[:HEAD_BYTES]


def _without(chunks: Iterable[bytes], bom: int) -> Iterator[bytes]:
    """The chunks without the byte order mark at their beginning. The first one is small: it settles most cases."""
    for number, chunk in enumerate(chunks):
        if number == 0:
            yield chunk[bom : bom + HEAD_BYTES]
            chunk = chunk[bom + HEAD_BYTES :]
        if chunk:
            yield chunk


def _decode(chunks: Iterable[bytes], encoding: str) -> Iterator[tuple[str, bytes]]:
    """Yield the escapes of invalid bytes and the text in UTF-8, chunk by chunk. The last pair is what was cut off."""
    decoder = codecs.getincrementaldecoder(encoding)(_HANDLER)
    for chunk in chunks:
        yield _escape(decoder.decode(chunk))
    yield _escape(decoder.decode(b"", True))


def _escape(text: str) -> tuple[str, bytes]:
    try:
        return "", text.encode("utf-8")
    except UnicodeEncodeError:
        marks = "".join(_MARKED.findall(text))
        return marks, _MARKED.sub(lambda mark: f"\\x{ord(mark[0]) - _MARK:02x}", text).encode("utf-8")


def _measure(chunks: Iterable[bytes], encoding: str, *, bom: int = 0) -> Decoding | None:
    """The decoding of data in an encoding; None if it is not such text."""
    source = size = 0

    def counted() -> Iterator[bytes]:
        nonlocal source
        for chunk in _without(chunks, bom):
            source += len(chunk)
            yield chunk

    invalid, cut, controls, example = 0, 0, False, ""
    for marks, encoded in _decode(counted(), encoding):
        size += len(encoded)
        controls = controls or len(encoded.translate(None, _OTHER_CONTROLS)) < len(encoded)
        invalid, cut = invalid + len(marks), len(marks)
        example = example or (f"\\x{ord(marks[0]) - _MARK:02x}" if marks else "")
        if controls and (invalid or encoding != "utf-8"):
            return None
        if source >= HEAD_BYTES and not _few(invalid, source):
            return None  # no need to read a large file to its end
    # `cut` counts the bytes of a last character that is incomplete: they say nothing against the encoding.
    if invalid and (invalid == source or not _few(invalid - cut, source)):
        return None
    return Decoding(encoding=encoding, bom=bom, size=size, invalid=invalid, example=example)


def _few(invalid: int, size: int) -> bool:
    return invalid <= size * MAX_INVALID_SHARE or (invalid <= FEW_INVALID and invalid <= size * FEW_INVALID_SHARE)


def _not_text(chunks: Iterable[bytes]) -> Decoding:
    size, head = 0, b""
    for chunk in chunks:
        size += len(chunk)
        head = head or chunk[:HEAD_BYTES]
    return Decoding(encoding=None, size=size, eight_bit=_may_be_text(head))


def _may_be_text(head: bytes) -> bool:
    """Whether data may be text in an encoding whose first half is ASCII: no controls, and ASCII for the most part."""
    is_clean = len(head.translate(None, _OTHER_CONTROLS)) == len(head)
    return is_clean and 2 * len(head.translate(None, _HIGH_BYTES)) >= len(head) > 0


def _utf16_without_bom(head: bytes) -> str:
    """The byte order of UTF-16 text, by the zero bytes of its ASCII characters; empty if it is none."""
    head = head[: len(head) // 2 * 2]
    if len(head) < MIN_UTF16_BYTES:
        return ""
    even, odd = head[::2].count(0), head[1::2].count(0)
    if min(even, odd) > 0 or max(even, odd) < MIN_UTF16_ASCII * len(head) / 2:
        return ""
    high = head[1::2] if odd else head[::2]  # the high bytes of the characters
    if _is_utf8(head) and len(high.translate(None, _OTHER_CONTROLS)) > (1 - MIN_UTF16_CONTROLS) * len(high):
        return ""
    encoding = "utf-16-le" if odd else "utf-16-be"
    text = codecs.getincrementaldecoder(encoding)(_HANDLER).decode(head)  # its last character may go on
    unlikely = ("Cc", "Cn", "Co", "Cs")  # controls, and what is unassigned, private, or half a pair
    if sum(char.isascii() for char in text) < MIN_UTF16_ASCII * len(text):
        return ""
    plausible = all(char in "\t\n\f\r\x1b" or unicodedata.category(char) not in unlikely for char in set(text))
    return encoding if plausible else ""


def _is_utf8(head: bytes) -> bool:
    try:
        codecs.getincrementaldecoder("utf-8")().decode(head)
    except UnicodeDecodeError:
        return False
    return True
