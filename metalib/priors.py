"""Natural-image priors: what `generate(..., prior=...)` adds to the squared loss. `PRIORS` names them.

Each is a function of images (B, 3, H, W) in [0, 1] and gives a penalty (B,), one number for each image, small for images that look
natural. Images are not mixed. With a prior `generate` lowers, for each image,

    L(x) ** 2 + prior(x, weight=...)

which is the objective of Mahendran & Vedaldi divided by their constant C: L ** 2 is their normalised error, and the weight 1 / C.
`PRIORS[name](metamers.images, **metamers.recipe["prior_options"])` gives what the prior adds for a result.

To add one, write such a function and name it here. The weight of `natural` is that with which inversions of logits of two bundled
networks came nearest to photographs in variation and spectrum, see the book's methods; other stages want more.
"""
BOUND = 80 / 255  # the typical distance of a pixel from mid-grey, B of Mahendran & Vedaldi 2016, in units of pixels in [0, 1]
VARIATION = BOUND / 6.5  # the typical difference of neighbouring pixels, their V


def alpha_norm(images, *, weight=3e-5, alpha=6.0):
    """The alpha-norm of the image around mid-grey, to the power of alpha: the sum over pixels and colours.

    Mahendran & Vedaldi 2015 (doi:10.1109/CVPR.2015.7299155, section 3.1), whose pixels have a mean of zero.
    """
    return weight * (images - 0.5).abs().pow(alpha).flatten(1).sum(1)


def relaxed_range(images, *, weight=3e-5, alpha=6.0, bound=BOUND):
    """The mean over pixels of (distance of the colour from mid-grey / `bound`) to the power of alpha.

    Mahendran & Vedaldi 2016 (doi:10.1007/s11263-016-0911-8, "bounded range"): the relaxed form of the constraint that no colour is
    farther from the mean than `bound`. In place of their hard limit, twice the bound, stands the box [0, 1] of the loop.
    """
    return weight * ((images - 0.5).square().sum(1) / bound ** 2).pow(alpha / 2).mean((1, 2))


def total_variation(images, *, weight=3e-5, beta=2.0, scale=VARIATION):
    """The sum over colours and mean over pixels of (length of the difference from the next pixels / `scale`) to the power of beta.

    Mahendran & Vedaldi 2016 ("bounded variation"; 2015, section 3.1, has the sum over pixels and no scale). The next pixels are
    those to the right and below; in the last column and row the difference is 0.
    """
    right, below = images.diff(dim=-1, append=images[..., -1:]), images.diff(dim=-2, append=images[..., -1:, :])
    squares = (right.square() + below.square()) / scale ** 2
    return weight * (squares + 1e-12).pow(beta / 2).sum(1).mean((1, 2))  # no length is 0: it has no slope there if beta < 2


def natural(images, *, weight=3e-5, alpha=6.0, beta=2.0, bound=BOUND, variation=VARIATION):
    """`relaxed_range` and `total_variation` together, each of the order of 1 for photographs: Mahendran & Vedaldi 2016."""
    return (relaxed_range(images, weight=weight, alpha=alpha, bound=bound)
            + total_variation(images, weight=weight, beta=beta, scale=variation))


PRIORS = {"alpha_norm": alpha_norm, "relaxed_range": relaxed_range, "total_variation": total_variation, "natural": natural}
