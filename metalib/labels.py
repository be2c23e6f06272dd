"""Class names of common image sets, and the sixteen coarse classes of ImageNet."""

CIFAR10: tuple[str, ...] = (
    "airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")

CIFAR100: tuple[str, ...] = tuple("""
apple aquarium_fish baby bear beaver bed bee beetle bicycle bottle bowl boy bridge bus butterfly
camel can castle caterpillar cattle chair chimpanzee clock cloud cockroach couch crab crocodile cup
dinosaur dolphin elephant flatfish forest fox girl hamster house kangaroo keyboard lamp lawn_mower
leopard lion lizard lobster man maple_tree motorcycle mountain mouse mushroom oak_tree orange orchid
otter palm_tree pear pickup_truck pine_tree plain plate poppy porcupine possum rabbit raccoon ray
road rocket rose sea seal shark shrew skunk skyscraper snail snake spider squirrel streetcar
sunflower sweet_pepper table tank telephone television tiger tractor train trout tulip turtle
wardrobe whale willow_tree wolf woman worm
""".split())


def _numbers(text: str) -> tuple[int, ...]:
    """Whole numbers and ranges, written "8 10-16" for 8, 10, 11, ..., 16."""
    spans = [span.split("-") for span in text.split()]
    return tuple(number for span in spans for number in range(int(span[0]), int(span[-1]) + 1))


# Members of each coarse class, as indices into the 1,000 classes of ImageNet (ILSVRC 2012):
# the 16-class-ImageNet of Geirhos et al. 2018 (arXiv:1808.08750), as listed in
# bethgelab/model-vs-human, modelvshuman/helper/human_categories.py.
IMAGENET16: dict[str, tuple[int, ...]] = {name: _numbers(text) for name, text in {
    "airplane": "404",
    "bear": "294-297",
    "bicycle": "444 671",
    "bird": "8 10-16 18-20 22-24 80-83 87-96 98-100 127-133 135-145",
    "boat": "472 554 625 814 914",
    "bottle": "440 720 737 898-899 901 907",
    "car": "436 511 817",
    "cat": "281-286",
    "chair": "423 559 765 857",
    "clock": "409 530 892",
    "dog": "152-191 193-203 205-226 228-241 243-250 252-257 259 261-263 265-268",
    "elephant": "385-386",
    "keyboard": "508 878",
    "knife": "499",
    "oven": "766",
    "truck": "555 569 656 675 717 734 864 867",
}.items()}
