"""Icons of classes: those of Twemoji, by their code points, and the researcher's own.

Twemoji's graphics: CC BY 4.0, github.com/jdecked/twemoji. The sixteen coarse classes of ImageNet,
and those of CIFAR-10 and Imagenette, have one where there is a sign for them.
"""

TWEMOJI: dict[str, str] = {
    "airplane": "2708", "automobile": "1f697", "bear": "1f43b", "bicycle": "1f6b2",
    "bird": "1f426", "boat": "26f5", "bottle": "1f37e", "car": "1f697", "cassette player": "1f4fc",
    "cat": "1f408", "chair": "1fa91", "church": "26ea", "clock": "1f570", "deer": "1f98c",
    "dog": "1f415", "elephant": "1f418", "English springer": "1f415", "French horn": "1f3ba",
    "frog": "1f438", "garbage truck": "1f69b", "gas pump": "26fd", "golf ball": "26f3",
    "horse": "1f40e", "keyboard": "2328", "knife": "1f52a", "parachute": "1fa82", "ship": "1f6a2",
    "tench": "1f41f", "truck": "1f69a"}
