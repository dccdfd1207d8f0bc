"""How many bytes an audio file lacks at its end, by the lengths that it declares itself.

libsndfile decodes the rest of a truncated file without an error.
"""

import re
from collections.abc import Iterator
from typing import BinaryIO

CHUNKED = {
    b"RIFF": (12, 4, 4, "little", 2),
    b"RIFX": (12, 4, 4, "big", 2),
    b"RF64": (12, 4, 4, "little", 2),
    b"FORM": (12, 4, 4, "big", 2),  # AIFF
    b"riff": (40, 16, 8, "little", 8),  # W64: sizes include name and size
    b"caff": (8, 4, 8, "big", 1),
}
"""First bytes of a format of chunks -> where the first chunk starts, the bytes of the name and of the size of
a chunk, the byte order, and to multiples of how many bytes chunks are padded."""

OGG_HEADER_BYTES = 27

MP3_KILOBITS = (
    (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160, 0),
    (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 0),
)
"""Bit rates of MPEG layer III by their index in the header of a frame: of versions 2 (ISO/IEC 13818-3) and
2.5, and of version 1 (11172-3)."""


def missing_bytes(file: BinaryIO, num_bytes: int) -> int:
    """Return how many bytes a file lacks of what it declares; 0 or less if it is whole or does not say it.

    WAV, RF64, AIFF, W64, CAF, AU and NIST declare the length of their samples, Ogg that of each page, MP3
    that of each frame and often of all. FLAC is not read: libsndfile notices it.

    Args:
        file: open for reading; its position is changed.
        num_bytes: its length.
    """
    file.seek(0)
    head = file.read(12)
    if head[:4] in CHUNKED:
        return _missing_of_chunks(file, num_bytes, *CHUNKED[head[:4]])
    if head[:4] in (b".snd", b"dns."):  # AU: where the samples start, and how many bytes they have
        order = "big" if head[:4] == b".snd" else "little"
        size = int.from_bytes(head[8:], order)
        return 0 if _is_unknown(size, 4) else int.from_bytes(head[4:8], order) + size - num_bytes
    if head[:4] == b"NIST":
        return _missing_of_nist(file, num_bytes)
    if head[:4] == b"OggS":
        return _missing_of_ogg(file, num_bytes)
    if head[:3] == b"ID3" or head[:1] == b"\xff":
        return _missing_of_mp3(file, num_bytes)
    return 0


def _is_unknown(size: int, num_bytes: int) -> bool:
    """Whether a declared size of so many bytes is one that programs write to a pipe."""
    return size >= 2 ** (8 * num_bytes - 1) - 2**12


def _missing_of_chunks(
    file: BinaryIO, num_bytes: int, start: int, name_bytes: int, size_bytes: int, order: str, alignment: int
) -> int:
    """Walk the chunks, since the one with the samples may stand anywhere."""
    position, size_of_rf64 = start, 0
    while position + name_bytes + size_bytes <= num_bytes:
        file.seek(position)
        name, size = file.read(name_bytes)[:4], int.from_bytes(file.read(size_bytes), order)
        position += name_bytes + size_bytes
        if name_bytes == 16:
            size = max(0, size - name_bytes - size_bytes)
        if name == b"ds64":  # of the whole file, then of the samples
            size_of_rf64 = int.from_bytes(file.read(16)[8:], order)
        if name in (b"data", b"SSND"):
            if _is_unknown(size, size_bytes):
                size = size_of_rf64
            return size - (num_bytes - position)
        position += size + -size % alignment
    return position - num_bytes


def _missing_of_nist(file: BinaryIO, num_bytes: int) -> int:
    file.seek(0)
    header = file.read(1024)
    fields = {name: int(value) for name, value in re.findall(rb"(\w+) -i (\d+)", header)}
    frame_bytes = fields.get(b"channel_count", 0) * fields.get(b"sample_n_bytes", 1)
    return len(header) + fields.get(b"sample_count", 0) * frame_bytes - num_bytes


def _missing_of_ogg(file: BinaryIO, num_bytes: int) -> int:
    """Walk the pages. Whether the last one is marked as such says nothing: Android never marks it."""
    position = 0
    while position < num_bytes:
        file.seek(position)
        header = file.read(OGG_HEADER_BYTES)
        if header[:4] != b"OggS"[: len(header)]:  # what other programs add, e.g. tags
            return 0
        if len(header) < OGG_HEADER_BYTES:
            return OGG_HEADER_BYTES - len(header)
        num_segments = header[-1]
        position += OGG_HEADER_BYTES + num_segments + sum(file.read(num_segments))
    return position - num_bytes


def _missing_of_mp3(file: BinaryIO, num_bytes: int) -> int:
    frames = list(_mp3_frames(file))
    if not frames:
        return 0
    start, head, _ = frames[0]
    if header := re.search(rb"(?:Xing|Info)\0\0\0[\3\7\x0b\x0f](.{4})(.{4})", head, re.DOTALL):
        num_frames, size = (int.from_bytes(number, "big") for number in header.groups())
        # A frame may be missing: programs differ in whether they count that of the header.
        if (missing := start + size - num_bytes) * num_frames > size:
            return missing
    return frames[-1][-1] - num_bytes


def is_mp3_without_length(file: BinaryIO) -> bool:
    """Whether a file is an MP3 of varying bit rate without a header that states its length.

    libsndfile decodes as many samples as there would be at the bit rate of the first frame.
    """
    heads = [head for _, head, _ in _mp3_frames(file)]
    return len({head[2] >> 4 for head in heads}) > 1 and not re.search(rb"Xing|Info|VBRI", heads[0])


def _mp3_frames(file: BinaryIO) -> Iterator[tuple[int, bytes, int]]:
    """Yield the start, the first bytes and the end of each frame of MPEG layer III."""
    file.seek(0)
    tag, position = file.read(10), 0
    if tag[:3] == b"ID3":  # its length has seven bits per byte
        position = 10 + sum(byte << shift for byte, shift in zip(tag[6:], (21, 14, 7, 0), strict=False))
    while True:
        file.seek(position)
        head = file.read(64)
        if 0 < len(head) < 4 and head[0] == 0xFF:
            yield position, head.ljust(4, b"\0"), position + 4
        if len(head) < 4 or head[0] != 0xFF or head[1] & 0xE6 != 0xE2:
            return
        version, rate = head[1] >> 3 & 3, head[2] >> 2 & 3
        kilobits = MP3_KILOBITS[version == 3][head[2] >> 4]
        if not kilobits or version == 1 or rate == 3:
            return
        hertz = (44_100, 48_000, 32_000)[rate] // {3: 1, 2: 2, 0: 4}[version]
        end = position + (144 if version == 3 else 72) * 1000 * kilobits // hertz + (head[2] >> 1 & 1)
        yield position, head, end
        position = end
