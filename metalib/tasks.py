"""Functions of plain values, to be swept over a grid (see `metalib.sweep`). A task of your own is a function like these.

    task: metalib.tasks:transfer
    grid: {generator: [zoo/vgg-standard-0, zoo/vgg-robust-0], stage: [group1, group3]}
    parameters: {observers: [zoo/resnet-standard-0], n_images: 10}
"""
from metalib.data import load_images
from metalib.generate import generate
from metalib.models import list_models, load_model
from metalib.nulls import judge, load_null
from metalib.transfer import transfer_study


def generation(model, stage, optimizer="spectral_lbfgs", image_set="cifar10-samples", split=None, n_images=20, size=32, steps=200,
               seed=0, until_passed=True, check_every=5, device="cpu"):
    """Metamers of one model at one stage, judged: the rows of `metalib.judge`, and the `seconds` that they took together.

    Its null has to ship with the model.

    Args:
        model, stage: names.
        optimizer, steps, seed, check_every, device: of `generate`.
        image_set, split, n_images, size: of `load_images`.
        until_passed: stop an image where it first passes the criterion.
    """
    network = load_model(model, device=device)
    images, null = load_images(image_set, split=split, n=n_images, seed=seed, size=size), load_null(network, stage)
    metamers = generate(network, images, stage, optimizer=optimizer, steps=steps, seed=seed, stop=null if until_passed else None,
                        check_every=check_every)
    return judge(network, stage, metamers, null).assign(seconds=metamers.seconds)


def transfer(generator, stage, observers=(), image_set="cifar10-samples", split=None, n_images=20, size=32, null_set=None,
             null_images=2000, steps=60, seed=0, cards=None, allow_pickle=False, device="cpu", generation=None):
    """The rows of `metalib.transfer_study` of one generator at one stage, so that a grid of these is the whole study.

    Args:
        generator, stage: names; a stage may be a relative depth.
        observers: names; none takes the bundled zoo.
        image_set, split, n_images, size: the references, see `load_images`.
        null_set, null_images: natural images for models that ship no null: their source and number.
        steps, seed, cards, allow_pickle, device, generation: of `transfer_study`.
    """
    images = load_images(image_set, split=split, n=n_images, seed=seed, size=size)
    natural = load_images(null_set, n=null_images, seed=seed + 1, size=size) if null_set else None
    return transfer_study([generator], list(observers) or list_models("zoo/*"), images, stages=[stage], null_images=natural,
                          steps=steps, seed=seed, cards=cards, allow_pickle=allow_pickle, device=device, generation=generation)
