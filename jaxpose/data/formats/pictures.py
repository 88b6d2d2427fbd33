"""What the bytes of a picture say undecoded: format, size, EXIF orientation, frames, and whether all of it is there.

JPEG, PNG, WebP, BMP, GIF and TIFF are known. Nothing here trusts a length or an offset: what points beyond the bytes is
as if it were not there.
"""

import dataclasses
import re
import struct
from collections.abc import Iterator

_JPEG_MARKER = re.compile(rb"\xff[\x01-\xcf\xd8-\xfe]")  # no stuffed byte, no fill byte, and no restart within a scan
_FRAME_HEADERS = set(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_TEMPORARY, _START, _END, _SCAN, _APP1 = 0x01, 0xD8, 0xD9, 0xDA, 0xE1
_EXIF = b"Exif\0\0"
_ORIENTATION, _WIDTH, _HEIGHT = 0x112, 0x100, 0x101  # tags
_TIFF_ORDERS = {b"II*\0": "<", b"MM\0*": ">"}
_TIFF_NUMBERS = {3: "H", 4: "I"}  # types of tags
_PNG_START = b"\x89PNG\r\n\x1a\n"

Size = tuple[int, int]

MOST_SEGMENTS = 10_000
"""Most segments of a JPEG that are looked at: pictures have some dozens."""


@dataclasses.dataclass(frozen=True)
class Header:
    """What a picture says about itself.

    Attributes:
      format: name of the format.
      size: (width, height) of the stored pixels; None where it is not among the bytes.
      orientation: how the stored pixels are to be turned, 1 to 8 as EXIF has it; 1 leaves them as they are. It is 1 for
        BMP and GIF, which have none, and for TIFF, which OpenCV turns.
      frames: number of frames; 2 stands for more than one in a TIFF.
    """

    format: str
    size: Size | None
    orientation: int = 1
    frames: int = 1

    @property
    def upright_size(self) -> Size | None:
        """(width, height) of the turned picture."""
        return (self.size[1], self.size[0]) if self.size and self.orientation > 4 else self.size


def header(data: bytes) -> Header | None:
    """The header of a picture, of which `data` are all bytes or the first; None for other formats."""
    if data.startswith(b"\xff\xd8"):
        return _jpeg_header(data)
    if data.startswith(_PNG_START):
        return _png_header(data)
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return _webp_header(data)
    if data.startswith(b"BM"):
        return Header("BMP", _bmp_size(data))
    if data[:6] in (b"GIF87a", b"GIF89a"):
        return Header("GIF", _numbers("<HH", data, 6), frames=max(1, sum(kind == 0x2C for kind in _gif_blocks(data))))
    if data[:4] in _TIFF_ORDERS:
        return _tiff_header(data)
    return None


def is_cut_off(data: bytes, of: Header) -> bool:
    """Whether a picture's end is missing, the part that some decoders would fill with grey or black."""
    if of.format == "JPEG":
        codes = [code for code, _, _ in _jpeg_segments(data)]
        return codes[-1:] != [_END] or _SCAN not in codes
    if of.format == "PNG":
        return not any(kind == b"IEND" for kind, _, _ in _chunks(data, len(_PNG_START), "big"))
    if of.format == "WebP":
        return 8 + int.from_bytes(data[4:8], "little") > len(data) + 1  # the last byte may be padding
    if of.format == "GIF":
        return not any(kind == 0x3B for kind in _gif_blocks(data))
    if of.format == "BMP":
        return _bmp_length(data) > len(data)
    return False


def exif_orientation(block: bytes) -> int:
    """The orientation, 1 to 8, that an EXIF block says; 1 if it says none."""
    found = _tags(block[len(_EXIF) :] if block.startswith(_EXIF) else block)[0].get(_ORIENTATION, 1)
    return found if 1 <= found <= 8 else 1


def _numbers(form: str, data: bytes, at: int) -> tuple | None:
    """Numbers at a place among the bytes; None where those end before."""
    part = data[at : at + struct.calcsize(form)]
    return struct.unpack(form, part) if len(part) == struct.calcsize(form) else None


# --- JPEG ---


def _jpeg_segments(data: bytes) -> Iterator[tuple[int, int, int]]:
    """(marker, begin, end) of the segments from the first to the end of the picture, whatever lies behind it.

    What is found inside a segment, such as the end of a thumbnail, is none; what lies between segments is skipped.
    """
    at = 2
    for _ in range(MOST_SEGMENTS):
        if (found := _JPEG_MARKER.search(data, at)) is None:
            return
        code, at = data[found.end() - 1], found.end()
        if code == _END:
            yield code, at, at
            return
        if code not in (_TEMPORARY, _START):
            end = at + max(2, int.from_bytes(data[at : at + 2], "big"))
            yield code, at + 2, end
            at = end


def _jpeg_header(data: bytes) -> Header:
    orientation = None
    for code, begin, end in _jpeg_segments(data):
        if code == _APP1 and orientation is None and data.startswith(_EXIF, begin):
            orientation = exif_orientation(data[begin:end])
        elif code in _FRAME_HEADERS:
            sides = _numbers(">HH", data, begin + 1)
            return Header("JPEG", sides[::-1] if sides else None, orientation or 1)
        elif code == _SCAN:
            break
    return Header("JPEG", None, orientation or 1)


# --- PNG and WebP ---


def _chunks(data: bytes, at: int, order: str) -> Iterator[tuple[bytes, int, int]]:
    """(type, begin, end) of the chunks that end among the bytes: a length, a type, the content, and what follows it."""
    while at + 8 <= len(data):
        first, second = data[at : at + 4], data[at + 4 : at + 8]
        length = int.from_bytes(first if order == "big" else second, "big" if order == "big" else "little")
        end = at + 8 + length
        if end > len(data):
            return
        yield second if order == "big" else first, at + 8, end
        at = end + (4 if order == "big" else length % 2)  # the check sum of PNG, the padding of RIFF


def _png_header(data: bytes) -> Header:
    size, orientation, frames = None, 1, 1
    for kind, begin, end in _chunks(data, len(_PNG_START), "big"):
        if kind == b"IHDR":
            size = size or _numbers(">II", data, begin)
        elif kind == b"eXIf":
            orientation = exif_orientation(data[begin:end])
        elif kind == b"acTL":
            frames = max(1, int.from_bytes(data[begin : begin + 4], "big"))
    return Header("PNG", size, orientation, frames)


def late_orientation(tail: bytes) -> int:
    """The orientation in the last bytes of a PNG, where some programs write it; 1 if there is none."""
    at = tail.rfind(b"eXIf")
    return exif_orientation(tail[at + 4 :]) if at >= 4 else 1


def _webp_header(data: bytes) -> Header:
    size, orientation, frames = None, 1, 0
    for kind, begin, end in _chunks(data, 12, "little"):
        if size is None and kind in (b"VP8X", b"VP8 ", b"VP8L"):
            size = _webp_size(kind, data[begin : begin + 10])
        elif kind == b"EXIF":
            orientation = exif_orientation(data[begin:end])
        elif kind == b"ANMF":
            frames += 1
    return Header("WebP", size or _webp_size(data[12:16], data[20:30]), orientation, max(1, frames))


def _webp_size(kind: bytes, content: bytes) -> Size | None:
    """The size in the first ten bytes of the chunk that begins a picture."""
    if len(content) < 10:
        return None
    if kind == b"VP8X":
        return 1 + int.from_bytes(content[4:7], "little"), 1 + int.from_bytes(content[7:10], "little")
    if kind == b"VP8L":
        bits = int.from_bytes(content[1:5], "little")
        return 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    width, height = struct.unpack("<HH", content[6:10])
    return width & 0x3FFF, height & 0x3FFF


# --- BMP ---


def _bmp_size(data: bytes) -> Size | None:
    if int.from_bytes(data[14:18], "little") == 12:
        return _numbers("<HH", data, 18)
    sides = _numbers("<ii", data, 18)
    return (abs(sides[0]), abs(sides[1])) if sides else None


def _bmp_length(data: bytes) -> int:
    """Number of bytes of a picture without compression; 0 where that cannot be said."""
    size, old = _bmp_size(data), int.from_bytes(data[14:18], "little") == 12
    kinds = _numbers("<H", data, 24) if old else _numbers("<HI", data, 28)
    if size is None or kinds is None or (not old and kinds[1] not in (0, 3)):
        return 0
    return int.from_bytes(data[10:14], "little") + (size[0] * kinds[0] + 31) // 32 * 4 * size[1]


# --- GIF ---


def _gif_blocks(data: bytes) -> Iterator[int]:
    """The first bytes of the blocks that are there with all their parts: 0x2C begins a frame, 0x3B ends the file."""
    at = 13 + _gif_colours(data, 10)
    while at < len(data):
        kind = data[at]
        if kind == 0x2C:
            at += 11 + _gif_colours(data, at + 9)
        elif kind == 0x21:
            at += 2
        else:
            yield kind
            return
        while at < len(data) and data[at]:
            at += 1 + data[at]
        if at < len(data):
            yield kind
        at += 1


def _gif_colours(data: bytes, at: int) -> int:
    """Bytes of the table of colours that the flags at a place announce."""
    flags = data[at] if at < len(data) else 0
    return 3 << (flags & 7) + 1 if flags & 0x80 else 0


# --- TIFF ---


def _tiff_header(data: bytes) -> Header:
    tags, more = _tags(data)
    size = (tags[_WIDTH], tags[_HEIGHT]) if {_WIDTH, _HEIGHT} <= tags.keys() else None
    return Header("TIFF", size, frames=2 if more else 1)


def _tags(tiff: bytes) -> tuple[dict[int, int], bool]:
    """The single whole numbers of the first directory, and whether another one follows."""
    order = _TIFF_ORDERS.get(tiff[:4])
    first = _numbers(f"{order}I", tiff, 4) if order else None
    count = _numbers(f"{order}H", tiff, first[0]) if first else None
    if first is None or count is None:
        return {}, False
    found: dict[int, int] = {}
    for at in range(first[0] + 2, min(first[0] + 2 + 12 * count[0], len(tiff)), 12):
        entry = _numbers(f"{order}HHI", tiff, at)
        form = _TIFF_NUMBERS.get(entry[1]) if entry and entry[2] == 1 else None
        value = _numbers(f"{order}{form}", tiff, at + 8) if form else None
        if entry and value:
            found.setdefault(entry[0], value[0])
    following = _numbers(f"{order}I", tiff, first[0] + 2 + 12 * count[0])
    return found, bool(following and following[0])
