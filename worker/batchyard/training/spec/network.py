"""Which network is trained, on which data."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from batchyard.training.spec import python_architecture
from batchyard.training.spec.checks import INT32_MAX, Checks

ARCHITECTURES = (
    "mlp", "lenet", "inception_bn", "resnet18", "resnet34", "resnet50", "resnet101",
    "wide_resnet", "wide_resnet16", "mobilenet_v2", "densenet121", "airbench",
)  # fmt: skip
SCALABLE = tuple(name for name in ARCHITECTURES if name not in ("mlp", "lenet"))
"""Those that `width` scales."""
ACTIVATIONS = ("sigmoid", "tanh", "relu", "relu6", "gelu")
NORMS = ("batch", "none", "detached", "standardize_detached", "standardize_post", "zca", "iternorm", "renorm")
WHITENING = ("zca", "iternorm")
"""Those of NORMS that mix channels: population statistics and folding are for layers that do not."""
STEMS = ("auto", "imagenet", "cifar")
DATASETS = ("digits", "mnist", "fashion_mnist", "cifar10", "cifar100")
URI = re.compile(r"[a-z][a-z0-9+.-]*://[^\s\x00-\x1f]+")
SHUFFLES = ("full", "within_shard")
ON_ERROR = ("fail", "skip")
CACHES = ("auto", "memory", "stream")


@dataclass(frozen=True, kw_only=True)
class ModelSpec:
    """The network."""

    architecture: str
    """One of ARCHITECTURES, or python:package.module:factory where the service allows the package: the factory is
    called with a batchyard.models.Plan and returns a torch.nn.Module, images [N, C, H, W] to logits [N, classes]."""
    hidden: tuple[int, ...] = (100, 100, 100)
    """mlp only: units of each hidden layer (section 4.1 of the paper)."""
    activation: str = "sigmoid"
    """One of ACTIVATIONS."""
    norm: str = "batch"
    """One of NORMS: batch normalises the input of each activation; none leaves the plain network; the others are there
    to compare with (docs/batchnorm.md)."""
    width: float = 1.0
    """Channels of every layer, as a share of the architecture's own; above 0, at most 16. Not for mlp and lenet."""
    stem: str = "auto"
    """One of STEMS: the first layers for large (imagenet) or small images (cifar); auto goes by the images' size. Not
    for mlp and lenet."""
    ghost_size: int | None = None
    """Samples in one ghost batch (arXiv 1705.08741), 2 or more: normalise by parts of each worker's share, which it
    must divide. None: normalise by the whole batch. With norm batch only."""

    def __post_init__(self) -> None:
        checks = Checks()
        if not self.architecture.startswith(python_architecture.PREFIX):
            checks.one_of("architecture", self.architecture, ARCHITECTURES)
        elif python_architecture.parts(self.architecture) is None:
            checks.require(False, "architecture", self.architecture, python_architecture.FORM)
        checks.one_of("activation", self.activation, ACTIVATIONS)
        checks.one_of("norm", self.norm, NORMS)
        checks.require(1 <= len(self.hidden) <= 64, "hidden", list(self.hidden), "1 to 64 layers")
        for i, units in enumerate(self.hidden):
            checks.integer(f"hidden[{i}]", units, 1, 65536)
        checks.require(0 < self.width <= 16, "width", self.width, "a number above 0 and at most 16")
        checks.one_of("stem", self.stem, STEMS)
        fixed = f"nothing: {self.architecture} has one size; leave it out, or choose one of {', '.join(SCALABLE)}"
        scalable = self.architecture in SCALABLE or self.architecture not in ARCHITECTURES
        checks.require(scalable or self.width == 1, "width", self.width, fixed)
        checks.require(scalable or self.stem == "auto", "stem", self.stem, fixed)
        if self.ghost_size is not None:
            checks.integer("ghost_size", self.ghost_size, 2, INT32_MAX)
            only = "nothing where model.norm is not batch: leave it out"
            checks.require(self.norm == "batch", "ghost_size", self.ghost_size, only)
        checks.finish()


@dataclass(frozen=True, kw_only=True)
class AugmentSpec:
    """Random changes to training images, made on the device; a function of (seed, step, place in the batch) alone."""

    flip: bool = False
    """Mirror half of the images left to right."""
    crop: int = 0
    """Pad each side by this many mirrored pixels and cut the image's size out at random; 0: do not."""
    cutout: int = 0
    """Side, in pixels, of a square that is blanked at random (arXiv 1708.04552); 0: do not."""
    colour_jitter: float = 0.0
    """Brightness, contrast and saturation change by a factor within 1 -/+ this, in [0, 1)."""

    def __post_init__(self) -> None:
        checks = Checks()
        checks.integer("crop", self.crop, 0, 1024)
        checks.integer("cutout", self.cutout, 0, 4096)
        checks.below_one("colour_jitter", self.colour_jitter)
        checks.finish()


@dataclass(frozen=True, kw_only=True)
class DataSpec:
    """The training data."""

    dataset: str
    """One of DATASETS, or the URI of a folder or file (docs/data.md)."""
    batch_size: int = 60
    """Samples in one global batch, shared out over all workers."""
    shuffle: str = "full"
    """One of SHUFFLES: full draws a new order of all samples each epoch; within_shard deals them into shards once,
    takes each batch from all shards, and shuffles each by itself (section 4.2.1 of the paper)."""
    augment: AugmentSpec = field(default_factory=AugmentSpec)
    on_error: str = "fail"
    """One of ON_ERROR: what to do about an image that cannot be read."""
    workers: int = 0
    """Threads of each training worker that decode images; 0: one for each core that it may use."""
    cache: str = "auto"
    """One of CACHES: memory decodes everything once; stream reads as it goes; auto is memory where the data fits."""
    image_size: int | None = None
    """Images are scaled and cropped to this many pixels square; None: they must be of one size already. For URIs."""
    test_share: float = 0.2
    """Share of the samples, above 0 and below 1, held out for testing where the data has no test part. For URIs."""

    def __post_init__(self) -> None:
        checks = Checks()
        _check_dataset(checks, self.dataset)
        checks.integer("batch_size", self.batch_size, 1, INT32_MAX)
        checks.one_of("shuffle", self.shuffle, SHUFFLES)
        checks.one_of("on_error", self.on_error, ON_ERROR)
        checks.integer("workers", self.workers, 0, 256)
        checks.one_of("cache", self.cache, CACHES)
        if self.image_size is not None:
            checks.integer("image_size", self.image_size, 1, 4096)
            named = "nothing: a dataset with a name has images of one size; leave it out"
            checks.require("://" in self.dataset, "image_size", self.image_size, named)
        inside = 0 < self.test_share < 1
        checks.require(inside, "test_share", self.test_share, "a number above 0 and below 1")
        checks.finish()


def _check_dataset(checks: Checks, dataset: str) -> None:
    """A name, or a URI that could be one: whether it can be read shows when the job runs."""
    if "://" in dataset or dataset.startswith(("/", ".", "~")):
        form = "SCHEME://PLACE, for example file:///data/cats.zip or s3://bucket/cats"
        checks.require(URI.fullmatch(dataset) is not None, "dataset", dataset, form)
    else:
        checks.one_of("dataset", dataset, DATASETS)
