"""Which MPEG audio frames (mp3, mp2) does a file contain? All are counted, since counts in headers are often wrong."""

import mmap
import struct
from dataclasses import dataclass, replace

Bytes = mmap.mmap | bytes


@dataclass(frozen=True)
class Part:
    """A recording in a file: a range of its bytes."""

    form: str
    """wav, flac, ogg, mpeg or other."""
    start: int
    end: int
    prefix: bytes = b""
    """A header that replaces a wrong one."""
    num_frames: int | None = None
    """Samples per channel according to the file's structure; None: libsndfile or only decoding can count them."""
    missing_share: float = 0.0
    """How much more data the header declares than the file has, as a fraction of what it has."""
    is_cut: bool = False
    """The recording ends inside a page; the missing amount is unknown."""
    has_end: bool = True
    """The end-of-stream mark is present, or the format has none."""

    def moved(self, num_bytes: int) -> "Part":
        """The same part, shifted by `num_bytes`."""
        return replace(self, start=self.start + num_bytes, end=self.end + num_bytes)


@dataclass(frozen=True)
class Frame:
    """The content of a frame's header."""

    length: int
    """Length in bytes."""
    num_samples: int
    kind: tuple[int, int, int, int]
    """What is constant in a stream: version (1; 2; 4 means 2.5), layer, rate, and in layers I and II the bit rate."""


# ISO 11172-3 and 13818-3: kilobits a second by (version, layer) and index.
KILOBITS = {
    (1, 1): (32, 64, 96, 128, 160, 192, 224, 256, 288, 320, 352, 384, 416, 448),
    (1, 2): (32, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384),
    (1, 3): (32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    (2, 1): (32, 48, 56, 64, 80, 96, 112, 128, 144, 160, 176, 192, 224, 256),
    (2, 2): (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
}
RATES_HZ = (44100, 48000, 32000)  # version 1; half and a quarter of it in versions 2 and 2.5


def _frames() -> dict[int, Frame]:
    """All possible frames, by the second and third byte of their header."""
    frames = {}
    for key in range(0xE000, 0x10000):
        version = {3: 1, 2: 2, 0: 4}.get(key >> 11 & 3)
        layer, bits, rate = 4 - (key >> 9 & 3), key >> 4 & 15, key >> 2 & 3
        if version is None or layer == 4 or rate == 3 or not 0 < bits < 15:
            continue
        row = (1, layer) if version == 1 else (2, min(layer, 2))
        bits_a_second, rate_hz = 1000 * KILOBITS[row][bits - 1], RATES_HZ[rate] // version
        padding = key >> 1 & 1
        num_samples = 384 if layer == 1 else 576 if layer == 3 and version > 1 else 1152
        if layer == 1:
            length = (12 * bits_a_second // rate_hz + padding) * 4
        else:
            length = num_samples // 8 * bits_a_second // rate_hz + padding
        frames[key] = Frame(length, num_samples, (version, layer, rate_hz, bits if layer < 3 else 0))
    return frames


FRAMES = _frames()


def frame_at(data: Bytes, place: int) -> Frame | None:
    """The frame that begins at `place`, complete or not; None if there is none."""
    head = data[place : place + 4]
    return FRAMES.get(head[1] << 8 | head[2]) if len(head) == 4 and head[0] == 0xFF else None


def next_mpeg_frame(data: Bytes, place: int, until: int, in_a_row: int = 2) -> int | None:
    """The first position in [place, until) where `in_a_row` frames of one kind follow each other, or end the data."""
    until = min(until, len(data))
    while 0 <= (place := data.find(b"\xff", place, until)) < until:
        first, at, count = frame_at(data, place), place, 0
        while (frame := frame_at(data, at)) is not None and first is not None and frame.kind == first.kind:
            at, count = at + frame.length, count + 1
            if count == in_a_row or at == len(data):
                return place
        place += 1
    return None


def mpeg(data: Bytes, start: int) -> tuple[list[Part], int]:
    """The recordings from `start` on and the position after them: frames of one kind each, with little in between."""
    found: list[Part] = []
    place = next_mpeg_frame(data, start, len(data))
    while place is not None:
        part, after = _stream(data, place)
        if part is not None:
            found.append(part)
        # Skips as many bytes as libmpg123 would inside a stream; tags and other formats are handled by the caller.
        place = next_mpeg_frame(data, after, after + 1024)
        if place is None:
            return found, after
    return found, start


def _stream(data: Bytes, begin: int) -> tuple[Part | None, int]:
    """Consecutive frames of one kind from `begin` on, up to the next Xing or Info header."""
    first = frame_at(data, begin)
    assert first is not None
    is_mono = data[begin + 3] >> 6 == 3
    side = _side_length(first, is_mono)
    tag = begin + side if first.kind[1] == 3 and data[begin + side : begin + side + 4] in INFO else None
    place = audio = begin + (first.length if tag is not None else 0)
    num_frames, kind, end, frames = 0, first.kind, len(data), FRAMES
    while True:
        head = data[place : place + 4]
        if len(head) < 4 or head[0] != 0xFF:
            break
        frame = frames.get(head[1] << 8 | head[2])
        if frame is None or frame.kind != kind or (head[3] >> 6 == 3) != is_mono or place + frame.length > end:
            break
        if data[place + side : place + side + 4] in INFO and num_frames and kind[1] == 3:
            break
        num_frames, place = num_frames + 1, place + frame.length
    part = _part(data, begin, audio, place, tag, num_frames, is_mono) if num_frames else None
    return part, max(place, begin + 1)


INFO = (b"Xing", b"Info")
"""Markers of a silent first frame with counts: followed by flags (1: number of frames, 2: bytes) and the counts."""


def counted_frames(data: Bytes, place: int, num_bytes: int) -> int | None:
    """Number of frames according to the Xing or Info frame at `place`, if its number of bytes is right; else None."""
    first = frame_at(data, place)
    if first is None or first.kind[1] != 3:
        return None
    tag = place + _side_length(first, data[place + 3] >> 6 == 3)
    if data[tag : tag + 4] not in INFO or len(data) < tag + 16 or data[tag + 7] & 3 != 3:
        return None
    num_frames, counted = struct.unpack(">II", data[tag + 8 : tag + 16])
    return num_frames if num_frames and abs(counted - num_bytes) <= TAG_BYTES else None


TAG_BYTES = 512
"""Bytes of tags that may follow the frames."""


def _side_length(frame: Frame, is_mono: bool) -> int:
    """Length of header and side information of layer III, in bytes."""
    return 4 + ((17 if is_mono else 32) if frame.kind[0] == 1 else (9 if is_mono else 17))


def _part(data: Bytes, begin: int, audio: int, end: int, tag: int | None, num_frames: int, is_mono: bool) -> Part:
    """A part whose first frame has the correct count: libsndfile reads no more frames than that, and else estimates."""
    first = frame_at(data, audio)
    assert first is not None
    if first.kind[1] < 3:  # layers I and II have no such frame, and a constant bit rate
        return Part("mpeg", begin, end)
    if tag is not None and data[tag + 7] & 1:
        declared = int.from_bytes(data[tag + 8 : tag + 12], "big")
        if declared == num_frames:
            return Part("mpeg", begin, end)
        # Patch the existing frame, since it may also contain the encoder's delay.
        header = bytearray(data[begin:audio])
        place = tag - begin
        header[place + 8 : place + 12] = num_frames.to_bytes(4, "big")
        if header[place + 7] & 2:
            header[place + 12 : place + 16] = (len(header) + end - audio).to_bytes(4, "big")
        missing = max(0, declared - num_frames) / num_frames if declared < 1 << 24 else 0.0
        return Part("mpeg", audio, end, bytes(header), missing_share=missing)
    side = _side_length(first, is_mono)
    # A frame without checksum, of a bit rate with enough room for the counts.
    key = next(
        key for key, each in FRAMES.items() if each.kind == first.kind and key >> 8 & 1 and each.length >= side + 16
    )
    header = bytearray(FRAMES[key].length)
    header[:4] = bytes((0xFF, key >> 8, key & 0xFF, data[audio + 3] & 0xC0))
    header[side : side + 12] = b"Info" + struct.pack(">II", 1, num_frames)
    return Part("mpeg", audio, end, bytes(header))
