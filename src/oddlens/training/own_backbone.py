"""The user's own backbone: read when fitting begins, and described in the settings once the input's size is known."""

from __future__ import annotations

from pathlib import Path

from oddlens.artifact import detector_file
from oddlens.config.backbones import EFFICIENTNET_LITE0, TIMM_PREFIX, OnnxBackbone
from oddlens.config.base import InputSpec
from oddlens.config.detectors import (
    BACKBONE_EXCLUDED,
    AutoSettings,
    DetectorSettings,
    FamilySettings,
    FeaturesSettings,
    PretrainedSettings,
)
from oddlens.data.training_images import PRETRAINED_SIDES, MaxSides
from oddlens.errors import SettingsError
from oddlens.io.paths import expand_home
from oddlens.models.backbones import efficientnet_lite
from oddlens.models.backbones.onnx_exporter import read_network
from oddlens.models.backbones.onnx_graph import BackboneFile, OnnxGraph, read_backbone
from oddlens.models.backbones.onnx_outputs import describe_backbone
from oddlens.models.backbones.timm_models import convert_timm
from oddlens.models.pretrained.base import enlarged_size

N_SCORED = 2  # outputs, the deepest ones
N_CONSIDERED = 4  # the deepest outputs; all of them but the last, whose grid is too coarse, are for the map


def open_backbone(settings: DetectorSettings) -> BackboneFile | None:
    """The user's own backbone, if the settings name one.

    Raises:
        MissingExtraError: `auto` is asked for the one of an extra that is not installed.
        SettingsError: they name several, or one that is known by its digest alone.
        DataNotFoundError, ArtifactError: it cannot be read or used.
    """
    if isinstance(settings, AutoSettings) and not settings.takes_backbone and settings.backbone != EFFICIENTNET_LITE0:
        raise SettingsError(f"backbone: {BACKBONE_EXCLUDED}")
    own = settings.backbones - {EFFICIENTNET_LITE0}
    if not own:
        if isinstance(settings, AutoSettings) and settings.takes_backbone and "backbone" in settings.model_fields_set:
            efficientnet_lite.check_installed()  # `auto` does without it only if it is not asked for
        return None
    if len(own) > 1:
        raise SettingsError("members with different backbones of one's own cannot be combined; use one of them for all")
    (backbone,) = own
    if isinstance(backbone, OnnxBackbone):
        raise SettingsError(
            f"the backbone {backbone.name} (SHA-256 {backbone.sha256[:12]}...) is not part of the plan; give its file "
            "again with --backbone"
        )
    file = read_own(backbone)
    read_network(file.graph.content, file.graph.name)  # or it could not be exported later
    return file


def read_own(name: str) -> BackboneFile:
    """The user's own backbone by its name: an .onnx file, timm:NAME, or a detector that has one.

    Raises:
        DataNotFoundError, SettingsError, ArtifactError: it cannot be read or used.
    """
    if name.startswith(TIMM_PREFIX):
        return convert_timm(name)
    path = Path(expand_home(name))
    return read_backbone(path) if path.suffix.lower() == ".onnx" else backbone_of_detector(path)


def backbone_of_detector(path: Path) -> BackboneFile:
    """The user's own backbone in a detector file.

    Raises:
        SettingsError: the detector has none.
        DataNotFoundError, ArtifactError: the file cannot be read.
    """
    manifest, tensors = detector_file.load(path)
    own = manifest.model.own_backbone
    if own is None:
        raise SettingsError(f"{path}: has no backbone of its own; name an .onnx file or timm:NAME")
    graph = OnnxGraph(tensors[detector_file.GRAPH].tobytes(), own.name)
    return BackboneFile(graph, own.source, own.licence, own.mean, own.std)


def input_sides(file: BackboneFile) -> MaxSides:
    """How large the input may be: as large as the images of the graph, where it prescribes their size."""
    height, width = file.graph.fixed
    if height is None or width is None:
        return PRETRAINED_SIDES
    return MaxSides(max(height, width), min(height, width), PRETRAINED_SIDES.tile_seconds)


def describe_parts(
    settings: FamilySettings, file: BackboneFile | None, spec: InputSpec
) -> tuple[FamilySettings, tuple[str, ...]]:
    """The settings with the user's own backbone as it is for images of that form, and remarks on its use.

    Raises:
        SettingsError: the images are larger than those of the graph, or a family needs features of places.
        ArtifactError: the graph takes no such images, or has no features among its outputs.
    """
    if file is None:
        return settings, ()
    remarks = dict[str, None]()

    def change(part: PretrainedSettings) -> PretrainedSettings:
        if part.backbone == EFFICIENTNET_LITE0:
            return part
        backbone = describe_backbone(file, *enlarged_size(spec, part.side))
        check_use(part, backbone, spec)
        result = with_depths(part, backbone)
        remarks[describe_use(result, backbone, file)] = None
        return result

    return settings.map_backbones(change), tuple(remarks)


def check_use(settings: PretrainedSettings, backbone: OnnxBackbone, spec: InputSpec) -> None:
    """Refuse images that are larger than the graph's, and families that need features of places where it has none."""
    if spec.height > backbone.height or spec.width > backbone.width:
        raise SettingsError(
            f"{backbone.name}: takes images of {backbone.width} x {backbone.height} pixels alone, and those of the "
            f"detector have {spec.width} x {spec.height}; use --size {min(backbone.height, backbone.width)}, or tiles "
            "of that side (--tile)"
        )
    if backbone.outputs[0].is_pooled and not isinstance(settings, FeaturesSettings):
        raise SettingsError(
            f"{backbone.name}: has only features of whole images, and {settings.family} compares places; use "
            "--detector features, or export the network with feature maps (N, C, h, w)"
        )


def with_depths(settings: PretrainedSettings, backbone: OnnxBackbone) -> PretrainedSettings:
    """The settings with the backbone, and with its deepest outputs where depths are not set."""
    depths = tuple(range(len(backbone.outputs)))
    defaults = {"depths": depths[-N_SCORED:], "map_depths": depths[-N_CONSIDERED:-1] or depths}
    changes = {
        name: value
        for name, value in defaults.items()
        if name in type(settings).model_fields and name not in settings.model_fields_set
    }
    return settings.model_copy(update={"backbone": backbone, **changes})


def describe_use(settings: PretrainedSettings, backbone: OnnxBackbone, file: BackboneFile) -> str:
    """What a family uses of the backbone, in a remark."""
    depths = {*settings.depths, *getattr(settings, "map_depths", ()), *getattr(settings, "fine_depths", ())}
    used = [output for depth, output in enumerate(backbone.outputs) if depth in depths]
    others = sorted({*file.graph.outputs, *file.graph.other_outputs} - {output.name for output in used})
    rest = f"; not used: {', '.join(map(repr, others))}" if others else ""
    return (
        f"{settings.family}: {backbone.name} gets images of {backbone.width} x {backbone.height} pixels and gives "
        f"{', '.join(output.describe() for output in used)}{rest}"
    )
