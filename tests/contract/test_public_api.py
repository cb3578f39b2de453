"""The public names: a change of this list is a change that users see."""

import ast
import importlib
import importlib.metadata
import pkgutil
from pathlib import Path

import pytest

import sktl

PUBLIC = {
    "sktl": [
        "CNNClassifier",
        "CNNFeatures",
        "CPCFeatures",
        "FeatureStore",
        "ImageNetClassifier",
        "LinearProbe",
        "Phase",
        "__version__",
        "as_images",
        "backbones",
        "datasets",
        "engine",
        "error_table",
        "exceptions",
        "export",
        "feature_extraction",
        "images",
        "inspection",
        "linear_model",
        "list_backbones",
        "load_backbone",
        "load_image_folder",
        "load_image_table",
        "make_top_k_scorer",
        "metrics",
        "model_selection",
        "neural_network",
        "nn",
        "register_backbone",
        "self_supervised",
        "training",
        "utils",
    ],
    "sktl.backbones": [
        "Backbone",
        "BackboneSpec",
        "FeatureNetwork",
        "Preprocessing",
        "Stage",
        "clear_loaded",
        "list_backbones",
        "load_backbone",
        "register_backbone",
    ],
    "sktl.datasets": [
        "ImageReport",
        "ImageReportDisplay",
        "check_leakage",
        "fetch_caltech101",
        "fetch_dog_breed",
        "fetch_dogs_vs_cats",
        "fetch_fashion_mnist",
        "fetch_flowers",
        "fetch_flowers102",
        "fetch_flowers17",
        "fetch_imagenet_v2",
        "fetch_stanford_dogs",
        "fetch_tiny_imagenet",
        "image_report",
        "load_image_folder",
        "load_image_table",
        "near_duplicate_groups",
        "write_dog_breed_submission",
    ],
    "sktl.engine": [
        "Batch",
        "FeatureStore",
        "Network",
        "Recipe",
        "compute_features",
        "default_store_path",
        "extract",
        "prepare",
        "resolve_store",
    ],
    "sktl.exceptions": [
        "BackboneNotFoundError",
        "BadImage",
        "BadImageWarning",
        "BatchSizeWarning",
        "CollapseWarning",
        "DatasetError",
        "DivergenceError",
        "ImageDecodeError",
        "ImageFormatError",
        "LayerNotFoundError",
        "MissingDependencyError",
        "ParameterError",
        "SavedModelError",
        "SktlError",
        "StoreWarning",
        "WeightsError",
        "WorkerWarning",
    ],
    "sktl.export": ["export_onnx", "load", "save"],
    "sktl.feature_extraction": ["CNNFeatures"],
    "sktl.images": ["ImageCollection", "ImageEstimatorMixin", "as_images", "decode_image"],
    "sktl.inspection": [
        "AdversarialDisplay",
        "AugmentationDisplay",
        "ClassActivation",
        "ClassActivationDisplay",
        "CleanlabInputs",
        "ConfusedPairsDisplay",
        "ErrorGalleryDisplay",
        "FeatureMapDisplay",
        "FirstLayerFiltersDisplay",
        "ImageGridDisplay",
        "ImageSetDisplay",
        "ReceptiveField",
        "TopKCurveDisplay",
        "TopPatchesDisplay",
        "TrainingCurvesDisplay",
        "adversarial_accuracy",
        "adversarial_pictures",
        "class_activation",
        "cleanlab_inputs",
        "confused_pairs",
        "error_table",
        "error_table_from_predictions",
        "receptive_field",
        "top_patches",
    ],
    "sktl.linear_model": ["LogisticProbe"],
    "sktl.metrics": [
        "make_out_of_subset_scorer",
        "make_top_k_scorer",
        "out_of_subset_rate",
        "top_k_accuracy",
    ],
    "sktl.model_selection": [
        "DiagnosisDisplay",
        "LabelEfficiency",
        "ModelComparison",
        "ModelRanking",
        "OptunaSearch",
        "PerClassSplit",
        "Strategy",
        "diagnose",
        "fine_tuning_space",
        "frozen_space",
        "label_efficiency_curve",
        "per_class_split",
        "rank_models",
        "recommend_strategy",
        "split_from_list",
    ],
    "sktl.neural_network": [
        "CNNClassifier",
        "ImageNetClassifier",
        "LearningRateDisplay",
        "OverfitReport",
        "find_lr",
        "overfit_check",
    ],
    "sktl.nn": [
        "CPCNetwork",
        "Contrast",
        "Mixed",
        "POOLINGS",
        "PatchGrid",
        "RowContext",
        "basic5",
        "cut_patches",
        "cutmix",
        "info_nce",
        "lenet",
        "make_head",
        "mixup",
        "pool",
        "pooled_shape",
        "small3",
        "small_encoder",
    ],
    "sktl.self_supervised": ["CPCFeatures", "LinearProbe"],
    "sktl.training": ["Augmentation", "Patience", "Phase", "PrecheltUP"],
    "sktl.utils": [],
    "sktl.utils.estimator_checks": [
        "check_image_estimator",
        "image_checks",
        "parametrize_with_image_checks",
    ],
}


@pytest.mark.parametrize("package", PUBLIC)
def test_names_are_those_agreed_on_and_resolve(package):
    module = importlib.import_module(package)
    names = list(getattr(module, "__all__", []))
    assert sorted(names) == PUBLIC[package]
    for name in names:
        assert getattr(module, name) is not None


def test_no_package_is_forgotten():
    packages = {
        f"sktl.{module.name}"
        for module in pkgutil.iter_modules(sktl.__path__)
        if not module.name.startswith("_")
    }
    assert packages == {name for name in PUBLIC if name.count(".") == 1}
    assert {name.removeprefix("sktl.") for name in packages} <= set(sktl.__all__)


@pytest.mark.parametrize("package", [name for name in PUBLIC if name.count(".") == 1])
def test_files_inside_a_package_are_private_or_public_on_purpose(package):
    module = importlib.import_module(package)
    inside = {m.name for m in pkgutil.iter_modules(getattr(module, "__path__", []))}
    public = {name for name in inside if not name.startswith("_")}
    # The room of small pieces has public files, one idea a file.
    pieces = {"cpc", "heads", "info_nce", "mixing", "pooling", "scratch"}
    allowed = {"sktl.utils": {"estimator_checks"}, "sktl.nn": pieces}
    assert public == allowed.get(package, set())


@pytest.mark.parametrize("name", [n for n in PUBLIC["sktl"] if n in sktl._HOME])
def test_top_level_names_are_those_of_their_packages(name):
    home = importlib.import_module(f"sktl.{sktl._HOME[name]}")
    assert getattr(sktl, name) is getattr(home, name)
    assert name in home.__all__


def test_dir_lists_the_public_names():
    assert set(PUBLIC["sktl"]) <= set(dir(sktl))
    assert dir(sktl) == sorted(sktl.__all__)


def test_unknown_names():
    with pytest.raises(AttributeError, match="module 'sktl' has no attribute 'CNNFeature'"):
        sktl.CNNFeature  # noqa: B018
    with pytest.raises(ImportError, match="cannot import name 'CNNFeature'"):
        from sktl import CNNFeature  # noqa: F401
    assert not hasattr(sktl, "_no_such_name")


def test_type_checkers_see_the_names_that_users_see():
    """mypy reads the imports under TYPE_CHECKING; the interpreter reads `_HOME`."""
    (block,) = (
        node
        for node in ast.parse(Path(sktl.__file__).read_text()).body
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
    )
    shown = {
        alias.asname: node.module.removeprefix("sktl.")
        for node in block.body
        for alias in node.names
    }
    assert shown == sktl._HOME


def test_version():
    assert sktl.__version__ == importlib.metadata.version("sktl")
