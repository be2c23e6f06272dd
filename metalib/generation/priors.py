"""Natural-image priors: what `generate(..., prior=...)` adds to the squared loss.

Each is a function of images (B, 3, H, W) in [0, 1] and gives a penalty (B,), one number for each
image, which is small for images that look natural. Images are not mixed. `PRIORS` names them, and
`generate(..., prior=("natural", {"weight": 0.01}))` sets their options. With a prior, `generate`
lowers for each image

    L(x) ** 2 + prior(x, weight=...)

This is the objective of Mahendran & Vedaldi divided by their constant C: L ** 2 is their
normalised error, and the weight is 1 / C. What a prior adds for a result is
`PRIORS[name](metamers.images, **metamers.recipe["prior_options"])`.

To add one, write such a function and name it in `PRIORS`. The default weight of `natural` is the
one with which inversions of the logits of two bundled networks came nearest to photographs in
variation and spectrum, see the book's methods; other stages need a larger one.
"""

from collections.abc import Callable

from torch import Tensor

# In units of pixels in [0, 1], from Mahendran & Vedaldi 2016:
BOUND = 80 / 255  # the typical distance of a pixel from mid-grey, their B
VARIATION = BOUND / 6.5  # the typical difference of neighbouring pixels, their V


def alpha_norm(images: Tensor, *, weight: float = 3e-5, alpha: float = 6.0) -> Tensor:
    """The alpha-norm of the image around mid-grey, to the power of alpha.

    It is a sum over pixels and colours. Mahendran & Vedaldi 2015
    (doi:10.1109/CVPR.2015.7299155, section 3.1), whose pixels have a mean of zero.
    """
    return weight * (images - 0.5).abs().pow(alpha).flatten(1).sum(1)


def relaxed_range(
    images: Tensor, *, weight: float = 3e-5, alpha: float = 6.0, bound: float = BOUND,
) -> Tensor:
    """The mean over pixels of (distance of the colour from mid-grey / `bound`) ** alpha.

    This is the relaxed form of the constraint that no colour is farther from the mean than `bound`:
    Mahendran & Vedaldi 2016 (doi:10.1007/s11263-016-0911-8, "bounded range"). Their hard limit,
    twice the bound, is replaced by the box [0, 1] of the generation loop.
    """
    return weight * ((images - 0.5).square().sum(1) / bound ** 2).pow(alpha / 2).mean((1, 2))


def total_variation(
    images: Tensor, *, weight: float = 3e-5, beta: float = 2.0, scale: float = VARIATION,
) -> Tensor:
    """The mean over pixels of the total variation, summed over colours.

    For each pixel and colour it is (d / `scale`) ** beta, where d is the length of the difference
    from the next pixels, those to the right and below; beyond the last column and row the
    difference is 0. Mahendran & Vedaldi 2016 ("bounded variation"); their paper of 2015, section
    3.1, has the sum over pixels and no scale.
    """
    right, below = (images.diff(dim=-1, append=images[..., -1:]),
                    images.diff(dim=-2, append=images[..., -1:, :]))
    squares = (right.square() + below.square()) / scale ** 2
    # 1e-12 keeps lengths above 0, where the power has no slope if beta < 2
    return weight * (squares + 1e-12).pow(beta / 2).sum(1).mean((1, 2))


def natural(
    images: Tensor, *, weight: float = 3e-5, alpha: float = 6.0, beta: float = 2.0,
    bound: float = BOUND, variation: float = VARIATION,
) -> Tensor:
    """The sum of `relaxed_range` and `total_variation` (Mahendran & Vedaldi 2016).

    Divided by `weight`, each of the two is of the order of 1 for photographs.
    """
    return (relaxed_range(images, weight=weight, alpha=alpha, bound=bound)
            + total_variation(images, weight=weight, beta=beta, scale=variation))


PRIORS: dict[str, Callable[..., Tensor]] = {
    "alpha_norm": alpha_norm, "relaxed_range": relaxed_range, "total_variation": total_variation,
    "natural": natural}
