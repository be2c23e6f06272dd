"""The settings of an experiment."""

from dataclasses import asdict, dataclass
from typing import Any, Literal

from metalib.plain import whole

PHASES = ("blank", "fixation", "image", "mask")
UPSCALINGS = ("nearest", "bicubic")


@dataclass(frozen=True)
class Design:
    """How a metamer test for people runs. Defaults are those of Feather et al. 2023.

    doi:10.1038/s41593-023-01442-0; their code: a blank, a fixation cross, the image, a mask of
    noise, and a grid of classes; practice with feedback, a screening, catch trials that show an
    icon, and breaks.

    Attributes:
        blank, fixation, image, mask: milliseconds; 0 leaves a step out. Each ends with the frame of
            the screen that is nearest, and its measured duration stands in the data.
        size: side of the images on the page, in CSS pixels.
        upscaling: how smaller images come to that size, "nearest" or "bicubic".
        trials: how many references a participant sees, each in one condition; None for all.
        practice: natural images that come first, with feedback.
        screening: natural images without feedback that follow; the test ends early unless
            `pass_mark` of them are named rightly.
        catch: trials between the others that show the icon of a class; classes without an icon
            have none.
        breaks: pauses in the test.
        natural: whether the references themselves are a condition.
        fullscreen: whether the test asks for the full screen.
        demographics: whether age and gender are asked for (both may be left empty).

    Raises:
        ValueError: numbers that are not whole or too small, or an unknown upscaling.
    """

    blank: int = 500
    fixation: int = 300
    image: int = 300
    mask: int = 300
    size: int = 224
    upscaling: Literal["nearest", "bicubic"] = "nearest"
    trials: int | None = None
    practice: int = 16
    screening: int = 12
    pass_mark: int = 7
    catch: int = 16
    breaks: int = 3
    natural: bool = True
    fullscreen: bool = True
    demographics: bool = False

    def __post_init__(self):
        for name in (*PHASES, "practice", "screening", "pass_mark", "catch", "breaks"):
            whole(name, getattr(self, name), 0)
        whole("image", self.image, 1)
        whole("size", self.size, 16)
        if self.trials is not None:
            whole("trials", self.trials, 1)
        if self.pass_mark > self.screening:
            raise ValueError(f"pass_mark is {self.pass_mark}, more than the {self.screening} "
                             "images of the screening")
        if self.upscaling not in UPSCALINGS:
            raise ValueError(f"unknown upscaling {self.upscaling!r}; choose "
                             f"{' or '.join(UPSCALINGS)}")

    def describe(self) -> dict[str, Any]:
        """A plain dict for the page, with the durations together."""
        plain = asdict(self)
        return plain | {"durations": {name: plain.pop(name) for name in PHASES}}
