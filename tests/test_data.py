"""Image sets: values, order, subsets, and errors that say what to do."""

import importlib
import itertools
import json
import os
import struct
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch
import torchvision
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image, ImageCms

from metalib import ImageSet, generate, judge, load_images, null_distribution
from metalib.data import pixels, stratified
from metalib.folders import natural
from metalib.generation.metamers import export, load, save
from metalib.pictures import fit, read_image


@pytest.fixture
def folder(tmp_path):
    for name, colour in (("test/dog/2.png", "red"), ("test/dog/10.png", "blue"),
                         ("test/cat/1.png", "lime")):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (40, 20), colour).save(tmp_path / name)
    return tmp_path


def test_samples_are_the_original_pixels(samples):
    assert samples.images.shape == (20, 3, 32, 32) and samples.images.dtype == torch.float32
    assert 0 <= samples.images.min() and samples.images.max() <= 1
    # 8-bit values, not resampled
    assert torch.equal(samples.images * 255, (samples.images * 255).round())
    # CIFAR-10's first four test images: cat, ship, ship, airplane
    assert samples.labels[:4].tolist() == [3, 8, 8, 0]


def test_imagenet_samples_are_cropped_to_size():
    images = load_images("imagenet-samples", size=64)
    assert images.images.shape == (20, 3, 64, 64)
    assert 0 <= images.images.min() and images.images.max() <= 1
    assert "dog" in images.class_names[243] or images.class_names[243] == "bull mastiff"


def test_folder_is_read_in_natural_order_with_classes(folder):
    images = load_images(f"folder:{folder}", split="test")
    assert images.class_names == ("cat", "dog") and images.labels.tolist() == [0, 1, 1]
    # 2.png before 10.png
    assert images.images[:, :, 0, 0].tolist() == [[0, 1, 0], [1, 0, 0], [0, 0, 1]]
    assert load_images(f"folder:{folder}/test/dog").labels.tolist() == [-1, -1]
    assert load_images(f"folder:{folder}", split="test", size=16).images.shape == (3, 3, 16, 16)


@given(st.lists(st.integers(0, 4), min_size=1, max_size=60), st.data())
def test_subsets_are_stratified_and_reproducible(labels, data):
    labels = torch.tensor(labels)
    n = data.draw(st.integers(1, len(labels)))
    chosen = stratified(labels, n, seed=3)
    assert torch.equal(chosen, stratified(labels, n, seed=3)) and len(set(chosen.tolist())) == n
    taken, available = labels[chosen].bincount(minlength=5), labels.bincount(minlength=5)
    # as equal as the classes allow
    assert all(taken[k] == available[k] or taken[k] >= taken.max() - 1 for k in range(5))


def test_bad_sources_say_what_to_do(folder, tmp_path):
    with pytest.raises(ValueError, match="choose 'cifar10-samples'"):
        load_images("cifar11")
    with pytest.raises(FileNotFoundError, match="there is no folder"):
        load_images(f"folder:{tmp_path / 'nowhere'}")
    with pytest.raises(ValueError, match="cannot choose n=4 of 3"):
        load_images(f"folder:{folder}", split="test", n=4)
    with pytest.raises(ValueError, match="has no splits"):
        load_images("cifar10-samples", split="test")
    (folder / "test" / "cat" / "2.png").write_bytes(b"<html>not a picture</html>")
    with pytest.raises(ValueError, match="2.png.*remove or replace"):
        load_images(f"folder:{folder}", split="test")


def test_different_sizes_need_a_size(folder):
    Image.new("RGB", (30, 30)).save(folder / "test" / "cat" / "3.png")
    with pytest.raises(ValueError, match="different sizes.*pass `size`"):
        load_images(f"folder:{folder}", split="test")


def test_incomplete_cifar10_names_the_place_and_the_remedy(tmp_path):
    (tmp_path / "cifar-10-batches-py").mkdir()
    with pytest.raises(FileNotFoundError, match="cifar-10-python.tar.gz.*METALIB_DATA"):
        load_images("cifar10", root=tmp_path)


# --- One picture --------------------------------------------------------------------------------

LEVELS = np.random.default_rng(0).integers(0, 256, (7, 9, 4), dtype=np.uint8)


def expected(pixels):
    """Channels (C, H, W) of pixels (H, W, C) in [0, 1], by NumPy: opacity on white, grey as RGB."""
    values = np.asarray(pixels, dtype=np.float64)
    if values.shape[2] in (2, 4):
        values = values[..., :-1] * values[..., -1:] + 1 - values[..., -1:]
    return np.broadcast_to(values, (*values.shape[:2], 3)).transpose(2, 0, 1)


def read(path, *arguments, **keywords):
    image = read_image(path, *arguments, **keywords)
    assert image.dtype == torch.float32 and image.is_contiguous()
    return image.numpy()


def png(path, levels, *, bits=16, chunks=b""):
    """Write a PNG file of 8 or 16 bits by hand: pixels (H, W, 1 to 4)."""
    height, width, channels = levels.shape
    rows = b"".join(b"\0" + row.astype(f">u{bits // 8}").tobytes() for row in levels)
    kind = {1: 0, 2: 4, 3: 2, 4: 6}[channels]
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(
            ">IIBBBBB", width, height, bits, kind, 0, 0, 0))
        + chunks + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b""))


def chunk(name, data):
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def as_seen(mode):
    """Pixels (H, W, C) in [0, 1] of an 8-bit picture of a mode, and the picture."""
    colours = LEVELS.astype(float) / 255
    if mode == "1":
        return (LEVELS[..., :1] > 127).astype(float), Image.fromarray(LEVELS[..., 0] > 127)
    if mode == "CMYK":
        return (1 - colours[..., :3]) * (1 - colours[..., 3:]), Image.fromarray(LEVELS, mode="CMYK")
    if mode.startswith("P"):
        picture = Image.fromarray(LEVELS[..., 0] % 16, mode="P")
        palette = np.random.default_rng(1).integers(0, 256, (16, 3), dtype=np.uint8)
        picture.putpalette(palette.tobytes())
        seen = palette[LEVELS[..., 0] % 16] / 255
        if mode == "P":
            return seen, picture
        picture.info["transparency"] = bytes([0, 128] + [255] * 14)
        opacity = np.array([0, 128] + [255] * 14)[LEVELS[..., 0] % 16, None] / 255
        return np.concatenate([seen, opacity], 2), picture
    channels = {"L": [0], "LA": [0, 3], "RGB": [0, 1, 2], "RGBA": [0, 1, 2, 3]}[mode]
    picture = Image.fromarray(LEVELS[..., 0] if mode == "L" else LEVELS[..., channels].copy())
    return colours[..., channels], picture


@pytest.mark.parametrize("mode, endings", [
    ("1", "png tif bmp"), ("L", "png tif bmp gif pgm webp"), ("LA", "png tif webp"),
    ("P", "png tif bmp gif"), ("P with transparency", "png"), ("RGB", "png tif bmp ppm webp"),
    ("RGBA", "png tif webp"), ("CMYK", "tif")])
def test_pictures_of_8_bits_show_what_numpy_computes(tmp_path, mode, endings):
    pixels, picture = as_seen(mode)
    for ending in endings.split():
        path = tmp_path / f"picture.{ending.upper()}"
        picture.save(path, **{"lossless": True, "exact": True} if ending == "webp" else {})
        np.testing.assert_allclose(read(path), expected(pixels), atol=1.01 / 255
                                   if mode == "CMYK" else 1e-6, err_msg=ending)


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
def test_photographs_are_read_as_pillow_shows_them(tmp_path, mode):
    as_seen(mode)[1].save(tmp_path / "a.jpg")
    with Image.open(tmp_path / "a.jpg") as file:
        assert file.mode == mode
        shown = np.asarray(file.convert("RGB"))
    np.testing.assert_allclose(read(tmp_path / "a.jpg"), expected(shown / 255), atol=1e-6)


@given(st.integers(1, 4), st.integers(1, 6), st.integers(1, 6), st.integers(0, 2 ** 32 - 1))
@settings(max_examples=6, deadline=None)
def test_16_bits_come_back_exactly(tmp_path_factory, channels, height, width, seed):
    folder = tmp_path_factory.mktemp("deep")
    levels = np.random.default_rng(seed).integers(0, 65536, (height, width, channels), np.uint16)
    png(folder / "a.png", levels)
    wanted = expected(levels / 65535)
    np.testing.assert_allclose(read(folder / "a.png"), wanted, atol=1e-6)
    alpha = {"extrasamples": ["unassalpha"]} if channels in (2, 4) else {}
    kind = {"photometric": "rgb" if channels > 2 else "minisblack", **alpha}
    for number, (order, options) in enumerate([
            ("<", {}), (">", {}), ("<", {"compression": "deflate", "predictor": True}),
            ("<", {"planarconfig": "separate"})]):
        planes = "planarconfig" in options and channels > 1
        tifffile.imwrite(folder / f"{number}.tif", levels.transpose(2, 0, 1) if planes else
                         levels[..., 0] if channels == 1 else levels, byteorder=order, **kind,
                         **({} if channels == 1 and "planarconfig" in options else options))
        np.testing.assert_allclose(read(folder / f"{number}.tif"), wanted, atol=1e-6)


def test_16_bit_grey_of_pillow_and_of_netpbm(tmp_path):
    levels = np.arange(0, 65536, 1040, dtype=np.uint16).reshape(8, 8)[..., :7]
    wanted = expected(levels[..., None] / 65535)
    for name, options in (("a.png", {}), ("a.tif", {}), ("b.tif", {"compression": "tiff_lzw"})):
        Image.fromarray(levels).save(tmp_path / name, **options)
        np.testing.assert_allclose(read(tmp_path / name), wanted, atol=1e-6)
    (tmp_path / "a.pgm").write_bytes(b"P5 7 8 65535\n" + levels.astype(">u2").tobytes())
    np.testing.assert_allclose(read(tmp_path / "a.pgm"), wanted, atol=1e-6)
    few = levels // 16  # of 12 bits
    (tmp_path / "b.pgm").write_bytes(b"P5 7 8 4095\n" + few.astype(">u2").tobytes())
    np.testing.assert_allclose(read(tmp_path / "b.pgm"), expected(few[..., None] / 4095), atol=1e-5)
    tifffile.imwrite(tmp_path / "white.tif", levels, photometric="miniswhite")
    np.testing.assert_allclose(read(tmp_path / "white.tif"), 1 - wanted, atol=1e-6)
    tifffile.imwrite(tmp_path / "float.tif", levels / np.float32(65535), photometric="miniswhite")
    np.testing.assert_allclose(read(tmp_path / "float.tif"), 1 - wanted, atol=1e-6)


@pytest.mark.parametrize("bits, clear", [(8, 7), (16, 7), (16, (7, 7, 7)), (8, (7, 7, 7))])
def test_the_one_transparent_colour_of_a_png_is_white(tmp_path, bits, clear):
    colours = np.ravel(clear)
    levels = np.full((2, 3, len(colours)), 20)
    levels[0, 0], levels[1, 1, 0] = colours, 7
    png(tmp_path / "a.png", levels, bits=bits,
        chunks=chunk(b"tRNS", struct.pack(f">{len(colours)}H", *colours)))
    wanted = levels / (2 ** bits - 1)
    wanted[(levels == colours).all(-1)] = 1
    np.testing.assert_allclose(read(tmp_path / "a.png"), expected(wanted), atol=1e-6)


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", "uint32"])
@pytest.mark.parametrize("channels", [1, 3])
def test_other_tiffs_are_used_as_they_are(tmp_path, dtype, channels):
    values = np.random.default_rng(0).random((5, 6, channels))
    stored = (values * (2 ** 32 - 1) if dtype == "uint32" else values).astype(dtype)
    tifffile.imwrite(tmp_path / "a.tif", stored[..., 0] if channels == 1 else stored,
                     photometric="rgb" if channels == 3 else "minisblack")
    np.testing.assert_allclose(read(tmp_path / "a.tif"), expected(values), atol=1e-3
                               if dtype == "float16" else 1e-6)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_pictures_stand_upright(tmp_path, orientation):
    wanted, exif = expected(LEVELS[..., :3] / 255), Image.Exif()
    exif[0x0112] = orientation
    # how the camera stored it: the inverse of what the standard's table asks for
    stored = {1: lambda a: a, 2: lambda a: a[:, ::-1], 3: lambda a: np.rot90(a, 2),
              4: lambda a: a[::-1], 5: lambda a: a.transpose(1, 0, 2),
              6: lambda a: np.rot90(a, 1), 7: lambda a: np.rot90(a, 2).transpose(1, 0, 2),
              8: lambda a: np.rot90(a, -1)}[orientation](LEVELS[..., :3]).copy()
    for ending, options in (("png", {}), ("webp", {"lossless": True}), ("tif", {}),
                            ("jpg", {"quality": 100, "subsampling": 0})):
        Image.fromarray(stored).save(tmp_path / f"a.{ending}", exif=exif, **options)
        np.testing.assert_allclose(read(tmp_path / f"a.{ending}"), wanted,
                                   atol=0.06 if ending == "jpg" else 1e-6, err_msg=ending)
    png(tmp_path / "deep.png", stored.astype(np.uint16) * 257,
        chunks=chunk(b"eXIf", exif.tobytes().removeprefix(b"Exif\0\0")))
    tifffile.imwrite(tmp_path / "deep.tif", stored.astype(np.uint16) * 257, photometric="rgb",
                     extratags=[(0x0112, "H", 1, orientation, True)])
    tifffile.imwrite(tmp_path / "float.tif", stored[..., 0] / np.float32(255),
                     photometric="minisblack", extratags=[(0x0112, "H", 1, orientation, True)])
    for name in ("deep.png", "deep.tif"):
        np.testing.assert_allclose(read(tmp_path / name), wanted, atol=1e-6, err_msg=name)
    np.testing.assert_allclose(read(tmp_path / "float.tif")[0], wanted[0], atol=1e-6)


def saved(picture, path, **options):
    picture.save(path, **options)
    return path


def swapped_profile(name="swap built-in"):
    """A colour space like sRGB with the primaries of red and blue exchanged."""
    data = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    data = data.replace(b"rXYZ", b"xXYZ").replace(b"bXYZ", b"rXYZ").replace(b"xXYZ", b"bXYZ")
    return data.replace("sRGB built-in".encode("utf-16-be"), name.encode("utf-16-be"))


def test_colours_with_a_profile_are_shown_in_srgb(tmp_path):
    picture, swapped = Image.fromarray(LEVELS[..., :3].copy()), swapped_profile()
    plain = read(saved(picture, tmp_path / "plain.png"))
    for kind, ending in itertools.product((picture, picture.convert("RGBA")), ("png", "tif")):
        shown = read(saved(kind, tmp_path / f"swapped.{ending}", icc_profile=swapped))
        np.testing.assert_allclose(shown, plain[::-1], atol=1.5 / 255)
    linear = swapped_profile("linear sRGB..")
    shown = read(saved(picture, tmp_path / "linear.png", icc_profile=linear))
    np.testing.assert_allclose(shown, plain[::-1], atol=1.5 / 255)
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    for profile in (srgb, b"damaged"):
        same = saved(picture, tmp_path / "same.png", icc_profile=profile)
        np.testing.assert_array_equal(read(same), plain)
    grey = picture.convert("L")  # levels of grey are taken as they are
    np.testing.assert_array_equal(read(saved(grey, tmp_path / "g.png", icc_profile=swapped)),
                                  read(saved(grey, tmp_path / "h.png")))
    png(tmp_path / "deep.png", LEVELS[..., :3].astype(np.uint16), chunks=chunk(
        b"iCCP", b"swapped\0\0" + zlib.compress(swapped)))
    tifffile.imwrite(tmp_path / "deep.tif", LEVELS[..., :3].astype(np.uint16), photometric="rgb",
                     iccprofile=swapped)
    for name in ("deep.png", "deep.tif"):
        with pytest.raises(ValueError, match=f"{name}: it has more than 8 bits.*swap.*in sRGB"):
            read_image(tmp_path / name)


def refused_pictures(folder):
    """Files that cannot be shown rightly, each with a word of what is said of it."""
    frames = [Image.new("RGB", (4, 4), colour) for colour in ("red", "blue", "lime")]
    for ending in ("gif", "webp", "png", "tif"):
        frames[0].save(folder / f"moving.{ending}", save_all=True, append_images=frames[1:])
        yield f"moving.{ending}", "it has 3 frames; save the one you mean"
    stack = np.zeros((5, 8, 8, 3), np.uint16)
    tifffile.imwrite(folder / "stack.tif", stack, photometric="rgb")
    yield "stack.tif", "it has 5 frames"
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)
    for ending in ("png", "jpg", "bmp", "webp", "gif", "tif"):
        whole = saved(Image.fromarray(noise), folder / f"truncated.{ending}").read_bytes()
        (folder / f"truncated.{ending}").write_bytes(whole[:len(whole) // 2])
        yield f"truncated.{ending}", "truncated"
    png(folder / "half.png", noise.astype(np.uint16))
    (folder / "half.png").write_bytes((folder / "half.png").read_bytes()[:5000])
    yield "half.png", "half.png"
    for name, content, word in (("empty.png", b"", "it is empty"),
                                ("page.jpg", b"<html>404</html>", "no picture of a known kind"),
                                ("head.tif", b"II*\0", "head.tif")):
        (folder / name).write_bytes(content)
        yield name, word
    rgb = {"photometric": "rgb"}
    grey = {"photometric": "minisblack"}
    for name, values, options, word in (
            ("large.tif", np.full((4, 4), 255, np.float32), grey, "reach from 255 to 255"),
            ("negative.tif", np.full((4, 4), -0.1, np.float32), grey, "reach from -0.1"),
            ("nan.tif", np.full((4, 4), np.nan, np.float32), grey, "reach from nan"),
            ("double.tif", np.full((4, 4, 3), 2.0), rgb, "reach from 2 to 2"),
            ("signed8.tif", np.ones((4, 4), np.int8), grey, "type int8"),
            ("signed16.tif", np.ones((4, 4), np.int16), grey, "type int16"),
            ("signed32.tif", np.ones((4, 4, 3), np.int32), rgb, "type int32"),
            ("two.tif", np.ones((4, 4, 2), np.uint16), {**grey, "planarconfig": "contig"},
             "2 channels"),
            ("two8.tif", np.ones((4, 4, 2), np.uint8), {**grey, "planarconfig": "contig"},
             "2 channels"),
            ("five.tif", np.ones((4, 4, 5), np.float32), {**grey, "planarconfig": "contig"},
             "5 channels"),
            ("complex.tif", np.ones((4, 4), np.complex64), grey, "type complex64"),
            ("cmyk.tif", np.ones((4, 4, 4), np.uint16), {"photometric": "separated"},
             "neither grey nor RGB")):
        tifffile.imwrite(folder / name, values, **options)
        yield name, word


def test_pictures_without_a_clear_meaning_are_refused_by_name(tmp_path):
    for name, word in refused_pictures(tmp_path):
        with pytest.raises(ValueError, match=word) as caught:
            read_image(tmp_path / name)
        text = str(caught.value)
        assert str(tmp_path / name) in text and "\n" not in text and "0x" not in text
        assert text.endswith("convert, remove or replace the file")
    with pytest.raises(FileNotFoundError, match="nowhere.png"):
        read_image(tmp_path / "nowhere.png")


def test_a_photograph_with_small_copies_of_itself_is_one_picture(tmp_path):
    pictures = [Image.new("RGB", (16, 16), "red"), Image.new("RGB", (8, 8), "blue")]
    pictures[0].save(tmp_path / "a.jpg", "MPO", save_all=True, append_images=pictures[1:])
    np.testing.assert_allclose(read(tmp_path / "a.jpg")[:, 0, 0], [1, 0, 0], atol=0.01)


def test_pictures_of_any_size_are_read(tmp_path, monkeypatch, recwarn):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    Image.new("L", (40, 60), 51).save(tmp_path / "a.png")
    assert np.allclose(read(tmp_path / "a.png"), 0.2) and not recwarn
    assert Image.MAX_IMAGE_PIXELS == 100
    with pytest.raises(Image.DecompressionBombError):
        Image.open(tmp_path / "a.png")


@given(st.integers(1, 40), st.integers(1, 40), st.integers(1, 30), st.integers(1, 30))
@example(10, 30, 8, 24)
@settings(max_examples=10, deadline=None)
def test_a_size_is_covered_and_cropped_at_the_centre(height, width, rows, columns):
    values = torch.rand(3, height, width)
    image = fit(values, (rows, columns))
    assert image.shape == (3, rows, columns)
    assert values.min() <= image.min() and image.max() <= values.max()
    if (height * columns - width * rows) == 0:  # nothing is cropped
        torch.testing.assert_close(image, torchvision.transforms.functional.resize(
            values, [rows, columns], antialias=True))
    assert torch.equal(fit(values, rows), fit(values, (rows, rows)))


@given(st.integers(8, 60), st.integers(2, 30), st.floats(0.3, 1))
@settings(max_examples=10, deadline=None)
def test_a_crop_is_that_of_torchvision_s_presets(side, size, crop):
    """Of square pictures: of others torchvision rounds the longer side down."""
    values, resized = torch.rand(3, side, side), max(size, int(size / crop + 0.5))
    functional = torchvision.transforms.functional
    torch.testing.assert_close(fit(values, size, crop), functional.center_crop(
        functional.resize(values, resized, antialias=True), size))


@pytest.mark.parametrize("crop", [0, 1.1, "0.9", float("nan")])
def test_a_crop_is_a_share_and_needs_a_size(folder, crop):
    with pytest.raises(ValueError, match="crop is the share"):
        load_images(f"folder:{folder}", split="test", size=8, crop=crop)
    with pytest.raises(ValueError, match="needs a size"):
        load_images(f"folder:{folder}", split="test", crop=0.9)


def test_a_table_has_the_classes_of_a_folder(folder, recwarn):
    """By path or name, as names or numbers, in a folder whose sub-folders then mean nothing."""
    names = load_images(f"folder:{folder}", split="test").files
    table, source = folder / "labels.csv", f"folder:{folder}"
    table.write_text("author,class,file\n" + "".join(
        f'"me, too",n0000000{number % 2}_x,{name}\n' for number, name in enumerate(names)))
    images = load_images(source, split="test", labels="labels.csv", n=2, crop=0.875, size=8)
    assert images.class_names == ("n00000000_x", "n00000001_x")
    assert not [str(warning.message) for warning in recwarn]
    assert sorted(images.labels.tolist()) == [0, 1] and images.images.shape == (2, 3, 8, 8)
    table.write_text("picture,ImageNet\n" + "".join(
        f"{name.split('/')[-1]},{7 * number}\n" for number, name in enumerate(names)))
    images = load_images(source, split="test", labels=table)
    found = dict(zip(images.files, images.labels.tolist()))
    assert images.class_names == () and found == {n: 7 * k for k, n in enumerate(names)}


@pytest.mark.parametrize("text, message", [
    ("", "no two columns"), ("file,class\n", "no two columns"), ("file\na.png\n", "no two columns"),
    ("file,class\nother.png,cat\n", "no class for 3 of 3 pictures, such as test/cat"),
    ("file,class\n\xff\xfe,cat\n", "no CSV file of labels")])
def test_a_table_that_is_not_understood_is_refused(folder, text, message):
    (folder / "labels.csv").write_bytes(text.encode("latin-1"))
    with pytest.raises(ValueError, match=message):
        load_images(f"folder:{folder}", split="test", labels="labels.csv")
    with pytest.raises(FileNotFoundError):
        load_images(f"folder:{folder}", split="test", labels="none.csv")
    with pytest.raises(ValueError, match="for the pictures of a folder, not for 'cifar10-samples'"):
        load_images("cifar10-samples", labels="labels.csv")


def test_size_and_grey_hold_for_every_source(folder, samples):
    for source, options in (("cifar10-samples", {}), ("imagenet-samples", {"n": 2}),
                            (f"folder:{folder}", {"split": "test"})):
        colours = load_images(source, size=(24, 40), **options)
        grey = load_images(source, size=[np.int64(24), 40], grey=True, **options)
        assert grey.images.shape == (len(colours), 1, 24, 40) and grey.files == colours.files
        wanted = (colours.images * torch.tensor([.299, .587, .114]).view(3, 1, 1)).sum(1)
        torch.testing.assert_close(grey.images[:, 0], wanted, atol=1e-6, rtol=0)
    for size in (0, -3, 2.5, "32", (3, 4, 5), (0, 4)):
        with pytest.raises(ValueError, match="size is a side in pixels"):
            load_images("cifar10-samples", size=size)


# --- Folders ------------------------------------------------------------------------------------

@given(st.lists(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="/\0"),
                        min_size=1, max_size=12), min_size=1, max_size=30, unique=True))
def test_names_of_any_kind_sort_alike(names):
    paths = [Path(f"{name}.png") for name in names]
    assert sorted(paths, key=natural) == sorted(reversed(paths), key=natural)


def test_names_sort_as_numbers_where_they_hold_some(tmp_path):
    names = ["①.png", "②1.png", "10.png", "2.png", "02.png", "٣.png", "a10b2.PNG", "a2b10.JPG",
             "a2b9.Png", "é.png", "x².png", "2.5.png"]
    for name in names:
        Image.new("RGB", (2, 2)).save(tmp_path / name)
    assert load_images(f"folder:{tmp_path}").files == (
        "2.5.png", "02.png", "2.png", "٣.png", "10.png", "a2b9.Png", "a2b10.JPG", "a10b2.PNG",
        "x².png", "é.png", "①.png", "②1.png")


def test_links_are_followed_but_not_in_circles(tmp_path):
    elsewhere, folder = tmp_path / "elsewhere", tmp_path / "photographs"
    (folder / "dog").mkdir(parents=True), elsewhere.mkdir()
    Image.new("RGB", (2, 2), "red").save(elsewhere / "1.png")
    Image.new("RGB", (2, 2), "blue").save(folder / "dog" / "1.png")
    (folder / "cat").symlink_to(elsewhere)
    (folder / "dog" / "2.png").symlink_to(elsewhere / "1.png")
    (folder / "dog" / "up").symlink_to(folder)
    (elsewhere / "self").symlink_to(elsewhere)
    images = load_images(f"folder:{folder}")
    assert images.files == ("cat/1.png", "dog/1.png", "dog/2.png")
    assert images.labels.tolist() == [0, 1, 1]
    (folder / "dog" / "3.png").symlink_to(folder / "gone.png")
    with pytest.raises(FileNotFoundError, match="3.png"):
        load_images(f"folder:{folder}")


def test_what_is_hidden_or_no_picture_is_skipped_in_one_line(folder, recwarn):
    test = folder / "test"
    for name in (".ipynb_checkpoints/1.png", "__MACOSX/cat/._1.png", "cat/._1.png", ".hidden.png",
                 "cat/.DS_Store", "dog/Thumbs.db", "@eaDir/1.png", "cat/desktop.ini"):
        saved_in((test / name).parent)
        (test / name).write_bytes(b"not a picture")
    images = load_images(f"folder:{folder}", split="test")
    assert images.class_names == ("cat", "dog") and len(images) == 3 and not recwarn
    for name in ("labels.csv", "cat/IMG_1.HEIC", "mouse/.keep"):
        saved_in((test / name).parent)
        (test / name).write_bytes(b"")
    with pytest.warns(UserWarning) as caught:
        images = load_images(f"folder:{folder}", split="test")
    text = str(caught.pop().message)
    assert not caught and "\n" not in text and images.class_names == ("cat", "dog")
    for word in ("2 other files", "labels.csv", "cat/IMG_1.HEIC", "saved as JPEG or PNG",
                 "no pictures in mouse"):
        assert word in text


def test_folders_that_are_not_as_they_should_be(folder):
    one = next((folder / "test").rglob("1.png"))
    with pytest.raises(NotADirectoryError, match="is a file; name the folder"):
        load_images(f"folder:{one}")
    with pytest.raises(FileNotFoundError, match="no folder.*train; .* holds test"):
        load_images(f"folder:{folder}", split="train")
    for source in ("folder:", folder, str(folder), None):
        with pytest.raises(ValueError, match="choose"):
            load_images(source)
    with pytest.warns(UserWarning, match="the classes are the folders test, .*load folder:"):
        assert load_images(f"folder:{folder}").class_names == ("test",)
    Image.new("RGB", (40, 20)).save(saved_in(folder / "Train" / "cat") / "1.png")
    with pytest.raises(ValueError, match="holds splits, not classes: Train, test; pass split="):
        load_images(f"folder:{folder}")
    saved_in(folder / "empty")
    (folder / "empty" / "notes.txt").write_text("none")
    with pytest.raises(ValueError, match="holds no pictures.* but 1 other file .notes.txt"):
        load_images(f"folder:{folder / 'empty'}")


def saved_in(folder):
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_what_may_not_be_read_is_named(folder):
    for path in (folder / "test" / "cat", folder / "test" / "dog" / "2.png"):
        path.chmod(0)
        with pytest.raises(PermissionError, match=path.name):
            load_images(f"folder:{folder}", split="test")
        path.chmod(0o755)


def test_only_the_images_asked_for_are_read(folder):
    whole = load_images(f"folder:{folder}", split="test")
    chosen = load_images(f"folder:{folder}", split="test", n=np.int32(2), seed=np.uint8(1))
    kept = stratified(whole.labels, 2, 1).tolist()
    assert torch.equal(chosen.images, whole.images[kept]) and len(kept) == 2
    assert chosen.files == tuple(whole.files[row] for row in kept)
    left_out = (set(whole.files) - set(chosen.files)).pop()
    (folder / left_out).write_bytes(b"damaged")
    again = load_images(f"folder:{folder}", split="test", n=2, seed=1)
    assert again.sha256 == chosen.sha256
    with pytest.raises(ValueError, match="whole numbers"):
        load_images(f"folder:{folder}", split="test", n=1.5)


def test_samples_without_foolbox_say_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setattr("sys.path", [str(tmp_path)])
    monkeypatch.delitem(sys.modules, "foolbox", raising=False)
    for name in (None, "foolbox/data/cifar10_00_3.png", "foolbox/__init__.py"):
        if name:  # a folder of that name without code, and an incomplete package
            (saved_in((tmp_path / name).parent) / Path(name).name).write_bytes(b"")
        importlib.invalidate_caches()
        with pytest.raises(FileNotFoundError, match="pip install foolbox"):
            load_images("cifar10-samples")


# --- Image sets ---------------------------------------------------------------------------------

@given(st.data())
def test_an_index_means_what_it_means_in_numpy(samples, data):
    count = len(samples)
    number = st.integers(-count, count - 1)
    index = data.draw(st.one_of(
        number, number.map(np.int16), st.lists(number), st.lists(number, min_size=1).map(np.array),
        st.lists(number, min_size=1).map(torch.tensor), st.slices(count),
        st.lists(st.booleans(), min_size=count, max_size=count),
        st.lists(st.booleans(), min_size=count, max_size=count).map(np.array)))
    plain = np.array(index, dtype=int) if isinstance(index, list) and not index else index
    plain = index.tolist() if isinstance(index, torch.Tensor) else plain
    rows = np.arange(count)[plain].reshape(-1)
    some = samples[index]
    assert torch.equal(some.images, samples.images[rows.tolist()])
    assert torch.equal(some.labels, samples.labels[rows.tolist()])
    assert some.files == tuple(samples.files[row] for row in rows)


def test_images_that_are_not_there_are_an_index_error(samples):
    for index in (20, -21, [0, 20], np.array([99])):
        with pytest.raises(IndexError, match="there is no image .*: there are 20"):
            samples[index]
    for index in (1.5, "cat", None, [True, False], np.eye(20, dtype=bool), [[1]], True):
        with pytest.raises(IndexError, match="chosen by an integer"):
            samples[index]
    assert len(list(samples)) == 20


GOOD = {"images": torch.zeros(2, 3, 4, 4), "labels": torch.tensor([0, -1]),
        "class_names": ("cat",), "name": "mine"}


@pytest.mark.parametrize("wrong, word", [
    ({"images": torch.zeros(2, 3, 4, 4, dtype=torch.uint8)}, "divide 8-bit images by 255"),
    ({"images": torch.zeros(2, 4, 4, 3)}, r"images.permute\(0, 3, 1, 2\)"),
    ({"images": torch.zeros(3, 4, 4)}, r"images\[None\]"),
    ({"images": np.zeros((2, 3, 4, 4), np.float32)}, "float32 tensor, not ndarray"),
    ({"images": torch.zeros(2, 3, 4, 4).double()}, "float32 tensor, not .*float64"),
    ({"images": torch.full((2, 3, 4, 4), 255.0)}, "reach from 255 to 255"),
    ({"images": torch.full((2, 3, 4, 4), torch.nan)}, "finite"),
    ({"images": [Image.new("RGB", (4, 4))] * 2}, "a list of Image"),
    ({"labels": [0, 1]}, "int64 tensor"), ({"labels": torch.zeros(2)}, "float32"),
    ({"labels": torch.zeros(3, dtype=torch.int64)}, "labels of 2 images"),
    ({"labels": torch.tensor([0, 1])}, "1 class names"),
    ({"labels": torch.tensor([0, -2])}, "-1 stands for none"),
    ({"class_names": "cat"}, "tuple of names"), ({"files": ("a.png",)}, "2 images .* 1 files")])
def test_a_set_made_by_hand_is_checked_at_once(wrong, word):
    ImageSet(**GOOD)
    ImageSet(**GOOD | {"images": torch.zeros(2, 1, 4, 4), "class_names": ()})
    with pytest.raises(ValueError, match=word):
        ImageSet(**GOOD | wrong)


def test_pixels_are_those_of_sets_tensors_and_arrays(samples):
    assert pixels(samples) is samples.images and pixels(samples.images) is samples.images
    for other in (samples.images.double(), samples.images.double().numpy(), samples.images.numpy()):
        assert pixels(other).dtype == torch.float32 and torch.equal(pixels(other), samples.images)
    for nonsense in ("cifar10-samples", None, 3, list(samples.images), Image.new("RGB", (4, 4))):
        with pytest.raises(ValueError, match="images are an ImageSet, as load_images returns it"):
            pixels(nonsense)
    with pytest.raises(ValueError, match="divide 8-bit images by 255"):
        pixels(np.zeros((2, 3, 4, 4), np.uint8))


def test_files_stay_with_the_images_up_to_the_table_of_judge(folder, tmp_path, small):
    images = load_images(f"folder:{folder}", split="test", size=32)
    assert images.files == ("test/cat/1.png", "test/dog/2.png", "test/dog/10.png")
    assert images[1:].files == images.files[1:] and images[[-1]].files == ("test/dog/10.png",)
    metamers = generate(small, images[[2, 0]], "2", steps=1)
    assert metamers.files == ("test/dog/10.png", "test/cat/1.png")
    save(metamers, tmp_path / "run")
    export(metamers, tmp_path / "run")
    kept = load(tmp_path / "run")
    assert kept.files == metamers.files
    assert json.loads((tmp_path / "run" / "recipe.json").read_text())["files"] == list(kept.files)
    null = null_distribution(small, "2", load_images("cifar10-samples", n=5))
    table = judge(small, "2", kept, null)
    assert table.columns[-1] == "file" and table["file"].tolist() == list(kept.files)
    unknown = judge(small, "2", generate(small, images.images, "2", steps=1), null)
    assert "file" not in unknown
