"""Metamers of several networks: shown to networks held out, and brought to the criterion."""

import zlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from metalib.data import ImageSet, to_8_bits
from metalib.evaluation.joint import look, nearest
from metalib.evaluation.nulls import load_null, shipped_stages
from metalib.evaluation.transfer import relation
from metalib.generation.combinations import COMBINATIONS
from metalib.generation.generate import generate
from metalib.generation.starts import nearer, perturbation
from metalib.metrics import rms_distance
from metalib.models import Model
from metalib.models.registry import load_model
from metalib.plain import whole
from metalib.runs.tasks.checks import check_stage, checked_by, known
from metalib.runs.tasks.generation import references

Picture = tuple[dict[str, Any], Tensor]  # what it is, and (B, 3, H, W)


def drawn(models: Sequence[str], draw: int, seed: int, apart: int = 0) -> list[str]:
    """The networks in the order in which they become members in a draw.

    With `apart`, draws begin so many networks further on in one random order, so that draws of so
    many members have none in common; otherwise every draw has an order of its own.
    """
    if apart:
        order = np.roll(np.random.default_rng(seed).permutation(len(models)), -draw * apart)
    else:
        order = np.random.default_rng([seed, draw]).permutation(len(models))
    return [models[int(k)] for k in order]


def without_overlap(members: Sequence[int], draw: int, apart: int) -> list[int]:
    """The numbers of members for which a draw shares none with earlier ones that are kept."""
    return [count for count in members if not apart or draw % -(-count // apart) == 0]


def check_networks(
    names: Sequence[str], stage: str, image_set: str, split: str | None, n_images: int, size: int,
    role: str = "models",
) -> list[Any]:
    """Raise a ValueError unless there are such networks, with that stage and a null of it."""
    images, load = known(image_set, split, n_images, size)
    found = load.entries(names, images, role) if names else []
    for entry in found:
        check_stage(entry, stage)
        if stage not in shipped_stages(entry.name):
            raise ValueError(f"no null ships for {entry.name}, {stage}")
        nearest(entry.card, [entry.card])
    return found


def reached(
    networks: Sequence[Model], stage: str, images: ImageSet, efforts: Sequence[int], seed: int,
) -> dict[int, Tensor]:
    """The metamers (B, 3, H, W) that runs of some numbers of evaluations give, in one run.

    The default rule tries points and keeps the best one; what a run returns is that point.
    """
    efforts, made, found = sorted(set(efforts)), None, {}
    for done, count in zip([0, *efforts], efforts):
        made = generate(
            list(networks), images, [stage] * len(networks), steps=efforts[-1], seed=seed,
            pause=count - done if count < efforts[-1] else None, resume=made)
        found[count] = made.images.clone()
        for position in made.unfinished.values():
            point = position.state["point"].view_as(position.images)
            found[count][position.rows] = to_8_bits(point)
    return found


# --- What networks held out make of them ---------------------------------------------------------

def check_joint(
    *, draw: int, models: Sequence[str], observers: Sequence[str], members: Sequence[int],
    efforts: Sequence[int], most: int, singles: int, apart: int, stage: str, part: int, parts: int,
    image_set: str, split: str | None, n_images: int, size: int, first: int, **_: Any,
) -> None:
    """Raise a ValueError unless there are networks for members and observers, and images."""
    check_networks(models, stage, image_set, split, n_images, size)
    check_networks(observers, stage, image_set, split, n_images, size, "observers")
    if both := set(models) & set(observers):
        raise ValueError(f"{', '.join(sorted(both))} cannot be members and observers only")
    for count in members:
        whole("a number of members", count, 2, len(models) - (not observers))
    whole("apart", apart, 0)
    if not without_overlap(members, draw, apart):
        raise ValueError(f"draw {draw} of {min(members)} members shares some with an earlier one; "
                         "leave it out, or give it fewer members")
    whole("singles", singles, 1)
    if whole("most", most, 1) < min(efforts) * min(members):
        raise ValueError(f"most is {most}, fewer evaluations than {min(members)} members need")
    whole("part", part, 0, whole("parts", parts, 1, n_images) - 1)
    whole("first", first, 0, n_images)


@checked_by(check_joint, sized_by="models")
def joint(
    draw: int, models: Sequence[str], members: Sequence[int] = (2, 4), part: int = 0,
    parts: int = 1, efforts: Sequence[int] = (30, 60, 120), most: int = 480, singles: int = 4,
    apart: int = 0, stage: str = "group3", image_set: str = "cifar10-samples",
    split: str | None = None, n_images: int = 10, size: int | None = None, seed: int = 0,
    first: int = 0, observers: Sequence[str] = (),
) -> pd.DataFrame:
    """Joint metamers of a draw of members, and images to compare them with, shown to others.

    For each number of members and of evaluations, the kinds of image are:

    - "joint": of the first members of the draw;
    - "single": of one member alone, with as many evaluations as all members of the joint one
      together;
    - "average": the mean of these single ones;
    - "noise": the reference with Gaussian noise, as far from it as the joint one;
    - "joint, at one distance" and "single, at one distance": of a joint and a single one, the
      farther is moved straight to the reference until it is as near as the other.

    Args:
        draw: the number of the draw, which fixes the order in which networks become members.
        models: the networks, of one size of images; those that never become members in this draw
            are held out and judge.
        members: numbers of members that are compared.
        part, parts: of the references only every so many, beginning with that one.
        efforts: numbers of evaluations of each member of a joint metamer.
        most: pairs of members and efforts that take more evaluations in all are left out.
        singles: of so many members, at most, single metamers are made.
        apart: how far apart draws begin, see `drawn`; larger numbers of members are left out of
            draws that would then share some.
        stage: the stage to match, in all networks.
        image_set, split, n_images, size, seed: the references, as in `load_images`.
        first: make the metamers of so many of the references of this part only; 0 makes all.
        observers: further networks, which only judge; they see images resized to their own size.

    Returns:
        pandas.DataFrame, one row per kind of image, observer and image: `members`, `effort`,
        `kind`, `member` (of a single one its network, else ""), `observer`, `nearest` (the
        closest relation of the observer to the members; "itself" where a member judges its own),
        `image`, `class_match`, `passed`, `match`, `distance` (at the observer's size).
    """
    order, members = drawn(models, draw, seed, apart), without_overlap(members, draw, apart)
    held_out, networks = order[max(members):], {name: load_model(name) for name in order}
    images = references(image_set, split, n_images, size, seed, 0)[part::parts]
    images = images[:first] if first else images
    budgets = [(count, effort) for count in members for effort in efforts
               if count * effort <= most]
    spent = {name: [count * effort for count, effort in budgets if place < count]
             for place, name in enumerate(order[:min(singles, max(members))])}
    alone = {name: reached([networks[name]], stage, images, some, seed)
             for name, some in spent.items()}
    pictures: list[Picture] = []
    for count in dict.fromkeys(count for count, _ in budgets):
        some = [effort for number, effort in budgets if number == count]
        made = reached([networks[name] for name in order[:count]], stage, images, some, seed)
        for effort, together in made.items():
            own = {name: alone[name][count * effort] for name in order[:count] if name in alone}
            pictures += [({"members": count, "effort": effort, **about}, picture) for about, picture
                         in _kinds(images.images, together, own, seed)]
    rows = [_seen(networks[name], stage, images, pictures if name in held_out else
                  _of(pictures, name, order), order, networks) for name in order]
    rows += [_seen(load_model(name), stage, images, pictures, order, networks)
             for name in observers]
    table = pd.concat(rows, ignore_index=True)
    table["image"] = part + parts * table["image"]
    return table.astype({"match": "float32", "distance": "float32"})


def _kinds(
    references: Tensor, together: Tensor, alone: dict[str, Tensor], seed: int,
) -> list[Picture]:
    """The kinds of image of one number of members and of evaluations, see `joint`."""
    distance = rms_distance(together, references)
    found: list[Picture] = [
        ({"kind": "joint", "member": ""}, together),
        ({"kind": "average", "member": ""}, torch.stack(list(alone.values())).mean(0)),
        ({"kind": "noise", "member": ""}, perturbation(references, distance, seed=seed))]
    for name, single in alone.items():
        apart = rms_distance(single, references)
        found += [
            ({"kind": "single", "member": name}, single),
            ({"kind": "joint, at one distance", "member": name},
             nearer(together, references, apart)),
            ({"kind": "single, at one distance", "member": name},
             nearer(single, references, distance))]
    return found


def _of(pictures: Sequence[Picture], member: str, order: Sequence[str]) -> list[Picture]:
    """What a member is shown: what it had a part in."""
    place = list(order).index(member)
    return [(about, picture) for about, picture in pictures
            if about["member"] == member and about["kind"] == "single"
            or about["kind"] == "joint" and place < about["members"]]


def _seen(
    observer: Model, stage: str, images: ImageSet, pictures: Sequence[Picture],
    order: Sequence[str], networks: dict[str, Model],
) -> pd.DataFrame:
    """The rows of one observer."""
    if not pictures:
        return pd.DataFrame()
    abouts = pd.DataFrame([about for about, _ in pictures])
    abouts["observer"] = observer.name
    abouts["nearest"] = [nearest(observer.card, [networks[name].card for name in order[:count]])
                         for count in abouts["members"]]
    shown = torch.stack([observer.fitted(to_8_bits(picture)) for _, picture in pictures])
    seen = look(observer, stage, load_null(observer, stage), observer.fitted(images.images), shown)
    return abouts.loc[seen["picture"]].reset_index(drop=True).join(seen.drop(columns="picture"))


# --- Which partner -------------------------------------------------------------------------------

def check_partners(
    *, network: str, models: Sequence[str], stage: str, steps: int, image_set: str,
    split: str | None, n_images: int, size: int, first: int, **_: Any,
) -> None:
    """Raise a ValueError unless the network is one of several of three architectures."""
    found = check_networks(models, stage, image_set, split, n_images, size)
    if network not in models:
        raise ValueError(f"{network} is none of the models")
    if len({entry.card["architecture"] for entry in found}) < 3:
        raise ValueError("partners and observers need three architectures at least")
    whole("steps", steps, 1)
    whole("first", first, 0, n_images)


@checked_by(check_partners, sized_by="models")
def partners(
    network: str, models: Sequence[str], steps: int = 60, stage: str = "group3",
    image_set: str = "cifar10-samples", split: str | None = None, n_images: int = 10,
    size: int | None = None, seed: int = 0, first: int = 0,
) -> pd.DataFrame:
    """Metamers of a network with a partner of each kind, shown to networks of other architectures.

    Of the other architectures one is drawn at random, and gives the partners whose architecture
    differs. Networks of the remaining architectures are the observers, so that all kinds of partner
    have the same. The network by itself gets as many evaluations as both members of a pair.

    Args:
        network: the member that all pairs have.
        models: partners and observers, of three architectures at least.
        steps: evaluations of each member of a pair.
        stage, image_set, split, n_images, size, seed, first: as in `joint`.

    Returns:
        pandas.DataFrame, one row per partner, observer and image: `partner` (one of
        `metalib.transfer.RELATIONS`, "itself" for the network alone), `other` (its name),
        `observer`, `image`, `class_match`, `passed`, `match`, `distance`.
    """
    networks = {name: load_model(name) for name in models}
    images = references(image_set, split, n_images, size, seed, first)
    chosen, observers = partners_of(network, {name: one.card for name, one in networks.items()},
                                    np.random.default_rng([seed, zlib.crc32(network.encode())]))
    made = [reached([networks[name] for name in dict.fromkeys([network, other])], stage, images,
                    [2 * steps if other == network else steps], seed) for other in chosen.values()]
    shown = torch.stack([picture for found in made for picture in found.values()])
    rows = []
    for name in observers:
        seen = look(networks[name], stage, load_null(networks[name], stage), images.images, shown)
        kinds, others = (np.array(list(x), dtype=object) for x in (chosen, chosen.values()))
        rows.append(seen.assign(observer=name, partner=kinds[seen["picture"]],
                                other=others[seen["picture"]]).drop(columns="picture"))
    return pd.concat(rows, ignore_index=True).astype({"match": "float32", "distance": "float32"})


def partners_of(
    network: str, cards: dict[str, dict], random: np.random.Generator,
) -> tuple[dict[str, str], list[str]]:
    """A partner of each kind that there is, drawn at random, and the observers of all of them."""
    families: dict[str, list[str]] = {}
    for name, card in cards.items():
        families.setdefault(card["architecture"], []).append(name)
    family = cards[network]["architecture"]
    other = random.choice(sorted(set(families) - {family}))
    chosen: dict[str, str] = {"itself": network}
    for name in random.permutation(families[family] + families[other]):
        if str(name) != network:
            chosen.setdefault(str(relation(cards[network], cards[name])), str(name))
    return chosen, [name for name in cards if cards[name]["architecture"] not in (family, other)]


# --- What they cost ------------------------------------------------------------------------------

def until_passed(
    networks: Sequence[Model], stage: str, images: ImageSet, *, combine: str, limit: int, seed: int,
) -> pd.DataFrame:
    """Evaluations of every member until an image passes for all of them, one row per image."""
    made = generate(list(networks), images, [stage] * len(networks), steps=limit, seed=seed,
                    stop=[load_null(network, stage) for network in networks], combine=combine,
                    check_every=2)
    return pd.DataFrame({"image": range(len(images)), "evaluations": made.evaluations,
                         "passed": [status == "passed" for status in made.status]})


def check_prices(
    *, models: Sequence[str], members: int, combine: str, limit: int, stage: str, image_set: str,
    split: str | None, n_images: int, size: int, first: int, **_: Any,
) -> None:
    """Raise a ValueError unless there are as many networks, and such a combination."""
    check_networks(models, stage, image_set, split, n_images, size)
    whole("members", members, 1, len(models))
    if combine not in COMBINATIONS:
        raise ValueError(f"unknown combination {combine!r}; choose one of "
                         f"{', '.join(COMBINATIONS)}")
    whole("limit", limit, 1)
    whole("first", first, 0, n_images)


@checked_by(check_prices, sized_by="models")
def prices(
    draw: int, members: int, models: Sequence[str], combine: str = "worst", limit: int = 500,
    stage: str = "group3", image_set: str = "cifar10-samples", split: str | None = None,
    n_images: int = 10, size: int | None = None, seed: int = 0, first: int = 0, apart: int = 0,
) -> pd.DataFrame:
    """Evaluations until an image passes for the first so many members of a draw.

    Args:
        draw, models, apart: as in `joint`, so that a draw has the same members.
        members: how many of them.
        combine: how the members' losses become one, a name in `COMBINATIONS`.
        limit: evaluations of every member, at most.
        stage, image_set, split, n_images, size, seed, first: as in `joint`.

    Returns:
        pandas.DataFrame, one row per image: `names` of the members, separated by spaces, `image`,
        `evaluations` of every member, `passed`.
    """
    names = drawn(models, draw, seed, apart)[:members]
    images = references(image_set, split, n_images, size, seed, first)
    return until_passed([load_model(name) for name in names], stage, images, combine=combine,
                        limit=limit, seed=seed).assign(names=" ".join(names))


def check_pairs(*, network: str, **options: Any) -> None:
    """Raise a ValueError unless the network is one of the models."""
    check_prices(members=1, **options)
    if network not in options["models"]:
        raise ValueError(f"{network} is none of the models")


@checked_by(check_pairs, sized_by="models")
def pairs(
    network: str, models: Sequence[str], combine: str = "worst", limit: int = 500,
    stage: str = "features", image_set: str = "cifar10-samples", split: str | None = None,
    n_images: int = 10, size: int | None = None, seed: int = 0, first: int = 0,
) -> pd.DataFrame:
    """Evaluations until an image passes for a network and another one, as in `prices`.

    Args:
        network: one of the models. Its partners are itself and those that come after it, so that
            the cells of all networks hold each pair once.
        models, combine, limit, stage, image_set, split, n_images, size, seed, first: as in
            `prices`.

    Returns:
        pandas.DataFrame, one row per partner and image: `other`, `image`, `evaluations`, `passed`.
    """
    images = references(image_set, split, n_images, size, seed, first)
    rows = []
    for other in list(models)[list(models).index(network):]:
        both = [load_model(name) for name in dict.fromkeys([network, other])]
        rows.append(until_passed(both, stage, images, combine=combine, limit=limit,
                                 seed=seed).assign(other=other))
    return pd.concat(rows, ignore_index=True)
