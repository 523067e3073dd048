"""The settings of the families that are trained on normal images alone."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from oddlens.config.family import FamilySettings


class AutoencoderSettings(FamilySettings):
    """The autoencoder family; the defaults are those of the CIFAR-10 reference recipe.

    `pooling` is convolution + max-pooling down, up-sampling + convolution back (the MNIST reference recipe);
    `strided` is strided convolutions, a linear bottleneck of `latent_dim`, and transposed
    convolutions back. `error` is the error at each pixel of the anomaly map. `noise` is the standard deviation, in
    units of the value range, of Gaussian noise added to the training inputs (denoising). `score` defines the anomaly
    score: "error", the mean of the largest `top_percent` of the map (100: the plain mean); "sap" and "nap", the
    distance between the hidden activations of an image and of its reconstruction, plain or whitened (RaPP); "latent",
    the Mahalanobis distance of the bottleneck from those of the training images, with shrinkage.

    Raises:
        SettingsError: a setting is wrong or unknown.

    Source: `sap` and `nap`, Kim et al., "RaPP", 2020.

    Example:
        >>> from oddlens import AutoencoderSettings, Detector
        >>> detector = Detector(AutoencoderSettings(architecture="pooling", loss="bce"))
    """

    implementation = "oddlens.models.autoencoder"
    scores_reconstruction = True

    family: Literal["autoencoder"] = "autoencoder"
    architecture: Literal["pooling", "strided"] = "strided"
    widths: tuple[Annotated[int, Field(ge=1, le=1024)], ...] = Field((32, 64, 128), min_length=1, max_length=6)
    latent_dim: int = Field(128, ge=1, le=4096)
    loss: Literal["bce", "mse", "l1", "ssim"] = "mse"
    error: Literal["mse", "l1", "ssim"] = "mse"
    score: Literal["error", "sap", "nap", "latent"] = "error"
    top_percent: float = Field(100.0, gt=0, le=100)
    noise: float = Field(0.0, ge=0, le=1)


class DictionarySettings(FamilySettings):
    """The dictionary family: whitened patches, pooled features, nearest neighbours. Closed form; no gradients.

    `score` compares features of the whole image ("pooled": small images of objects), or of the most unusual positions
    ("local": textures, large images), of which `top_percent` of the pixels count. `patch_sizes` are the sides of the
    patches, each with its own `atoms`; the map is computed from the first size. Features are pooled over `cells` parts
    each way. `neighbours` is the number of nearest normal features. `mirror` adds the training images' mirror images.
    `place` is the weight of the position in the image; 0 for textures. `bank_megabytes` limits the size of the memory
    bank of training features. With `light` "varies", patches are compared as if all images were equally bright.
    `place_floor` is added to the distance of a place from its nearest neighbours, which have a distance of about 3 on
    average: where all places look the same, as on a white background, rounding errors count otherwise.

    Raises:
        SettingsError: a setting is wrong or unknown.

    Source: features after Coates and Ng 2012.

    Example:
        >>> from oddlens import Detector, DictionarySettings
        >>> detector = Detector(DictionarySettings(score="local", patch_sizes=(4, 8)))
    """

    implementation = "oddlens.models.patch_dictionary"

    family: Literal["dictionary"] = "dictionary"
    score: Literal["pooled", "local"] = "pooled"
    patch_sizes: tuple[Annotated[int, Field(ge=2, le=32)], ...] = Field((6,), min_length=1, max_length=4)
    atoms: int = Field(150, ge=2, le=2000)
    cells: int = Field(2, ge=1, le=8)
    neighbours: int = Field(2, ge=1, le=100)
    mirror: bool = False
    place: float = Field(1.0, ge=0, le=100)
    top_percent: float = Field(1.0, gt=0, le=100)
    bank_megabytes: float = Field(16.0, gt=0, le=1024)
    light: Literal["varies", "fixed"] = "fixed"
    place_floor: float = Field(1e-3, ge=1e-6, le=10)


class RotationSettings(FamilySettings):
    """The rotation family, also called transforms: a network that classifies rotations by multiples of 90 degrees.

    Images are downscaled to `side` x `side` at most. With `mirror`, mirrored normal images count as normal. `widths`
    are the channels of the three blocks; `strided` blocks halve the image by a stride, which trains faster and is a
    little less accurate than pooling. `neighbours` is the number of nearest training features whose distance is the
    density part of the score, and `bank` the number of training images in the memory bank. `surprise` is the weight of
    the log-probabilities of the true rotations relative to the log-distances. `scored_rotations` is 4, or 1 to score an
    image only as it is, in a quarter of the time and a little less accurately.

    Raises:
        SettingsError: a setting is wrong or unknown.

    Source: Gidaris et al. 2018; Golan and El-Yaniv 2018.

    Example:
        >>> from oddlens import Detector, RotationSettings
        >>> detector = Detector(RotationSettings(mirror=False))
    """

    implementation = "oddlens.models.rotation"

    family: Literal["rotation", "transforms"] = "rotation"
    side: int = Field(32, ge=16, le=64)
    mirror: bool = True
    widths: tuple[Annotated[int, Field(ge=4, le=1024)], ...] = Field((64, 128, 256), min_length=3, max_length=3)
    strided: bool = False
    neighbours: int = Field(5, ge=1, le=100)
    bank: int = Field(1000, ge=2, le=100_000)
    surprise: float = Field(0.1, ge=0, le=10)
    scored_rotations: Literal[1, 4] = 4


class DefectsSettings(FamilySettings):
    """The defects family: a network that segments synthetic defects pasted into normal images.

    `shrink` is the factor by which images are downscaled: larger values suit large defects, 1 small ones. `widths` are
    the channels of the levels, from half the (downscaled) image's size on, each level half the one before; small images
    use the first few. `top_percent` is the percentage of the map whose mean is the anomaly score.

    Raises:
        SettingsError: a setting is wrong or unknown.

    Source: Li et al., "CutPaste", 2021; Zavrtanik et al., "DRAEM", 2021; Schlüter et al. 2022.

    Example:
        >>> from oddlens import DefectsSettings, Detector
        >>> detector = Detector(DefectsSettings(shrink=2))
    """

    implementation = "oddlens.models.defect_segmentation"

    family: Literal["defects"] = "defects"
    shrink: int = Field(1, ge=1, le=8)
    widths: tuple[Annotated[int, Field(ge=4, le=1024)], ...] = Field((32, 64, 96, 128, 128), min_length=1, max_length=8)
    top_percent: float = Field(0.5, gt=0, le=100)

    @property
    def title(self) -> str:
        """The family, with its scale where it is not the images' own."""
        return f"{self.family} at 1/{self.shrink} of the size" if self.shrink > 1 else self.family
