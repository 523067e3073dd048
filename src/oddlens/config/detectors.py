"""The settings of each family of detectors."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from oddlens.config.base import Settings, TrainingSettings

DEFAULT_BUDGET = 300.0  # seconds that `auto` takes at most unless told otherwise


class AutoencoderSettings(Settings):
    """The autoencoder family; the defaults are the CIFAR-10 seed's.

    `pooling` is convolution + max-pooling down, up-sampling + convolution back (the MNIST seed);
    `strided` is strided convolutions, a linear bottleneck of `latent_dim`, and transposed
    convolutions back. `error` is what the anomaly map holds at each pixel. `noise` is the sigma, in units of the
    value range, of Gaussian noise added to the training inputs (denoising). `score` is what the anomaly score is:
    "error", the mean of the map's largest `top_percent` (100 = plain mean); "sap" and "nap", how far the hidden
    activations of an image and of its reconstruction lie apart, plain or whitened (RaPP); "latent", how far the
    bottleneck lies from the training images' (shrunk Mahalanobis).
    """

    family: Literal["autoencoder"] = "autoencoder"
    architecture: Literal["pooling", "strided"] = "strided"
    widths: tuple[Annotated[int, Field(ge=1, le=1024)], ...] = Field((32, 64, 128), min_length=1, max_length=6)
    latent_dim: int = Field(128, ge=1, le=4096)
    loss: Literal["bce", "mse", "l1", "ssim"] = "mse"
    error: Literal["mse", "l1", "ssim"] = "mse"
    score: Literal["error", "sap", "nap", "latent"] = "error"
    top_percent: float = Field(100.0, gt=0, le=100)
    noise: float = Field(0.0, ge=0, le=1)


class DictionarySettings(Settings):
    """The dictionary family: whitened patches, pooled features, nearest neighbours. Closed form; no gradients.

    `score` is made from descriptions of the whole picture ("pooled": small pictures of objects), or from the most
    unusual places ("local": textures, large pictures), of which `top_percent` of the pixels count. `patch_sizes` are
    the sides of the patches, each with its own `atoms`; the first one makes the map. `cells` is the number of parts
    each way over which a picture is described. `neighbours` is the number of nearest normal ones. `mirror` adds the
    training images' mirror images. `place` is how much it matters where in the picture something is; 0 for textures.
    `bank_megabytes` caps what is kept of the training images.
    """

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


class TransformsSettings(Settings):
    """The transforms family: a small network that tells by how many quarter turns a picture was rotated.

    Pictures are brought to `side` x `side` at most. `mirror` says that a mirrored normal picture is normal too.
    `widths` are the channels of its three blocks; `strided` blocks halve the picture by a stride, which trains faster
    and ends a little worse than pooling. `neighbours` is the number of nearest training features whose distance is
    the density part of the score, and `bank` the number of training images whose features are kept. `surprise` is the
    weight of the log-probabilities of the right turns beside the log-distances.
    """

    family: Literal["transforms"] = "transforms"
    side: int = Field(32, ge=16, le=64)
    mirror: bool = True
    widths: tuple[Annotated[int, Field(ge=4, le=1024)], ...] = Field((64, 128, 256), min_length=3, max_length=3)
    strided: bool = False
    neighbours: int = Field(5, ge=1, le=100)
    bank: int = Field(1000, ge=2, le=100_000)
    surprise: float = Field(0.1, ge=0, le=10)


class DefectsSettings(Settings):
    """The defects family: a network that segments synthetic defects pasted into normal images.

    `shrink` is the number of pixels each way whose mean it sees as one: more finds large defects, 1 small ones.
    `widths` are the channels of its levels, from half the picture's (shrunk) size on, each level half the one before;
    small pictures use the first few. `top_percent` is the share of the map whose mean is the anomaly score.
    """

    family: Literal["defects"] = "defects"
    shrink: int = Field(1, ge=1, le=8)
    widths: tuple[Annotated[int, Field(ge=4, le=1024)], ...] = Field((32, 64, 96, 128, 128), min_length=1, max_length=8)
    top_percent: float = Field(0.5, gt=0, le=100)


MemberModel = Annotated[
    AutoencoderSettings | DictionarySettings | TransformsSettings | DefectsSettings, Field(discriminator="family")
]


# How each family trains unless told otherwise; closed-form families take the seed alone.
DEFAULT_TRAINING: dict[str, TrainingSettings] = {
    "autoencoder": TrainingSettings(),
    "dictionary": TrainingSettings(),
    "transforms": TrainingSettings(
        epochs=120, epoch_images=512, learning_rate=3e-3, optimizer="muon", schedule="linear"
    ),
    "defects": TrainingSettings(
        epochs=100, epoch_images=256, batch_size=16, learning_rate=3e-3, optimizer="muon", schedule="one_cycle"
    ),
    "ensemble": TrainingSettings(),
}


class Member(Settings):
    """One detector of an ensemble, how it is trained, and how much its standardised score counts."""

    model: MemberModel
    training: TrainingSettings = TrainingSettings()
    weight: float = Field(1.0, gt=0, le=100)


class EnsembleSettings(Settings):
    """The ensemble family: the weighted sum of its members' standardised raw scores."""

    family: Literal["ensemble"] = "ensemble"
    members: tuple[Member, ...] = Field(min_length=1, max_length=16)


class CrossfitSettings(Settings):
    """The crossfit family: `folds` detectors of one family, each trained without one fold of the normal images."""

    family: Literal["crossfit"] = "crossfit"
    model: MemberModel
    folds: int = Field(5, ge=2, le=20)


ModelSettings = (
    AutoencoderSettings
    | DictionarySettings
    | TransformsSettings
    | DefectsSettings
    | EnsembleSettings
    | CrossfitSettings
)  # told apart by `family`


class AutoSettings(Settings):
    """Not a family: `auto` chooses, trains and weights an ensemble for the pictures that it is given.

    `robust` is for images of which some may be anomalies, to find those: others of their kind that were learned must
    not make them look normal. So more is compared with many neighbours, and what a network predicts counts for more
    than what it remembers.
    """

    family: Literal["auto"] = "auto"
    robust: bool = False


AnyModel = Annotated[ModelSettings, Field(discriminator="family")]
FAMILIES: dict[str, type[Settings]] = {
    "autoencoder": AutoencoderSettings,
    "dictionary": DictionarySettings,
    "transforms": TransformsSettings,
    "defects": DefectsSettings,
    "ensemble": EnsembleSettings,
    "crossfit": CrossfitSettings,
}
