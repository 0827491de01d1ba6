"""What says how a picture becomes an input: names, dictionaries, other libraries' transforms."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from graphprop.errors import InputError
from graphprop.frontend.preprocessing import changed, recorded
from graphprop.pictures.preprocessing import Preprocessing

RGB = (3, 224, 224)
MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
SIZES = [(300, 200), (200, 301), (224, 224), (640, 427), (97, 333)]


def picture(size, seed=0):
    """Smooth colors with an edge: all three channels differ, and so do the sides."""
    width, height = size
    rows, columns = np.mgrid[0:height, 0:width]
    noise = np.random.default_rng(seed).integers(0, 60, (height, width))
    channels = [rows * 195 / height, columns * 195 / width, (rows > columns) * 195]
    return Image.fromarray((np.stack(channels, -1) + noise[..., None]).astype(np.uint8))


def ours(given, image, shape=RGB):
    manifest = {"input_shape": list(shape), "preprocessing": recorded(given, shape)}
    preprocessing = Preprocessing.of(manifest)
    return preprocessing.tensor(preprocessing.fitted(image, "picture")[0])[0]


# Equal to what the libraries compute


def torchvision_transforms():
    t = pytest.importorskip("torchvision.transforms")
    v2 = pytest.importorskip("torchvision.transforms.v2")
    presets = pytest.importorskip("torchvision.transforms._presets")
    bicubic = t.InterpolationMode.BICUBIC
    normalize = t.Normalize(MEAN, STD)
    return {
        "classic": t.Compose([t.Resize(256), t.CenterCrop(224), t.ToTensor(), normalize]),
        "bicubic": t.Compose([t.Resize(232, bicubic), t.CenterCrop((224, 224)), t.ToTensor()]),
        "both": t.Compose([t.Resize((224, 224)), t.ToTensor(), normalize]),
        "squash": t.Compose([t.Resize((250, 240)), t.CenterCrop(224), t.ToTensor()]),
        "nested": t.Compose(
            [t.Compose([t.Resize([256])]), t.Compose([t.CenterCrop(224)]), t.ToTensor()]
        ),
        "padded": t.Compose([t.Resize(180), t.CenterCrop(224), t.ToTensor(), normalize]),
        "v2": v2.Compose(
            [
                v2.Resize(256),
                v2.CenterCrop(224),
                v2.ToImage(),
                v2.ToDtype(torch.float32, scale=True),
                v2.Normalize(MEAN, STD),
            ]
        ),
        "bytes": v2.Compose(
            [
                v2.Resize(256),
                v2.CenterCrop(224),
                v2.ToImage(),
                v2.ToDtype(torch.float32, scale=False),
                v2.Normalize([120.0] * 3, [60.0] * 3),
            ]
        ),
        "preset": presets.ImageClassification(crop_size=224, resize_size=232),
    }


NAMES = ["classic", "bicubic", "both", "squash", "nested", "padded", "v2", "bytes", "preset"]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("size", SIZES)
def test_a_transform_of_torchvision_computes_the_same(name, size):
    transform = torchvision_transforms()[name]
    image = picture(size)
    found, wanted = ours(transform, image), transform(image)
    torch.testing.assert_close(found, wanted.as_subclass(torch.Tensor), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("size", SIZES)
def test_imagenet_is_torchvision_s(size):
    image = picture(size)
    wanted = torchvision_transforms()["classic"](image)
    torch.testing.assert_close(ours("imagenet", image), wanted, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("mode", ["center", "squash"])
def test_timm_computes_the_same(size, mode):
    data = pytest.importorskip("timm.data")
    config = {
        "input_size": (3, 224, 224),
        "interpolation": "bicubic",
        "mean": (0.5, 0.4, 0.3),
        "std": (0.2, 0.3, 0.25),
        "crop_pct": 0.9,
        "crop_mode": mode,
    }
    transform = data.create_transform(**config)
    image = picture(size)
    wanted = transform(image)
    for given in (config, transform, {"architecture": "x", "pretrained_cfg": config}):
        torch.testing.assert_close(ours(given, image), wanted, atol=1e-5, rtol=1e-5)


def test_the_configuration_that_a_model_of_timm_has():
    timm = pytest.importorskip("timm")
    model = timm.create_model("resnet18", pretrained=False)
    for given in (model.pretrained_cfg, timm.data.resolve_data_config(model=model)):
        found = recorded(given, RGB)
        assert found["mean"] == MEAN
        assert found["resize"] == int(224 / model.pretrained_cfg["crop_pct"])


HUGGING_FACE = {
    "vit": (
        {"do_resize": True, "size": {"height": 224, "width": 224}, "resample": 2,
         "do_rescale": True, "rescale_factor": 1 / 255, "do_normalize": True,
         "image_mean": [0.5] * 3, "image_std": [0.5] * 3},
        {"resize": [224, 224], "interpolation": "bilinear", "mean": [0.5] * 3, "std": [0.5] * 3},
    ),
    "old": (
        {"do_resize": True, "size": 224, "resample": 3, "do_normalize": True,
         "image_mean": MEAN, "image_std": STD, "feature_extractor_type": "ViTFeatureExtractor"},
        {"resize": [224, 224], "interpolation": "bicubic", "mean": MEAN, "std": STD},
    ),
    "resnet": (
        {"do_resize": True, "size": {"shortest_edge": 224}, "crop_pct": 0.875, "resample": 3,
         "do_normalize": True, "image_mean": MEAN, "image_std": STD,
         "image_processor_type": "ConvNextImageProcessor"},
        {"resize": 256, "interpolation": "bicubic", "mean": MEAN, "std": STD},
    ),
    "mobilenet": (
        {"do_resize": True, "size": {"shortest_edge": 256}, "do_center_crop": True,
         "crop_size": {"height": 224, "width": 224}, "resample": 2, "do_rescale": True,
         "rescale_factor": 1 / 255, "do_normalize": False, "do_flip_channel_order": True},
        {"resize": 256, "channels": "BGR", "mean": [0.0] * 3, "std": [1.0] * 3},
    ),
    "efficientnet": (
        {"do_resize": True, "size": {"height": 224, "width": 224}, "do_rescale": True,
         "rescale_factor": 1 / 127.5, "rescale_offset": True, "do_normalize": False,
         "image_processor_type": "EfficientNetImageProcessor"},
        {"resize": [224, 224], "mean": [0.5] * 3, "std": [0.5] * 3},
    ),
    "unscaled": (
        {"do_resize": True, "size": {"height": 224, "width": 224}, "do_rescale": False,
         "do_normalize": True, "image_mean": [127.5] * 3, "image_std": [255.0] * 3},
        {"mean": [0.5] * 3, "std": [1.0] * 3},
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", HUGGING_FACE)
def test_a_processor_of_hugging_face(name, tmp_path):
    given, wanted = HUGGING_FACE[name]
    file = tmp_path / "preprocessor_config.json"
    file.write_text(json.dumps(given))

    class Processor:
        def to_dict(self):
            return given

    for form in (given, file, str(file), Processor()):
        found = recorded(form, RGB)
        for key, value in wanted.items():
            assert found[key] == (value if isinstance(value, str) else pytest.approx(value)), key


# Our own


def test_values_of_another_range_are_recorded_for_pictures_in_zero_to_one():
    image = picture((224, 224))
    pixels = torch.from_numpy(np.asarray(image).copy()).permute(2, 0, 1).float()
    mean = torch.tensor([104.0, 117.0, 123.0])[:, None, None]
    found = ours({"range": [0, 255], "mean": (104.0, 117.0, 123.0)}, image)
    torch.testing.assert_close(found, pixels - mean, atol=1e-3, rtol=1e-5)
    found = ours({"range": [0, 255], "mean": (104.0, 117.0, 123.0), "channels": "bgr"}, image)
    torch.testing.assert_close(found, pixels.flip(0) - mean, atol=1e-3, rtol=1e-5)
    found = ours({"range": [-1, 1]}, image)
    torch.testing.assert_close(found, ours("minus-one-one", image), atol=1e-5, rtol=1e-5)
    assert not torch.allclose(found, ours("zero-one", image), atol=0.1)


def test_bgr_is_not_rgb_and_is_shown_in_its_colors():
    image = picture((224, 224))
    manifest = {"input_shape": list(RGB), "preprocessing": recorded({"channels": "BGR"}, RGB)}
    preprocessing = Preprocessing.of(manifest)
    x = preprocessing.tensor(image)
    torch.testing.assert_close(x.flip(1), ours("zero-one", image)[None])
    assert not torch.equal(x.flip(1), x)
    restored = preprocessing.restored(x)[0].permute(1, 2, 0)
    np.testing.assert_allclose(restored.numpy() * 255, np.asarray(image), atol=1e-3)


def test_single_options_say_parts_otherwise():
    base = recorded("imagenet", RGB)
    assert base["resize"] == 256
    assert changed(base, {"resize": 224}, RGB) == {**base, "resize": 224}
    assert changed("imagenet", {"resize": [224, 224]}, RGB) == {**base, "resize": [224, 224]}
    assert changed(base, {"crop": 0.9}, RGB) == {**base, "resize": 248}
    assert changed(base, {"channels": "BGR"}, RGB) == {**base, "channels": "BGR"}
    assert changed(base, {"mean": 0.5}, RGB) == {**base, "mean": [0.5] * 3}
    assert changed(None, {}, RGB) is None
    assert changed(None, {"std": 2.0}, RGB)["std"] == [2.0] * 3


def test_what_is_recorded_says_the_same_again():
    for given in ("imagenet", {"range": [0, 255], "channels": "BGR"}, {"resize": [230, 240]}):
        found = recorded(given, RGB)
        assert recorded(found, RGB) == found


def test_an_input_that_is_no_picture_has_mean_and_std_alone():
    assert recorded({"mean": 1.0}, (2, 8, 8)) == {
        "size": [8, 8],
        "mean": [1.0, 1.0],
        "std": [1.0, 1.0],
    }
    with pytest.raises(InputError, match="preprocessing has 'resize', which is of pictures, but"):
        recorded({"resize": 9}, (2, 8, 8))


# Refusals


class Strange:
    def __call__(self, x):
        return x


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("imagnet", "there is no preprocessing 'imagnet': give imagenet, zero-one, minus-one-one"),
        ({"resize": 0}, "the resize of preprocessing is 0: give 'cover'"),
        ({"resize": [1, 2, 3]}, "the resize of preprocessing is [1, 2, 3]"),
        ({"resize": "squash"}, "the resize of preprocessing is 'squash'"),
        ({"resize": 256, "crop": 0.9}, "a share to crop and a resize, of which each says"),
        ({"crop": 1.5}, "the crop of preprocessing is 1.5: give the share"),
        ({"crop": [9, 9]}, "preprocessing makes inputs of size [9, 9], but the model's input has"),
        ({"interpolation": "cubic"}, "the interpolation of preprocessing is 'cubic': did you mean"),
        ({"channels": "gray"}, "the channels of preprocessing is 'gray': there are: BGR, RGB"),
        ({"range": [1, 0]}, "the range of preprocessing is [1, 0]: black comes first"),
        ({"range": 255}, "the range of preprocessing is 255: give what black and white become"),
        ({"mean": True}, "the mean of preprocessing is True"),
        (Strange(), "the transform has a step Strange that can't be recorded"),
        ({"crop_pct": 0.9}, "timm's configuration has no input_size"),
        (
            {"input_size": (3, 224, 224), "crop_mode": "border"},
            "timm's crop_mode 'border' of inputs 224 x 224 can't be recorded",
        ),
        ({"do_pad": True, "do_resize": True}, "a processor with do_pad can't be recorded"),
        (
            {"do_normalize": True, "size": {"shortest_edge": 224, "longest_edge": 500}},
            "a processor with a longest_edge can't be recorded",
        ),
    ],
)
def test_what_is_refused(given, said):
    with pytest.raises(InputError) as caught:
        recorded(given, RGB)
    assert said in str(caught.value)


def test_random_transforms_are_refused():
    t = pytest.importorskip("torchvision.transforms")
    transform = t.Compose([t.RandomResizedCrop(224), t.ToTensor()])
    with pytest.raises(InputError, match="RandomResizedCrop changes a picture at random: give the"):
        recorded(transform, RGB)
    with pytest.raises(InputError, match="a step Lambda that can't be recorded"):
        recorded(t.Compose([t.Lambda(lambda x: x), t.ToTensor()]), RGB)
    with pytest.raises(InputError, match=r"makes inputs of size \[200, 200\]"):
        recorded(t.Compose([t.Resize(256), t.CenterCrop(200), t.ToTensor()]), RGB)
    with pytest.raises(InputError, match=r"makes inputs of size \[200, 200\]"):
        recorded(t.Compose([t.Resize((200, 200)), t.ToTensor()]), RGB)


def test_a_file_that_can_t_be_read(tmp_path):
    file = tmp_path / "p.json"
    for content, said in (("{", "can't be read as JSON"), ("[1]", "holds a list: it must be a")):
        file.write_text(content)
        with pytest.raises(InputError, match=said):
            recorded(file, RGB)
