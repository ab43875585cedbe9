"""Decoding: every kind of image file to upright 8-bit colours; the damaged are named, and nothing else is raised."""

from __future__ import annotations

import io
import struct
import zlib
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ps.streams import numpy_stream
from workers.decode import BadImage, decode
from workers.patches import RandomPatch


def encoded(array: np.ndarray, kind: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, kind, **options)
    return buffer.getvalue()


COLOURS = np.stack([np.indices((40, 30))[0] * 6, np.indices((40, 30))[1] * 8, np.full((40, 30), 99)], -1).astype(
    np.uint8
)


@pytest.mark.parametrize(("kind", "options"), [("PNG", {}), ("BMP", {}), ("WEBP", {"lossless": True})])
def test_lossless_formats_decode_exactly(kind: str, options: dict[str, object]) -> None:
    assert np.array_equal(decode(encoded(COLOURS, kind, **options), "x"), COLOURS)


def test_jpeg_decodes_nearly(tmp_path: Path) -> None:
    assert np.abs(decode(encoded(COLOURS, "JPEG", quality=95), "x").astype(int) - COLOURS).mean() < 3


TURNED = {  # EXIF orientation to how a camera stored an upright picture
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.transpose(1, 0, 2),
    6: lambda a: np.rot90(a),
    7: lambda a: a[::-1, ::-1].transpose(1, 0, 2),
    8: lambda a: np.rot90(a, -1),
}


@pytest.mark.parametrize("orientation", TURNED)
@pytest.mark.parametrize("kind", ["PNG", "WEBP"])
def test_exif_orientation_is_applied(orientation: int, kind: str) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"lossless": True} if kind == "WEBP" else {}
    stored = np.ascontiguousarray(TURNED[orientation](COLOURS))
    assert np.array_equal(decode(encoded(stored, kind, exif=exif, **options), "x"), COLOURS)


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")  # Pillow says it aloud
def test_a_damaged_exif_block_costs_nothing_but_itself() -> None:
    plain = encoded(COLOURS, "JPEG")
    broken = encoded(COLOURS, "JPEG", exif=b"Exif\0\0II*\0\x08\0\0\0\xff\xff" + b"\x12\x01\xff\xff" * 9)
    assert np.array_equal(decode(broken, "x"), decode(plain, "x"))


def test_cmyk_is_close_to_its_picture() -> None:
    """As Adobe writes it into a JPEG: inverted."""
    buffer = io.BytesIO()
    Image.fromarray(COLOURS).convert("CMYK").save(buffer, "JPEG", quality=95)
    assert np.abs(decode(buffer.getvalue(), "x").astype(int) - COLOURS).mean() < 3


def test_one_brightness_fills_three_channels() -> None:
    gray = COLOURS[..., 0]
    expected = np.repeat(gray[..., None], 3, axis=2)
    assert np.array_equal(decode(encoded(gray), "x"), expected)
    assert np.array_equal(decode(encoded(gray.astype(np.uint16) * 256 + 77), "x"), expected)
    assert set(decode(encoded(gray > 100), "x").ravel().tolist()) == {0, 255}


def test_transparency_is_dropped() -> None:
    alpha = np.concatenate([COLOURS, np.full((40, 30, 1), 7, np.uint8)], axis=2)
    assert np.array_equal(decode(encoded(alpha), "x"), COLOURS)
    palette = io.BytesIO()
    Image.fromarray(COLOURS).quantize(16).save(palette, "PNG", transparency=b"\x00\x80")
    assert decode(palette.getvalue(), "x").shape == (40, 30, 3)


@pytest.mark.parametrize(
    ("size", "expected"), [((1800, 1200), (1800, 1200)), ((2000, 2000), (1000, 1000)), ((300, 9000), (300, 9000))]
)
def test_large_jpegs_are_reduced_only_while_enough_remains(size: tuple[int, int], expected: tuple[int, int]) -> None:
    assert decode(encoded(np.zeros((*size, 3), np.uint8), "JPEG"), "x").shape[:2] == expected


@pytest.mark.parametrize(
    "data", [b"", b"not an image", encoded(COLOURS, "JPEG")[:-300], encoded(COLOURS)[:-60], encoded(COLOURS, "GIF")]
)
def test_damaged_images_are_named(data: bytes) -> None:
    with pytest.raises(
        BadImage, match=rf"^some/file\.jpg: got {len(data):,} bytes that do not decode .*replace or remove"
    ):
        decode(data, "some/file.jpg")


@pytest.mark.parametrize("at", range(0, 400, 7))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_a_flipped_byte_gives_a_picture_or_a_bad_image(kind: str, at: int) -> None:
    data = bytearray(encoded(COLOURS, kind))
    data[at % len(data)] ^= 0x55
    with suppress(BadImage):
        assert decode(bytes(data), "x").shape[2] == 3


def test_the_same_damage_is_always_said_in_the_same_words() -> None:
    """So that it can be listed once."""
    said = []
    for _ in range(2):
        with pytest.raises(BadImage, match="no known image format") as caught:
            decode(b"not an image", "x")
        said.append(str(caught.value))
    assert said[0] == said[1]


def test_a_picture_too_large_for_any_memory_is_refused_before_it_is_decoded() -> None:
    """A PNG of a few bytes that says it is 30,000 pixels wide and high."""
    header = struct.pack(">4s2I5B", b"IHDR", 30_000, 30_000, 8, 2, 0, 0, 0)
    data = b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + header + struct.pack(">I", zlib.crc32(header))
    with pytest.raises(BadImage, match="DecompressionBombError"):
        decode(data + struct.pack(">I4sI", 0, b"IDAT", zlib.crc32(b"IDAT")), "x")


# --- the real oddities ------------------------------------------------------------------------------------------------

UNREADABLE = {"truncated_60pct.JPEG", "empty.JPEG", "not_an_image.JPEG"}


@pytest.fixture(scope="module")
def oddities(real_data: Path) -> dict[str, bytes]:
    """Every file that the manifest lists."""
    folder = real_data / "image-oddities"
    rows = (folder / "MANIFEST.tsv").read_text().splitlines()[1:]
    return {name: (folder / name).read_bytes() for name in (row.split("\t")[0] for row in rows)}


def test_exactly_the_damaged_oddities_are_refused(oddities: dict[str, bytes]) -> None:
    refused: set[str] = set()
    for name, data in oddities.items():
        try:
            pixels = decode(data, name)
        except BadImage as error:
            refused.add(str(error).split(" bytes that do not decode")[0])
            continue
        assert pixels.dtype == np.uint8
        assert pixels.shape[2] == 3
        assert RandomPatch(224)([pixels], 1, numpy_stream(0, name)).shape == (1, 224, 224, 3)
    assert refused == {f"{name}: got {len(oddities[name]):,}" for name in UNREADABLE}
    assert len(oddities) == 30


def test_all_orientations_are_the_same_stored_picture_turned(oddities: dict[str, bytes]) -> None:
    """The files store the same pixels and differ in what they say of them; turned back, all are equal to the bit."""
    stored = decode(oddities["exif_orientation_1.JPEG"], "1")
    for orientation, turned in TURNED.items():
        upright = decode(oddities[f"exif_orientation_{orientation}.JPEG"], str(orientation))
        assert np.array_equal(turned(upright), stored)


def test_real_colours_are_what_they_were(oddities: dict[str, bytes]) -> None:
    def difference(one: str, other: str) -> float:
        return float(np.abs(decode(oddities[one], one).astype(int) - decode(oddities[other], other)).mean())

    assert difference("cmyk.JPEG", "cmyk_reference_rgb.JPEG") < 5
    assert difference("progressive.JPEG", "png_named_jpeg.JPEG") < 7
    assert difference("rgba.png", "png_named_jpeg.JPEG") < 1
    assert difference("gray_alpha.png", "gray.JPEG") < 3
    assert difference("gray16.png", "gray_alpha.png") < 1
    assert difference("palette_alpha.png", "png_named_jpeg.JPEG") < 10


@pytest.mark.parametrize("size", ["1x1", "2x300", "10x10", "500x50", "60x700", "223x224", "256x255", "3000x40"])
def test_sizes_are_kept(oddities: dict[str, bytes], size: str) -> None:
    width, height = map(int, size.split("x"))
    assert decode(oddities[f"size_{size}.JPEG"], size).shape == (height, width, 3)
