"""The reader of CIFAR-10H, on made-up judgements in its form."""

import numpy as np
import pytest
import torch

from metalib import ImageSet
from metalib.labels import CIFAR10
from metalib.people import cifar10h


def images(count, names=CIFAR10):
    labels = torch.arange(count) % 10
    return ImageSet(torch.zeros(count, 3, 2, 2), labels, tuple(names), "made up")


def judged(count, people=50, seed=0):
    """Counts of people who are right with a probability that depends on the image."""
    random = np.random.default_rng(seed)
    easy = random.beta(8, 1, count)
    shares = np.full((count, 10), (1 - easy[:, None]) / 9)
    shares[np.arange(count), np.arange(count) % 10] = easy
    return np.stack([random.multinomial(people, one) for one in shares]), easy


def test_shares_are_those_of_the_judgements(tmp_path):
    counts = np.zeros((3, 10), int)
    counts[0, 0], counts[1, [1, 2]], counts[2, [2, 5]] = 4, (3, 1), (1, 3)
    np.save(tmp_path / "counts.npy", counts)
    table = cifar10h(tmp_path / "counts.npy", images(3))
    assert table["recognised"].tolist() == [1, 0.75, 0.25]
    assert table["agreement"].tolist() == [1, 0.75, 0.75]
    assert table["answer"].tolist() == ["airplane", "automobile", "dog"]
    assert table["category"].tolist() == ["airplane", "automobile", "bird"]
    assert table["entropy"].round(3).tolist() == [0, 0.811, 0.811]


def test_reliability_is_the_correlation_with_other_people(tmp_path):
    first, _ = judged(4000, seed=1)
    np.save(tmp_path / "counts.npy", first)
    found = cifar10h(tmp_path / "counts.npy", images(4000))
    again = np.random.default_rng(2)
    _, easy = judged(4000, seed=1)
    other = again.binomial(50, easy) / 50
    assert found["reliability"][0] == pytest.approx(
        np.corrcoef(found["recognised"], other)[0, 1], abs=0.03)


def test_classes_are_found_by_name(tmp_path):
    counts, _ = judged(40)
    np.save(tmp_path / "counts.npy", counts)
    turned = ImageSet(torch.zeros(40, 3, 2, 2), 9 - torch.arange(40) % 10, CIFAR10[::-1], "turned")
    expected = cifar10h(tmp_path / "counts.npy", images(40))
    assert cifar10h(tmp_path / "counts.npy", turned).equals(expected)


@pytest.mark.parametrize("content, count, names, message", [
    (np.ones((5, 10)) / 10, 5, CIFAR10, "not the shares"),
    (np.ones((5, 9), int), 5, CIFAR10, "no counts of ten classes"),
    (np.full((5, 10), 5), 6, CIFAR10, "is of 5 images, and there are 6"),
    (np.full((5, 10), 5), 5, "abcdefghij", "classes of CIFAR-10")])
def test_what_does_not_fit_is_refused(tmp_path, content, count, names, message):
    np.save(tmp_path / "counts.npy", content)
    with pytest.raises(ValueError, match=message):
        cifar10h(tmp_path / "counts.npy", images(count, names))


def test_missing_and_damaged_files_say_what_to_do(tmp_path):
    with pytest.raises(FileNotFoundError, match="jcpeterson/cifar-10h"):
        cifar10h(tmp_path / "counts.npy", images(3))
    (tmp_path / "counts.npy").write_bytes(b"<!DOCTYPE html>")
    with pytest.raises(ValueError, match="cannot be read"):
        cifar10h(tmp_path / "counts.npy", images(3))
