"""Pictures as cameras and programs write them: with an EXIF orientation, cut off, with something behind them."""

import struct
import zlib

import cv2
import numpy as np


def encode(image: np.ndarray, suffix: str = ".jpg") -> bytes:
    """An RGB image in a format, as well as that can."""
    options = {".jpg": [cv2.IMWRITE_JPEG_QUALITY, 97], ".webp": [cv2.IMWRITE_WEBP_QUALITY, 101]}
    return cv2.imencode(suffix, image[..., ::-1], options.get(suffix, []))[1].tobytes()


def as_stored(upright: np.ndarray, orientation: int) -> np.ndarray:
    """The pixels that a camera stores of what is upright, by the table of EXIF."""
    stored = {
        1: upright,
        2: np.fliplr(upright),
        3: np.rot90(upright, 2),
        4: np.flipud(upright),
        5: upright.transpose(1, 0, 2),
        6: np.rot90(upright, 1),
        7: np.rot90(upright, 2).transpose(1, 0, 2),
        8: np.rot90(upright, -1),
    }
    return np.ascontiguousarray(stored[orientation])


def exif_block(orientation: int, order: str = "<") -> bytes:
    """A TIFF directory with an orientation among other tags."""
    tags = ((0x10F, 2, 3, b"abc\0"), (0x112, 3, 1, struct.pack(f"{order}HH", orientation, 0)), (0x128, 3, 1, bytes(4)))
    entries = b"".join(struct.pack(f"{order}HHI", *tag[:3]) + tag[3] for tag in tags)
    head = {"<": b"II*\0", ">": b"MM\0*"}[order]
    return head + struct.pack(f"{order}IH", 8, len(tags)) + entries + bytes(4)


def with_exif(data: bytes, orientation: int, order: str = "<", late: bool = False) -> bytes:
    """A JPEG, PNG or WebP with an orientation, on wish behind the pixels where a format allows that."""
    block = exif_block(orientation, order)
    if data.startswith(b"\xff\xd8"):
        return data[:2] + jpeg_segment(0xE1, b"Exif\0\0" + block) + data[2:]
    if data.startswith(b"\x89PNG"):
        at = len(data) - 12 if late else 33
        return data[:at] + png_chunk(b"eXIf", block) + data[at:]
    size = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED).shape[1::-1]
    canvas = bytes([8, 0, 0, 0]) + b"".join((side - 1).to_bytes(3, "little") for side in size)
    return riff(riff_chunk(b"VP8X", canvas) + data[12:] + riff_chunk(b"EXIF", block))


def jpeg_segment(marker: int, content: bytes) -> bytes:
    return bytes([0xFF, marker]) + struct.pack(">H", len(content) + 2) + content


def png_chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def riff_chunk(kind: bytes, content: bytes) -> bytes:
    return kind + struct.pack("<I", len(content)) + content + bytes(len(content) % 2)


def riff(chunks: bytes) -> bytes:
    return b"RIFF" + struct.pack("<I", len(chunks) + 4) + b"WEBP" + chunks


def gif(frames: int) -> bytes:
    """Squares of 4 x 4 pixels, one red for the first frame, blue for the others."""
    head = b"GIF89a" + struct.pack("<HH", 4, 4) + b"\x80\x00\x00" + b"\xff\x00\x00" + b"\x00\x00\xff"
    return head + b"".join(_gif_frame(min(frame, 1)) for frame in range(frames)) + b"\x3b"


def _gif_frame(colour: int) -> bytes:
    """16 pixels of a colour, each behind a code that clears the table, so that all codes have three bits."""
    codes = [4] + [code for _ in range(16) for code in (colour, 4)][:-1] + [5]
    bits = sum(code << 3 * i for i, code in enumerate(codes))
    packed = bits.to_bytes((3 * len(codes) + 7) // 8, "little")
    place = struct.pack("<HHHH", 0, 0, 4, 4)
    control = b"\x21\xf9\x04\x00\x0a\x00\x00\x00"
    return control + b"\x2c" + place + b"\x00\x02" + bytes([len(packed)]) + packed + b"\x00"


def animated_png(first: np.ndarray, second: np.ndarray) -> bytes:
    """A PNG of two frames of equal size."""
    parts = [encode(image, ".png") for image in (first, second)]
    head = parts[0][:33]
    pixels = [b"".join(content for kind, content in png_chunks(part) if kind == b"IDAT") for part in parts]
    control = [struct.pack(">IIIIIHHBB", k, first.shape[1], first.shape[0], 0, 0, 1, 10, 0, 0) for k in (0, 1)]
    return b"".join(
        [
            head,
            png_chunk(b"acTL", struct.pack(">II", 2, 0)),
            png_chunk(b"fcTL", control[0]),
            png_chunk(b"IDAT", pixels[0]),
            png_chunk(b"fcTL", control[1]),
            png_chunk(b"fdAT", struct.pack(">I", 2) + pixels[1]),
            png_chunk(b"IEND", b""),
        ]
    )


def png_chunks(data: bytes) -> list[tuple[bytes, bytes]]:
    found, at = [], 8
    while at < len(data):
        (length,) = struct.unpack(">I", data[at : at + 4])
        found.append((data[at + 4 : at + 8], data[at + 8 : at + 8 + length]))
        at += length + 12
    return found
