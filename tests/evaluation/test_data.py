"""Readers of data sets, on files that are made here."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from graphprop.errors import InputError
from graphprop.evaluation.data import Reading, read
from graphprop.evaluation.data.coco import drawn
from graphprop.evaluation.data.pictures import box_of, boxed, fitted_mask
from graphprop.pictures.preprocessing import Preprocessing

RGB = Preprocessing((8, 8), (0.5, 0.5, 0.5), (0.25, 0.25, 0.25))
NAMES = ("cat", "dog", "bird")


def reading(**options):
    return Reading(RGB, 3, **{"class_names": NAMES, **options})


def picture(file, size=(16, 8), color=(255, 0, 0)):
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, color).save(file)
    return file


def test_folder_of_pictures(tmp_path):
    picture(tmp_path / "b.png", color=(255, 255, 255))
    picture(tmp_path / "a.jpg", color=(0, 0, 0))
    (tmp_path / "notes.txt").write_text("no picture")
    (tmp_path / ".hidden.png").write_text("no picture either")
    found = read(tmp_path, reading())
    assert [case.name for case in found] == [str(tmp_path / n) for n in ("a.jpg", "b.png")]
    assert len(found) == 2
    image, target, mask = found[1]
    assert (target, mask) == (-1, None)
    assert image.shape == (3, 8, 8)
    torch.testing.assert_close(image, torch.full((3, 8, 8), 2.0))  # (1 - 0.5) / 0.25


def test_folder_for_each_class(tmp_path):
    picture(tmp_path / "dog" / "1.png")
    picture(tmp_path / "cat" / "inner" / "2.png")
    picture(tmp_path / "2" / "3.png")
    (tmp_path / "empty").mkdir()
    found = read(tmp_path, reading())
    assert [(case.target, case.labels) for case in found] == [(2, {2}), (0, {0}), (1, {1})]


def test_folders_in_alphabetical_order(tmp_path):
    for name in ("x", "z", "y"):
        picture(tmp_path / name / "1.png")
    found = read(tmp_path, reading(class_names=None))
    assert [(case.name.split("/")[-2], case.target) for case in found] == [
        ("x", 0),
        ("y", 1),
        ("z", 2),
    ]
    with pytest.raises(InputError, match="has the class 'x', and which of the network's 4 classes"):
        read(tmp_path, Reading(RGB, 4))
    named = {"x": 3, "y": 2, "z": 0}
    assert [case.target for case in read(tmp_path, Reading(RGB, 4, named=named))] == [3, 2, 0]


def test_mask_and_picture_go_through_the_same_geometry(tmp_path):
    """A white object on black: resized in any way, the mask is where the picture is bright."""
    pixels = np.zeros((40, 64, 3), dtype=np.uint8)
    pixels[10:30, 24:56] = 255
    Image.fromarray(pixels).save(tmp_path / "a.png")
    box = [24, 10, 32, 20]
    content = coco([{"image_id": 1, "category_id": 1, "bbox": box}], size=(64, 40))
    (tmp_path / "data.json").write_text(json.dumps(content))
    for resize in ("cover", "stretch"):
        (case,) = read(tmp_path / "data.json", reading(resize=resize))
        bright = case.image.mean(0).numpy() > 0
        assert (case.mask == bright).mean() > 0.98, resize
        assert case.mask.any()
    crop, stretch = (
        read(tmp_path / "data.json", reading(resize=resize))[0].mask
        for resize in ("cover", "stretch")
    )
    assert crop.sum() != stretch.sum()  # of the cropped picture, the object covers more


def test_a_cropped_picture_is_the_input_of_explain(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (21, 34, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    (case,) = read(tmp_path, reading())
    shown, _ = RGB.read(tmp_path / "a.png")
    assert torch.equal(case.image, RGB.tensor(shown)[0])


def test_boxes_and_their_edges():
    assert boxed([(1, 1, 3, 2)], 4, 5).sum() == 2
    assert boxed([(-5, -5, 50, 50)], 4, 5).all()
    assert boxed([(2.2, 1.2, 2.3, 1.3)], 4, 5).sum() == 1
    mask = np.zeros((6, 6), dtype=bool)
    mask[1, 2] = mask[3, 4] = True
    assert np.array_equal(box_of(mask), boxed([(2, 1, 5, 4)], 6, 6))
    assert not box_of(np.zeros((3, 3), dtype=bool)).any()


def test_an_object_outside_of_the_crop_is_empty():
    mask = np.zeros((8, 40), dtype=bool)
    mask[:, :3] = True
    assert not fitted_mask(mask, RGB, "cover").any()
    assert fitted_mask(mask, RGB, "stretch").any()


def test_a_pixel_belongs_to_an_object_that_covers_half_of_it():
    fine = np.zeros((8, 8), dtype=bool)
    fine[0, 0] = fine[0, 4:6] = fine[4:6, 2:4] = True  # of 2 x 2: a quarter, a half, all
    expected = np.zeros((4, 4), dtype=bool)
    expected[0, 2] = expected[2, 1] = True
    for resize in ("cover", "stretch"):
        assert np.array_equal(fitted_mask(fine, replace(RGB, size=(4, 4)), resize), expected)


def test_polygons_by_half_coverage():
    square = drawn([[1, 1, 5, 1, 5, 4, 1, 4]], (6, 7))
    assert np.array_equal(square, boxed([(1, 1, 5, 4)], 6, 7))
    triangle = drawn([[0, 0, 8, 0, 0, 8]], (8, 8))
    assert triangle[0, 0]
    assert not triangle[7, 7]
    assert triangle.sum() == pytest.approx(32, abs=4)  # half of 64, and the pixels of the edge
    two = drawn([[0, 0, 2, 0, 2, 2, 0, 2], [4, 4, 6, 4, 6, 6, 4, 6]], (6, 6))
    assert two.sum() == 8


# COCO.


def coco(annotations, size=(16, 8), files=("a.png",)):
    return {
        "categories": [{"id": 1, "name": "cat"}, {"id": 7, "name": "dog"}],
        "images": [
            {"id": number, "file_name": name, "width": size[0], "height": size[1]}
            for number, name in enumerate(files, 1)
        ],
        "annotations": annotations,
    }


def written(folder, content):
    path = folder / "instances.json"
    path.write_text(json.dumps(content))
    return path


def test_coco_boxes_and_polygons(tmp_path):
    picture(tmp_path / "images" / "a.png", size=(8, 8))
    picture(tmp_path / "images" / "b.png", size=(8, 8))
    annotations = [
        {"image_id": 1, "category_id": 1, "bbox": [0, 0, 2, 2]},
        {"image_id": 1, "category_id": 1, "segmentation": [[4, 4, 8, 4, 8, 8, 4, 8]]},
        {"image_id": 1, "category_id": 7, "bbox": [1, 2, 3, 1], "segmentation": []},
    ]
    content = coco(annotations, size=(8, 8), files=("a.png", "b.png"))
    found = list(read(written(tmp_path, content), reading()))
    assert [(case.target, case.labels) for case in found] == [(0, {0, 1}), (1, {0, 1})]
    assert np.array_equal(found[0].mask, boxed([(0, 0, 2, 2), (4, 4, 8, 8)], 8, 8))
    assert np.array_equal(found[1].mask, boxed([(1, 2, 4, 3)], 8, 8))
    boxes = read(tmp_path / "instances.json", reading(masks="boxes"))
    assert boxes[0].mask.all()  # around both objects


def test_coco_run_lengths(tmp_path):
    coder = pytest.importorskip("pycocotools.mask")
    picture(tmp_path / "a.png", size=(8, 8))
    mask = np.zeros((8, 8), dtype=np.uint8, order="F")
    mask[2:5, 1:7] = 1
    counts, last, run = [], 0, 0
    for entry in mask.reshape(-1, order="F"):
        if entry != last:
            counts.append(run)
            last, run = entry, 0
        run += 1
    counts.append(run)
    packed = coder.encode(mask)
    packed["counts"] = packed["counts"].decode()
    for segmentation in ({"size": [8, 8], "counts": counts}, packed):
        content = coco(
            [{"image_id": 1, "category_id": 1, "segmentation": segmentation}], size=(8, 8)
        )
        (case,) = read(written(tmp_path, content), reading())
        assert np.array_equal(case.mask, mask.astype(bool))


def test_coco_run_lengths_without_pycocotools(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "pycocotools", None)
    picture(tmp_path / "a.png", size=(8, 8))
    segmentation = {"size": [8, 8], "counts": [64]}
    content = coco([{"image_id": 1, "category_id": 1, "segmentation": segmentation}], size=(8, 8))
    with pytest.raises(InputError, match="run-length encoding need pycocotools"):
        read(written(tmp_path, content), reading())[0]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c.pop("images"), "is no COCO file: it needs images.*'images'"),
        (lambda c: c["categories"][0].update(name="cow"), "has the class 'cow'"),
        (lambda c: c["annotations"][0].update(image_id=9), "a picture that it does not list"),
        (lambda c: c["images"][0].update(file_name="b.png"), "b.png of .* give --images DIR"),
        (lambda c: c["annotations"][0].update(bbox=[1]), "the annotation 5 of .* can't be read"),
        (lambda c: c["images"][0].update(width=9), "has 16 x 8 pixels, and its mask 9 x 8"),
    ],
)
def test_coco_files_that_are_wrong(tmp_path, change, message):
    picture(tmp_path / "a.png")
    content = coco([{"id": 5, "image_id": 1, "category_id": 1, "bbox": [0, 0, 2, 2]}])
    change(content)
    with pytest.raises(InputError, match=message):
        read(written(tmp_path, content), reading())[0]


def test_coco_file_that_is_no_json(tmp_path):
    (tmp_path / "a.json").write_text("{")
    with pytest.raises(InputError, match="can't be read as JSON"):
        read(tmp_path / "a.json", reading())


# Pascal VOC.

OBJECT = """<object><name>{}</name><difficult>{}</difficult><bndbox><xmin>{}</xmin><ymin>{}</ymin>
<xmax>{}</xmax><ymax>{}</ymax></bndbox></object>"""


def voc(folder, objects, stem="p", size=(8, 8)):
    picture(folder / "JPEGImages" / f"{stem}.jpg", size=size)
    (folder / "Annotations").mkdir(exist_ok=True)
    inner = "".join(OBJECT.format(*one) for one in objects)
    text = f"<annotation><filename>{stem}.jpg</filename>{inner}</annotation>"
    (folder / "Annotations" / f"{stem}.xml").write_text(text)


def palette(file, values):
    file.parent.mkdir(exist_ok=True)
    image = Image.fromarray(np.asarray(values, dtype=np.uint8))
    image.putpalette(list(range(256)) * 3)
    image.save(file)


def test_voc_boxes(tmp_path):
    voc(tmp_path, [("cat", 0, 1, 1, 2, 2), ("dog", 0, 3, 3, 8, 8), ("cat", 1, 8, 8, 8, 8)])
    voc(tmp_path, [("bird", 1, 1, 1, 2, 2)], stem="q")  # difficult alone: left out
    found = list(read(tmp_path, reading()))
    assert [(case.target, case.labels) for case in found] == [(0, {0, 1}), (1, {0, 1})]
    assert np.array_equal(found[0].mask, boxed([(0, 0, 2, 2), (7, 7, 8, 8)], 8, 8))
    assert np.array_equal(found[1].mask, boxed([(2, 2, 8, 8)], 8, 8))


def test_voc_segmentation(tmp_path):
    voc(tmp_path, [("cat", 0, 1, 1, 2, 2), ("dog", 0, 3, 3, 8, 8)])
    values = np.zeros((8, 8))
    values[0, :3], values[5, 5:], values[7, 7] = 1, 2, 255
    palette(tmp_path / "SegmentationObject" / "p.png", values)
    cat, dog = read(tmp_path, reading())
    assert np.array_equal(cat.mask, values == 1)
    assert np.array_equal(dog.mask, values == 2)


def test_voc_segmentation_by_class(tmp_path):
    voc(tmp_path, [("cat", 0, 1, 1, 2, 2), ("person", 0, 3, 3, 8, 8)])
    values = np.zeros((8, 8))
    values[0, :3], values[5, 5:] = 8, 15  # as Pascal VOC numbers them
    palette(tmp_path / "SegmentationClass" / "p.png", values)
    cat, person = read(tmp_path, Reading(RGB, 20))
    assert (cat.target, person.target) == (7, 14)
    assert np.array_equal(cat.mask, values == 8)
    assert np.array_equal(person.mask, values == 15)


def test_voc_files_that_are_wrong(tmp_path):
    voc(tmp_path, [("cow", 0, 1, 1, 2, 2)])
    with pytest.raises(InputError, match="has the class 'cow'"):
        read(tmp_path, reading())
    file = tmp_path / "Annotations" / "p.xml"
    file.write_text('<!DOCTYPE a [<!ENTITY b "c">]><annotation/>')
    with pytest.raises(InputError, match="defines entities"):
        read(tmp_path, reading())
    file.write_text("<annotation><object><name>cat</name></object></annotation>")
    with pytest.raises(InputError, match=r"p.xml can't be read: an object has no xmin"):
        read(tmp_path, reading())
    file.unlink()
    with pytest.raises(InputError, match="there is no annotation"):
        read(tmp_path, reading())


# Arrays.


def test_arrays(tmp_path):
    random = np.random.default_rng(0)
    images = random.integers(0, 256, (4, 8, 8, 3), dtype=np.uint8)
    masks = random.random((4, 8, 8)) < 0.5
    np.savez(tmp_path / "a.npz", images=images, labels=[2, 0, 1, -1], masks=masks)
    found = list(read(tmp_path / "a.npz", reading()))
    assert [case.target for case in found] == [2, 0, 1, -1]
    expected = (images[1].transpose(2, 0, 1) / 255 - 0.5) / 0.25
    np.testing.assert_allclose(found[1].image, expected, rtol=1e-5, atol=1e-5)
    assert np.array_equal(found[3].mask, masks[3])
    first = tmp_path / "first.npz"
    np.savez(first, images=images.transpose(0, 3, 1, 2))
    (_, case, *_) = read(first, reading())
    assert torch.equal(case.image, found[1].image)
    assert (case.target, case.mask) == (-1, None)


def test_arrays_of_inputs_with_several_labels(tmp_path):
    images = np.random.default_rng(0).standard_normal((2, 3, 8, 8))
    labels = np.array([[1, 0, 1], [0, 1, 0]])
    masks = np.zeros((2, 3, 8, 8), dtype=bool)
    masks[0, 2, 1:3, 1:3] = True
    np.savez(tmp_path / "a.npz", images=images, labels=labels, masks=masks)
    found = list(read(tmp_path / "a.npz", reading()))
    assert [(case.target, case.labels) for case in found] == [(0, {0, 2}), (2, {0, 2}), (1, {1})]
    assert found[1].mask.sum() == 4
    assert found[0].image.dtype == torch.float32
    np.testing.assert_allclose(found[0].image, images[0], rtol=1e-6)
    assert len(read(tmp_path / "a.npz", reading())[1:]) == 2


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({}, "has no array 'images'"),
        ({"images": np.zeros((1, 3, 9, 9), np.uint8)}, "have the shape"),
        ({"images": np.zeros((1, 3, 8, 8), np.int64)}, "the type int64: give"),
        ({"labels": np.array([3])}, "has the label 3, and the network has the classes 0 to 2"),
        ({"labels": np.array([0, 1])}, r"the labels of .* have the shape \(2,\)"),
        ({"masks": np.zeros((1, 4, 4))}, r"the masks of .* give \(1, 8, 8\)"),
    ],
)
def test_arrays_that_are_wrong(tmp_path, arrays, message):
    good = {"images": np.zeros((1, 3, 8, 8), np.uint8)} if arrays else {}
    np.savez(tmp_path / "a.npz", **{**good, **arrays})
    with pytest.raises(InputError, match=message):
        read(tmp_path / "a.npz", reading())


def test_arrays_hold_no_code(tmp_path):
    np.savez(tmp_path / "a.npz", images=np.array([{}], dtype=object))
    with pytest.raises(InputError, match=r"can't be read as an \.npz"):
        read(tmp_path / "a.npz", reading())


def test_what_is_no_data(tmp_path):
    with pytest.raises(InputError, match=r"there is no data .* give a folder of pictures"):
        read(tmp_path / "none", reading())
    with pytest.raises(InputError, match="there is no picture in"):
        read(tmp_path, reading())
    (tmp_path / "a.txt").write_text("")
    with pytest.raises(InputError, match="a file of an unknown kind"):
        read(tmp_path / "a.txt", reading())
    with pytest.raises(InputError, match="resize is 'cover' or 'stretch'"):
        reading(resize="squeeze")
    with pytest.raises(InputError, match="stands for the class 5"):
        reading(named={"cow": 5}).class_of("cow")


def test_a_name_of_two_classes():
    twice = reading(class_names=["crane", "dog", "crane"])
    assert twice.class_of("dog") == 1
    with pytest.raises(InputError, match="'crane' is the name of the classes 0, 2: say which"):
        twice.class_of("crane")
    assert reading(class_names=twice.class_names, named={"crane": 2}).class_of("crane") == 2
