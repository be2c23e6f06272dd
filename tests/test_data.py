"""Image sets: values, order, subsets, and errors that say what to do."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from metalib import load_images
from metalib.data import stratified


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
        load_images(f"folder:{folder}", n=4)
    with pytest.raises(ValueError, match="has no splits"):
        load_images("cifar10-samples", split="test")
    (folder / "test" / "cat" / "2.png").write_bytes(b"<html>not a picture</html>")
    with pytest.raises(ValueError, match="2.png.*remove or replace"):
        load_images(f"folder:{folder}")


def test_different_sizes_need_a_size(folder):
    Image.new("RGB", (30, 30)).save(folder / "test" / "cat" / "3.png")
    with pytest.raises(ValueError, match="different sizes.*pass `size`"):
        load_images(f"folder:{folder}")


def test_incomplete_cifar10_names_the_place_and_the_remedy(tmp_path):
    (tmp_path / "cifar-10-batches-py").mkdir()
    with pytest.raises(FileNotFoundError, match="cifar-10-python.tar.gz.*METALIB_DATA"):
        load_images("cifar10", root=tmp_path)
