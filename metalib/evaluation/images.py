"""Statistics of images, and where and how far the representations of two images differ.

    image_statistics(metamers.images, references)          # SSIM, spectrum, variation, colour
    difference_maps(model, "group3", references, images)   # by channel, and by place
    embedding(activations)                                 # stimuli as points in a plane
"""

from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from metalib.data import ImageSet, pixels
from metalib.generation.priors import total_variation
from metalib.metrics import pearson, rdm
from metalib.models.model import Model


def spectral_slope(images: Tensor) -> Tensor:
    """Slope (B,) of log power against log frequency of images (B, 3, H, W).

    Field 1987 (doi:10.1364/JOSAA.4.002379). About -2 for large photographs (the small bundled ones
    are steeper), 0 for white noise, NaN for an image of one colour.

    Power is summed over colours and averaged over orientations, for each whole number of cycles per
    image from 2 to the highest that all orientations have. A Hann window hides the jump between
    opposite borders.
    """
    images = images.double()
    height, width = images.shape[-2:]
    window = torch.outer(torch.hann_window(height, periodic=False),
                         torch.hann_window(width, periodic=False)).double()
    window = window / window.sum()
    centred = images - (images * window).sum((2, 3), keepdim=True)
    power = torch.fft.fft2(centred * window).abs().square().sum(1)
    frequency = torch.hypot(torch.fft.fftfreq(height)[:, None] * height,
                            torch.fft.fftfreq(width)[None, :] * width).round().long()
    rings = torch.arange(2, min(height, width) // 2 + 1)  # the window smears the lowest
    means = torch.stack([power[:, frequency == ring].mean(1) for ring in rings], dim=1).log()
    x = rings.double().log()
    x = x - x.mean()
    return torch.where(
        means.isfinite().all(1), (means * x).sum(1) / x.square().sum(), torch.nan)


def image_statistics(
    images: ImageSet | Tensor, references: ImageSet | Tensor | None = None,
) -> pd.DataFrame:
    """Statistics of images by which metamers can be told from photographs.

    Args:
        images: an ImageSet or (B, 3, H, W) in [0, 1], or (B, 1, H, W) for grey.
        references: the reference of each image, in the same form; adds the column `ssim`.

    Returns:
        One row per image:

        - `ssim`: the structural similarity to the reference, a mean over colours (Wang et al. 2004,
          doi:10.1109/TIP.2003.819861, by scikit-image);
        - `slope`: see `spectral_slope`;
        - `variation`: the mean length of the difference from the next pixels, over pixels and
          colours, in units of pixels in [0, 1];
        - `contrast`: the standard deviation of luminance, in the same units;
        - `colourfulness`: equation 3 of Hasler & Suesstrunk 2003 (doi:10.1117/12.477378); 0 for
          grey.
    """
    from skimage import color, metrics

    images = pixels(images).cpu().expand(-1, 3, -1, -1)
    red, green, blue = images.unbind(1)
    opponents = torch.stack([red - green, (red + green) / 2 - blue], dim=1).flatten(2)
    spread, mean = (torch.linalg.vector_norm(x, dim=1)
                    for x in (opponents.std(2, correction=0), opponents.mean(2)))
    table = pd.DataFrame({
        "slope": spectral_slope(images),
        "variation": total_variation(images, weight=1, beta=1, scale=1) / 3,
        "contrast": color.rgb2gray(images.numpy(), channel_axis=1).std((1, 2)),
        "colourfulness": spread + 0.3 * mean})
    if references is not None:
        table.insert(0, "ssim", [metrics.structural_similarity(
            image.numpy(), reference.numpy(), data_range=1, channel_axis=0, gaussian_weights=True,
            use_sample_covariance=False)
            for image, reference in zip(images, pixels(references).cpu().expand(-1, 3, -1, -1))])
    return table


def layout(images: Tensor, references: Tensor, side: int = 8) -> np.ndarray:
    """Correlation (B,) of images with their references after averaging over squares of pixels.

    What is left then is where an image is light and dark, and of which colour.

    Args:
        images, references: (B, 3, H, W) in [0, 1].
        side: of the squares, in pixels.
    """
    coarse = [torch.nn.functional.avg_pool2d(x.double(), side).flatten(1)
              for x in (images.cpu(), references.cpu())]
    return pearson(*coarse).numpy()


def difference_maps(
    model: Model, stage: str, references: Tensor, images: Tensor,
) -> tuple[Tensor, Tensor]:
    """Where a model's representations of images differ from those of their references.

    Returns:
        channels (B, C) and places (B, H, W): the squared differences of activations, summed over
        places and over channels, as shares of the squared norm of the reference's activations.
        Either adds up to the squared loss of `generate`. Features and logits have one place; tokens
        (T, D) of a transformer are D channels at T x 1 places.
    """
    with torch.no_grad():
        of_references, of_images = (
            model.activations(references, stage), model.activations(images, stage))
    squares = ((of_images - of_references).square()
               / of_references.square().sum(1, keepdim=True))
    squares = squares.unflatten(1, model.shapes[stage])
    if squares.ndim == 3:  # tokens
        squares = squares.mT
    squares = squares[(...,) + (None,) * (4 - squares.ndim)]
    return squares.sum((2, 3)), squares.sum(1)


def embedding(activations: Any, method: str = "pca") -> tuple[np.ndarray, float]:
    """Stimuli as points in a plane, by scikit-learn.

    Args:
        activations: (n, D), one row per stimulus.
        method: "pca", principal components, for Euclidean distances; or "mds", classical scaling,
            for correlation distances. These are square roots of 1 - Pearson's r between activations
            from which the mean over stimuli is subtracted; they are Euclidean too.

    Returns:
        Coordinates (n, 2), and the share of the mean squared distance between stimuli that they
        hold.

    Raises:
        ValueError: another method.
    """
    from sklearn.decomposition import PCA
    from sklearn.manifold import ClassicalMDS

    activations = torch.as_tensor(activations).double()
    if method == "pca":
        fit = PCA(n_components=2)
        return fit.fit_transform(activations.numpy()), float(fit.explained_variance_ratio_.sum())
    if method != "mds":
        raise ValueError(f"unknown method {method!r}; choose 'pca' or 'mds'")
    squares = rdm(activations - activations.mean(0)).clamp_min(0)
    fit = ClassicalMDS(n_components=2, metric="precomputed")
    points = fit.fit_transform(squares.sqrt().numpy())
    return points, float(np.square(points).sum() / (squares.sum() / 2 / len(points)))
