"""The benchmark with ground truth: generated pictures, and the networks trained on them."""

import importlib
import json
import sys
from pathlib import Path

import nodules
import numpy as np
import pytest
import shapes
import torch
import train_shapes
from PIL import Image
from torch import nn

import graphprop
from graphprop.evaluation import baselines
from graphprop.evaluation.data import Reading, read
from graphprop.frontend.load import load_source
from graphprop.pictures.preprocessing import Preprocessing

MODELS = Path(__file__).parent.parent / "models"
SIX = len(shapes.CLASSES)


def reading():
    mean, std = (shapes.MEAN,) * 3, (shapes.STD,) * 3
    return Reading(Preprocessing((shapes.SIZE,) * 2, mean, std), SIX, shapes.CLASSES)


# Pictures


def same(first, second):
    pairs = zip(first.objects, second.objects, strict=True)
    return np.array_equal(first.image, second.image) and all(
        np.array_equal(a.mask, b.mask) and (a.label, a.box) == (b.label, b.box) for a, b in pairs
    )


@pytest.mark.parametrize("split", shapes.SPLITS)
def test_a_picture_depends_on_split_number_and_seed_alone(split):
    many = list(shapes.pictures(split, 5))
    np.random.seed(7)
    assert same(shapes.draw(split, 4), many[4])
    assert not np.array_equal(many[3].image, many[4].image)
    assert not np.array_equal(shapes.draw(split, 4, seed=1).image, many[4].image)
    others = [other for other in shapes.SPLITS if other != split]
    assert all(not np.array_equal(shapes.draw(o, 4).image, many[4].image) for o in others)


@pytest.mark.parametrize("split", shapes.SPLITS)
def test_masks_are_exact(split):
    for picture in shapes.pictures(split, 40):
        union = np.logical_or.reduce([one.mask for one in picture.objects])
        assert sum(one.mask.sum() for one in picture.objects) == union.sum(), "objects overlap"
        changed = (picture.image != picture.context).any(-1)
        assert not changed[~union].any()
        # a pixel may have the color of the background by chance
        assert changed[union].mean() > 0.99


@pytest.mark.parametrize("split", shapes.SPLITS)
def test_boxes_are_the_bounds_of_masks(split):
    for picture in shapes.pictures(split, 40):
        for one in picture.objects:
            left, top, width, height = one.box
            inside = np.zeros_like(one.mask)
            inside[top : top + height, left : left + width] = True
            assert not one.mask[~inside].any()
            crop = one.mask[top : top + height, left : left + width]
            assert crop[0].any()
            assert crop[-1].any()
            assert crop[:, 0].any()
            assert crop[:, -1].any()


@pytest.mark.parametrize("split", shapes.SPLITS)
def test_counts_and_sizes_are_those_of_the_split(split):
    least, most = shapes.SPLITS[split].objects
    drawn = list(shapes.pictures(split, 150))
    assert {len(picture.objects) for picture in drawn} == set(range(least, most + 1))
    assert all(len(picture.labels) == len(picture.objects) for picture in drawn), "a class twice"
    assert set.union(*(set(picture.labels) for picture in drawn)) == set(range(SIX))
    widths = [one.box[2] for picture in drawn for one in picture.objects]
    for size in shapes.DIAMETERS:
        low, high = (shapes.DIAMETERS[size] * (1 + sign * shapes.SPREAD) for sign in (-1, 1))
        shown = any(low - 2 <= width <= high + 1 for width in widths)
        assert shown == (size in shapes.SPLITS[split].sizes)


def test_difficult_objects_are_small_and_beside_another_class():
    for picture in shapes.pictures("difficult", 40):
        assert len(picture.labels) > 1
        assert all(one.mask.mean() < 0.25 for one in picture.objects)


def agreement(split, count=400):
    """The share of pictures with one object whose scene is that of the object's class."""
    drawn = [p for p in shapes.pictures(split, count) if len(p.objects) == 1]
    return np.mean([picture.scene in picture.labels for picture in drawn]), len(drawn)


def test_scenes_are_correlated_with_the_class_in_training_alone():
    share, count = agreement("train")
    expected = shapes.CORRELATED + (1 - shapes.CORRELATED) / SIX
    # three and a half standard deviations
    assert abs(share - expected) < 3.5 * (expected * (1 - expected) / count) ** 0.5
    share, count = agreement("single")
    assert abs(share - 1 / SIX) < 3.5 * (5 / 36 / count) ** 0.5
    assert agreement("swapped")[0] == 0
    assert all(p.scene not in p.labels for p in shapes.pictures("swapped", 100))


def test_textures_tell_classes_apart_where_silhouettes_do_not():
    patterns = [shapes.texture(label, 16, 0) for label in range(SIX)]
    for label, pattern in enumerate(patterns):
        assert 0.2 < pattern.mean() < 0.6
        for other in patterns[label + 1 :]:
            assert np.corrcoef(pattern.ravel(), other.ravel())[0, 1] < 0.7


# What is made of pictures


def test_cases_unpack_as_image_class_and_mask():
    found = list(shapes.cases("several", 4))
    drawn = list(shapes.pictures("several", 4))
    assert [(case.target, case.labels) for case in found] == [
        (one.label, picture.labels) for picture in drawn for one in picture.objects
    ]
    image, target, mask = found[0]
    assert (image.shape, target) == ((3, 64, 64), drawn[0].objects[0].label)
    np.testing.assert_array_equal(mask, drawn[0].objects[0].mask)
    torch.testing.assert_close(image[1, 2, 3] * 0.25 + 0.5, image.new_tensor(pixel(drawn[0])))
    assert found[0].name == found[1].name == "several/0"


def pixel(picture):
    return picture.image[2, 3, 1] / 255


def number(name):
    return int(name.rpartition("/")[2])


@pytest.mark.parametrize("kind", ["npz", "coco"])
def test_what_is_written_is_what_evaluate_reads(kind, tmp_path, monkeypatch):
    if kind == "coco":
        pytest.importorskip("pycocotools")
    output = tmp_path / ("data.npz" if kind == "npz" else "data")
    data = output if kind == "npz" else output / "annotations.json"
    monkeypatch.setattr(sys, "argv", ["shapes", "several", "-n", "6", "-o", str(output)])
    shapes.main()
    found = list(read(data, reading()))
    wanted = sorted(shapes.cases("several", 6), key=lambda case: (number(case.name), case.target))
    for got, case in zip(found, wanted, strict=True):
        assert (got.target, got.labels) == (case.target, case.labels)
        torch.testing.assert_close(got.image, case.image)
        np.testing.assert_array_equal(got.mask, case.mask)
    if kind == "coco":
        assert json.loads((output / "classes.json").read_text()) == list(shapes.CLASSES)
        content = json.loads(data.read_text())
        one = shapes.draw("several", 0).objects[0]
        first = content["annotations"][0]
        assert (first["bbox"], first["area"]) == (list(one.box), one.mask.sum())
        size = Image.open(output / "images" / content["images"][0]["file_name"]).size
        assert size == (shapes.SIZE, shapes.SIZE)


@pytest.mark.parametrize("corners", [(), (0,), (-1,), (0, -1)])
def test_run_lengths_of_masks_that_touch_corners(corners):
    mask = np.zeros((3, 4), dtype=bool)
    mask[1, 1:3] = True
    for corner in corners:
        mask[corner, corner] = True
    runs = shapes.run_lengths(mask)
    assert sum(runs) == mask.size
    values = np.repeat(np.arange(len(runs)) % 2 == 1, runs)
    np.testing.assert_array_equal(values.reshape(4, 3).T, mask)


def test_mean_average_precision_by_hand():
    scores = np.array([[0.9, 0.1], [0.8, 0.2], [0.7, 0.9], [0.6, 0.8]])
    labels = np.array([[1, 0], [0, 0], [1, 1], [0, 1]])
    # class 0: found at ranks 1 and 3, so (1 + 2/3) / 2; class 1: at ranks 1 and 2
    assert shapes.mean_average_precision(scores, labels) == pytest.approx((5 / 6 + 1) / 2)
    unseen = np.concatenate([labels, np.zeros((4, 1))], 1)
    scores = np.concatenate([scores, np.ones((4, 1))], 1)
    assert shapes.mean_average_precision(scores, unseen) == pytest.approx((5 / 6 + 1) / 2)


# Volumes


def test_a_volume_depends_on_split_number_and_seed_alone():
    many = list(nodules.volumes("test", 4))
    again = nodules.draw("test", 3)
    np.testing.assert_array_equal(again.image, many[3].image)
    np.testing.assert_array_equal(again.mask, many[3].mask)
    for other in (nodules.draw("train", 3), nodules.draw("test", 3, seed=1)):
        assert not np.array_equal(other.image, many[3].image)


def test_some_volumes_to_train_on_are_empty():
    labels = [volume.label for volume in nodules.volumes("train", 40) if not volume.mask.any()]
    assert set(labels) == {nodules.NOTHING}
    assert 5 < len(labels) < 25
    data = train_shapes.load_data("nodules_vgg3d", "train", 40, 0)
    assert int((data.labels.sum(1) == 0).sum()) == len(labels)


def test_masks_of_volumes_are_exact_and_in_the_central_slice():
    for volume in nodules.volumes("test", 20):
        np.testing.assert_array_equal(volume.image != volume.context, volume.mask)
        # a nodule ends within the volume, a vessel reaches a face of it
        faces = [volume.mask.take(i, axis) for i in (0, -1) for axis in range(3)]
        assert any(face.any() for face in faces) == (volume.label == 0)
    shown = [v.mask[nodules.SIZE // 2].any() for v in nodules.volumes("test", 40)]
    assert np.mean(shown) > 0.8


# Networks


def load(name):
    return load_source(str(MODELS / f"{name}.py"))


@pytest.mark.parametrize("name", train_shapes.NETWORKS)
def test_model_files_agree_with_the_pictures(name, monkeypatch):
    loaded = load(name)
    assert loaded.name == name
    assert loaded.notes == []
    monkeypatch.syspath_prepend(str(MODELS))
    classes = nodules.CLASSES if name.startswith("nodules") else shapes.CLASSES
    assert importlib.import_module(name).classes == list(classes)
    assert (MODELS / f"{name}.safetensors").stat().st_size < 1_000_000
    logits = loaded.model(loaded.example)
    if name.startswith("nodules"):
        assert loaded.example.shape == (2, 1, *[nodules.SIZE] * 3)
        assert logits.shape == (2, len(nodules.CLASSES))
        return
    assert loaded.example.shape == (2, 3, shapes.SIZE, shapes.SIZE)
    assert loaded.preprocessing == {
        "size": [shapes.SIZE] * 2,
        "mean": [shapes.MEAN] * 3,
        "std": [shapes.STD] * 3,
        "resize": "cover",
        "interpolation": "bilinear",
        "channels": "RGB",
    }
    assert logits.shape == (2, SIX)


@pytest.mark.parametrize("name", train_shapes.NETWORKS)
def test_networks_name_what_they_were_not_trained_on(name):
    model = load(name).model
    count = 100 if name.startswith("nodules") else 200
    for split in ("test",) if name.startswith("nodules") else ("single", "several"):
        data = train_shapes.load_data(name, split, count, seed=0)
        assert train_shapes.precision(model, data) > 0.99
        shuffled = data._replace(labels=data.labels[torch.randperm(count)])
        assert train_shapes.precision(model, shuffled) < 0.9, "the measure tells nothing"


WITHOUT_OBJECTS = {"shapes_caffenet": 0.25}
"""CaffeNet names a class in some empty pictures, of which training has none; see evaluation.md."""


@pytest.mark.parametrize("name", train_shapes.NETWORKS)
def test_networks_rarely_find_a_class_without_its_object(name):
    data = train_shapes.load_data(name, "train", 100, seed=1)  # scenes go with classes
    model = load(name).model
    assert train_shapes.found_without_objects(model, data) < WITHOUT_OBJECTS.get(name, 0.05)
    shown = data._replace(contexts=data.inputs)
    assert train_shapes.found_without_objects(model, shown) > 0.95


KINDS = {
    "shapes_vgg": {"Conv2d", "MaxPool2d", "Linear"},
    "shapes_vgg_bn": {"Conv2d", "BatchNorm2d", "MaxPool2d", "Linear"},
    "shapes_resnet": {"BasicBlock", "BatchNorm2d", "AdaptiveAvgPool2d"},
    "shapes_inception": {"InceptionA", "InceptionB", "InceptionC", "BatchNorm2d"},
    "shapes_densenet": {"DenseBlock", "BatchNorm2d", "AvgPool2d"},
    "shapes_caffenet": {"Conv2d", "LocalResponseNorm", "MaxPool2d", "Linear"},
    "nodules_vgg3d": {"Conv3d", "BatchNorm3d", "MaxPool3d", "Linear"},
}
"""Layers that make a network one of its family."""


@pytest.mark.parametrize("name", train_shapes.NETWORKS)
def test_networks_are_of_their_families(name):
    model = load(name).model
    assert KINDS[name] <= {type(layer).__name__ for layer in model.modules()}
    norms = any(isinstance(layer, nn.BatchNorm2d) for layer in model.modules())
    assert norms == ("BatchNorm2d" in KINDS[name])
    groups = {layer.groups for layer in model.modules() if isinstance(layer, nn.Conv2d)}
    assert (2 in groups) == (name == "shapes_caffenet")


@pytest.mark.slow
@pytest.mark.parametrize("name", train_shapes.NETWORKS)
def test_networks_compile(name, same_process):
    loaded = load(name)
    # each method on networks with and without skip connections
    method = ("epsilon_plus_flat", "rap")[train_shapes.NETWORKS.index(name) % 2]
    report = graphprop.compile(loaded.model, loaded.example, method).check(samples=2)
    assert report.passed, report


def test_maps_lie_on_the_objects_rather_than_anywhere():
    loaded = load("shapes_vgg")
    explainer = graphprop.compile(loaded.model, loaded.example, "epsilon_plus_flat")
    explainers = {"epsilon_plus_flat": explainer, **baselines(explainer)}
    found = graphprop.evaluate(explainers, shapes.cases("single", 24), ["mu_w"])
    rows = {row["explainer"]: row for row in found.rows}
    assert rows["epsilon_plus_flat"]["low"] > rows["random"]["high"]


def test_training_learns_and_is_the_same_each_time(monkeypatch):
    monkeypatch.setattr(train_shapes, "PICTURES", 128)
    monkeypatch.setitem(train_shapes.EPOCHS, "shapes_caffenet", 3)
    monkeypatch.syspath_prepend(str(MODELS))
    first, second = (train_shapes.trained("shapes_caffenet", seed=3) for _ in range(2))
    assert all(torch.equal(v, second.state_dict()[k]) for k, v in first.state_dict().items())
    assert all(torch.equal(v, v.half().float()) for v in first.state_dict().values())
    data = train_shapes.load_data("shapes_caffenet", "train", 128, 3)
    torch.manual_seed(3)
    before = train_shapes.untrained("shapes_caffenet")
    train_shapes.initialize(before)
    assert loss_of(first, data) < loss_of(before, data) / 2


def loss_of(network, data):
    logits = train_shapes.predict(network.eval(), data.inputs)
    return nn.functional.binary_cross_entropy_with_logits(logits, data.labels)
