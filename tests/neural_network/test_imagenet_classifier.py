"""The original head as a classifier: labels, subsets, numbers."""

import pickle

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.datasets import load_sample_images
from sklearn.model_selection import cross_val_score
from sklearn.pipeline import make_pipeline
from torch import nn

from sktl import CNNFeatures, ImageNetClassifier, load_backbone, make_top_k_scorer
from sktl.datasets._imagenet_classes import choose_wnids, imagenet_classes, match_classes
from sktl.exceptions import ImageDecodeError, ParameterError, WeightsError
from sktl.metrics import make_out_of_subset_scorer, out_of_subset_rate

PHOTOGRAPHS = load_sample_images().images  # a temple in China, a dahlia


def test_it_knows_a_palace_and_a_flower():
    model = ImageNetClassifier().fit(PHOTOGRAPHS)
    assert model.predict(PHOTOGRAPHS).tolist() == ["palace", "daisy"]
    assert len(model.classes_) == 1000
    assert model.in_subset_.all()
    assert (np.sort(model.classes_) == model.classes_).all()


@pytest.mark.parametrize("name", ["resnet18", "squeezenet1_1", "timm/efficientnet_b0"])
def test_numbers_are_those_of_the_network(name):
    """Also where the head is no linear layer: SqueezeNet's is a convolution."""
    backbone = load_backbone(name, None)
    model = ImageNetClassifier(backbone, precision="exact", store=None).fit(PHOTOGRAPHS)
    features = CNNFeatures(backbone, layer="logits", precision="exact", store=None)
    order = [list(imagenet_classes()).index(wnid) for wnid in model.wnids_]
    transform = backbone.preprocessing
    pixels = torch.stack(
        [torch.from_numpy(_plain_transform(image, transform)) for image in PHOTOGRAPHS]
    )
    with torch.no_grad():
        expected = backbone.module(pixels).numpy()
    got = model.decision_function(PHOTOGRAPHS)
    np.testing.assert_allclose(got, expected[:, order], rtol=1e-3, atol=1e-3 * expected.std())
    np.testing.assert_allclose(features.transform(PHOTOGRAPHS)[:, order], got, rtol=1e-4, atol=1e-4)


def _plain_transform(image, preprocessing):
    from PIL import Image

    picture = Image.fromarray(image)
    scale = preprocessing.resize / min(picture.size)
    sizes = [int(side * scale) for side in picture.size]
    filters = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}
    picture = picture.resize(sizes, filters[preprocessing.interpolation])
    left, top = (round((side - preprocessing.size) / 2) for side in picture.size)
    box = (left, top, left + preprocessing.size, top + preprocessing.size)
    x = np.asarray(picture.crop(box), np.float32) / 255
    x = (x - np.array(preprocessing.mean)) / np.array(preprocessing.std)
    return x.transpose(2, 0, 1).astype(np.float32)


def test_labels_by_id_name_and_map():
    names = ["palace", "Bell_Cote"]
    model = ImageNetClassifier().fit(PHOTOGRAPHS, names)
    assert model.predict(PHOTOGRAPHS[:1]).tolist() == ["palace"]
    assert set(names) == set(model.classes_[model.in_subset_])
    assert "golden retriever" in model.classes_
    by_id = ImageNetClassifier().fit(PHOTOGRAPHS, ["n03877845-palace", "n11939491"])
    assert by_id.predict(PHOTOGRAPHS).tolist() == ["n03877845-palace", "n11939491"]
    assert "n02099601" in by_id.classes_
    mapped = ImageNetClassifier(restrict=True, label_map={3: "palace", 7: 985})
    assert mapped.fit(PHOTOGRAPHS, [3, 7]).score(PHOTOGRAPHS, [3, 7]) == 1
    assert mapped.classes_.tolist() == [3, 7]
    np.testing.assert_allclose(mapped.predict_proba(PHOTOGRAPHS).sum(axis=1), 1, rtol=1e-5)
    with pytest.raises(ParameterError, match="restrict=True"):
        clone(mapped).set_params(restrict=False).fit(PHOTOGRAPHS, [3, 7])
    with pytest.raises(ParameterError, match="5 is neither a name nor a WordNet id"):
        match_classes([0, 5], {0: "pug"})
    assert match_classes([0], {0: np.int64(254)}) == {0: "n02110958"}
    with pytest.raises(ParameterError, match="restrict=True alone"):
        ImageNetClassifier(restrict=True, classes="dogs", label_map={0: "pug"}).fit(
            PHOTOGRAPHS, [0, 0]
        )
    with pytest.raises(ParameterError, match=r"names of other classes.*'tiger'"):
        ImageNetClassifier(label_map={"tiger": "tiger cat"}).fit(PHOTOGRAPHS, ["tiger", "tiger"])
    with pytest.raises(ParameterError, match="''"):
        match_classes([""])
    with pytest.raises(ParameterError, match="say what such labels mean in label_map"):
        ImageNetClassifier().fit(PHOTOGRAPHS, [3, 7])


def test_labels_that_match_nothing_are_all_listed():
    with pytest.raises(ParameterError) as error:
        ImageNetClassifier().fit(
            [*PHOTOGRAPHS, *PHOTOGRAPHS], ["palace", "daysy", "zzz", "CRAWFISH"]
        )
    message = str(error.value)
    assert "3 labels cannot be matched" in message
    assert "'daysy' is none. Did you mean 'daisy'" in message
    assert "'zzz'" in message
    assert "'CRAWFISH' is a name of several classes: n01984695" in message
    with pytest.raises(ParameterError, match=r"several labels of one class.*Palace"):
        ImageNetClassifier().fit(PHOTOGRAPHS, ["palace", "Palace"])
    with pytest.raises(ParameterError, match=r"outside of the subset.*palace"):
        ImageNetClassifier(classes="dogs").fit(PHOTOGRAPHS, ["palace", "pug"])


def test_what_a_map_sends_to_no_class_is_to_blame():
    model = ImageNetClassifier(label_map={"daisy": "palacs", "b": "daisy"}, restrict=True)
    with pytest.raises(ParameterError) as error:
        model.fit(PHOTOGRAPHS, ["daisy", "b"])
    assert str(error.value).endswith(
        "1 labels cannot be matched to classes of ImageNet:\n  'palacs', to which label_map sends "
        "'daisy', is none. Did you mean 'palace' or 'patas' or 'impala'?"
    )


@pytest.mark.parametrize("name", ["resnet18", "squeezenet1_1"])
def test_stored_pictures_need_no_forward_pass(name, tmp_path, monkeypatch):
    """SqueezeNet's head is a convolution, so that its very outputs are stored."""
    model = ImageNetClassifier(name, weights=None, store=tmp_path / "store.h5").fit(PHOTOGRAPHS)
    expected = model.predict(PHOTOGRAPHS)

    def refuse(*_):
        raise AssertionError("the network is needed again")

    monkeypatch.setattr("sktl.neural_network._imagenet_classifier._is_last", refuse)
    if name == "squeezenet1_1":
        monkeypatch.setattr("sktl.engine._network.load_backbone", refuse)
    assert (model.predict(PHOTOGRAPHS) == expected).all()


def test_names_that_differ_in_case_alone():
    assert match_classes(["Cardigan", "cardigan"]) == {
        "Cardigan": "n02113186",
        "cardigan": "n02963159",
    }
    for label in ("CARDIGAN", "cardigan", "Cardigan", "crane"):
        with pytest.raises(ParameterError, match="several"):
            match_classes([label, "pug"])
    with pytest.raises(ParameterError, match=r"n02012849 \(crane bird\), n03126707 \(crane\)"):
        random_head(label_map={0: "crane"}, restrict=True).fit(PHOTOGRAPHS, [0, 0])
    birds = random_head(label_map={"crane": "n02012849"}, restrict=True)
    birds.fit(PHOTOGRAPHS, ["crane", "flamingo"])
    assert birds.wnids_.tolist() == ["n02012849", "n02007558"]
    with pytest.raises(ParameterError, match=r"of other classes: .*crane.*; use ids"):
        birds.set_params(restrict=False).fit(PHOTOGRAPHS, ["crane", "flamingo"])
    assert match_classes(["cardigan"], among=choose_wnids("dogs")) == {"cardigan": "n02113186"}
    assert match_classes(["CARDIGAN"], among=choose_wnids("dogs")) == {"CARDIGAN": "n02113186"}
    assert match_classes(["black-and-tan_coonhound"]) == {"black-and-tan_coonhound": "n02089078"}
    assert match_classes(["alsatian"]) == {"alsatian": "n02106662"}


def test_every_name_and_id_is_found():
    table = imagenet_classes()
    assert match_classes(table) == {wnid: wnid for wnid in table}
    assert match_classes(table.values()) == {name: wnid for wnid, name in table.items()}


def test_names_are_those_of_torchvision():
    from torchvision.models import ResNet18_Weights

    assert list(imagenet_classes().values()) == ResNet18_Weights.IMAGENET1K_V1.meta["categories"]


def test_a_subset_is_renormalised():
    free = ImageNetClassifier(classes="dogs").fit(PHOTOGRAPHS)
    bound = ImageNetClassifier(classes="dogs", restrict=True).fit(PHOTOGRAPHS)
    assert (len(free.classes_), free.in_subset_.sum(), len(bound.classes_)) == (1000, 118, 118)
    part = free.predict_proba(PHOTOGRAPHS)[:, free.in_subset_].astype(float)
    expected = part / part.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(bound.predict_proba(PHOTOGRAPHS), expected, rtol=1e-4, atol=1e-7)
    dogs = ["pug", "beagle"]
    free.fit(PHOTOGRAPHS, dogs)
    assert make_out_of_subset_scorer()(free, PHOTOGRAPHS, dogs) == -1  # palace and daisy
    assert make_out_of_subset_scorer()(bound, PHOTOGRAPHS, dogs) == 0
    # What the estimator marks counts in a pipeline, too: of these labels all would be out.
    assert make_out_of_subset_scorer()(make_pipeline(bound), PHOTOGRAPHS, ["palace"] * 2) == 0
    assert make_out_of_subset_scorer(["palace", "pug"])(free, PHOTOGRAPHS, dogs) == -0.5
    assert out_of_subset_rate(["pug", "mop"], {"pug", "beagle"}) == 0.5
    assert out_of_subset_rate(["pug", "mop"], {"pug": 1}.keys()) == 0.5
    with pytest.raises(ParameterError, match="at least one"):
        out_of_subset_rate([], ["pug"])
    with pytest.raises(ParameterError, match="not one string"):
        out_of_subset_rate(["pug"], "pug")


def test_it_needs_no_fit_and_survives_a_pickle():
    model = ImageNetClassifier()
    assert model.predict(PHOTOGRAPHS).tolist() == ["palace", "daisy"]
    assert not hasattr(model, "classes_"), "predict changed the estimator"
    fitted = ImageNetClassifier(restrict=True).fit(PHOTOGRAPHS, ["palace", "daisy"])
    content = pickle.dumps(fitted)
    assert len(content) < 100_000, "the weights are in the pickle"
    np.testing.assert_array_equal(
        pickle.loads(content).predict_proba(PHOTOGRAPHS), fitted.predict_proba(PHOTOGRAPHS)
    )
    scores = cross_val_score(
        ImageNetClassifier(classes="dogs"), 4 * PHOTOGRAPHS, 4 * ["pug", "beagle"], cv=2
    )
    assert scores.tolist() == [0, 0]


def test_a_score_before_fit_speaks_of_names():
    model = ImageNetClassifier()
    assert model.score(PHOTOGRAPHS, ["palace", "pug"], sample_weight=[3, 1]) == 0.75
    ids = ["n03877845", "n11939491"]
    with pytest.raises(ParameterError, match=r"names of classes .* \['n03877845', 'n11939491'\]"):
        model.score(PHOTOGRAPHS, ids)
    assert model.fit(PHOTOGRAPHS, ids).score(PHOTOGRAPHS, ids) == 1
    dogs = ImageNetClassifier(classes="dogs", restrict=True)
    assert dogs.score(PHOTOGRAPHS, ["palace", "daisy"]) == 0, "which are names, if not of dogs"


def random_head(**parameters):
    return ImageNetClassifier("resnet18", weights=None, image_size=32, store=None, **parameters)


@pytest.mark.parametrize("store", [None, "memory"])
def test_weights_that_are_not_those_of_the_fit(store, tmp_path):
    weights, module = tmp_path / "w.pth", load_backbone("resnet18", None).module
    torch.save(module.state_dict(), weights)
    model = random_head(classes=["palace", "daisy"], restrict=True)
    model.set_params(weights=weights, store=store).fit(PHOTOGRAPHS)
    before = model.predict_proba(PHOTOGRAPHS)
    content = pickle.dumps(model.set_params(store=None))
    model.set_params(store=store)
    torch.save({name: 2 * tensor for name, tensor in module.state_dict().items()}, weights)
    for fitted in (model, pickle.loads(content)):
        with pytest.raises(WeightsError, match="are not those of the fit"):
            fitted.predict_proba(PHOTOGRAPHS)
    torch.save(module.state_dict(), weights)
    np.testing.assert_allclose(model.predict_proba(PHOTOGRAPHS), before, rtol=1e-5)


def test_classes_stay_as_they_were_given():
    for names in (("tench", "brambling"), np.array(["tench", "brambling"]), {"tench": 1, "pug": 2}):
        model = random_head(classes=names).fit(PHOTOGRAPHS)
        assert model.classes is names
        assert model.predict(PHOTOGRAPHS).shape == (2,)
        assert model.classes is names
    for names in (iter(["tench", "pug"]), 5):
        with pytest.raises(ParameterError, match='classes must be None, "dogs" or a list; got'):
            random_head(classes=names).fit(PHOTOGRAPHS)


def test_labels_and_maps_of_the_wrong_type():
    with pytest.raises(ParameterError, match=r"label_map must be a dict or None; got \[1, 2\]"):
        random_head(label_map=[1, 2]).fit(PHOTOGRAPHS, ["palace", "daisy"])
    mixed = np.array(["palace", 3], dtype=object)
    with pytest.raises(ParameterError, match=r"of one type; got \['int', 'str'\]"):
        random_head().fit(PHOTOGRAPHS, mixed)
    with pytest.raises(ParameterError, match="n_jobs must be"):
        random_head(n_jobs=0).fit(PHOTOGRAPHS)


def test_bad_input():
    with pytest.raises(ImageDecodeError):
        ImageNetClassifier().fit([b"no picture"])
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 10))
    with pytest.raises(ParameterError, match="10 outputs, not the 1000 classes"):
        ImageNetClassifier(net, store=None).fit(PHOTOGRAPHS)
    with pytest.raises(ParameterError, match="10 outputs, not the 1000 classes"):
        ImageNetClassifier(net, store=None).predict(PHOTOGRAPHS)
    with pytest.raises(ParameterError, match="label; 1 of 2 are missing, the first at position 1"):
        ImageNetClassifier().fit(PHOTOGRAPHS, ["palace", None])
    with pytest.raises(ParameterError, match=r"(?s)crops.*classes must be"):
        ImageNetClassifier(crops="five", classes="cats").fit(PHOTOGRAPHS)


def test_real_pictures(shared_data):
    folder = shared_data / "imagenet-samples"
    paths = sorted(str(path) for path in folder.glob("*.JPEG"))
    if not paths:
        pytest.skip("the ImageNet samples are not at hand")
    ids = np.array([path.rpartition("/")[2][:9] for path in paths])
    model = ImageNetClassifier().fit(paths, ids)
    assert model.score(paths, ids) == pytest.approx(0.883, abs=0.005)
    assert make_top_k_scorer(5)(model, paths, ids) == pytest.approx(0.972, abs=0.005)
