"""The metamer test for people: an experiment for the browser, and the reading of its data.

    experiment({"vgg, group3": metamers}, references, "test")     # a folder that runs from a file
    table = read("answers/*.csv")                                 # people as observers of a study
    networks = take(["zoo/vgg-robust-0"], {...}, references)      # and networks, in the same rows

It collects no data, and sends none: what a participant answers leaves the browser by a download at
the end. Ethics approval and consent are the researcher's.
"""

from metalib.people.design import Design
from metalib.people.export import experiment
from metalib.people.judgements import cifar10h
from metalib.people.made_up import precision, simulated
from metalib.people.networks import take
from metalib.people.reading import Exclusions, read

__all__ = ["Design", "Exclusions", "cifar10h", "experiment", "precision", "read", "simulated",
           "take"]
