"""What is measured: networks, methods and their variants, metrics, and on how many pictures."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, field
from typing import Any

from graphprop import builtin

SHAPES = (
    "shapes_vgg",
    "shapes_vgg_bn",
    "shapes_resnet",
    "shapes_inception",
    "shapes_densenet",
    "shapes_caffenet",
)
VOLUMES = "nodules_vgg3d"
PHOTOGRAPHS = "efficientnet_lite0"
NETWORKS = (*SHAPES, VOLUMES, PHOTOGRAPHS)
SEEDS = (0, 1, 2)
BASELINES = ("random", "uniform", "edge", "occlusion")
PATTERNS = ("pattern_attribution", "pattern_net")
"""The methods that are fitted to training pictures."""


@dataclass(frozen=True)
class Variant:
    """A method with parameters other than its defaults.

    Attributes
    ----------
    method, parameters
        What is compiled.
    table
        Which table of the page it belongs to.
    """

    method: str
    parameters: dict[str, Any]
    table: str

    @property
    def name(self) -> str:
        """What it is called in tables."""
        given = ",".join(f"{key}={value}" for key, value in self.parameters.items())
        return f"{self.method}[{given}]"


VARIANTS = (
    *(Variant("hedge", {"terms": terms}, "hedge") for terms in ("C", "CS", "AU", "CAU")),
    *(Variant("hedge", {"gamma": gamma}, "hedge") for gamma in (1.5, 2)),
    Variant("lrp_z", {"bias": "ignored"}, "bias"),
    Variant("lrp_epsilon", {"bias": "ignored"}, "bias"),
    Variant("lrp_alpha1_beta0", {"bias": "sink"}, "bias"),
    Variant("lrp_alpha2_beta1", {"bias": "sink"}, "bias"),
    Variant("lrp_cmp_alpha2_flat", {"bias": "sink"}, "bias"),
    Variant("epsilon_plus_flat", {"bias": "ignored"}, "bias"),
    Variant("epsilon_gamma_box", {"bias": "ignored"}, "bias"),
    Variant("rap", {"authors": True}, "rap"),
    Variant("rap", {"residual": "signed"}, "rap"),
    Variant("rap", {"negative": "inhibitory"}, "rap"),
    Variant("rap-bn", {"inversion_sign": 1}, "rap"),
    Variant("rap-bn", {"units": "all"}, "rap"),
    Variant("rap-bn", {"lost": "drop"}, "rap"),
    Variant("rap-bn", {"input": "flow"}, "rap"),
    Variant("lrp_alpha1_beta0", {"alpha": 0, "beta": 1}, "signs"),
)
INHIBITORY = VARIANTS[-1].name
"""The inhibitory part alone, to be compared with the excitatory one."""

LOCALIZATION = (
    "pointing_game",
    "mu",
    "mu_w",
    "mu_25",
    "mu_50",
    "outside_inside_all",
    "outside_inside_pos",
    "outside_inside_minmax",
    "pixel_accuracy",
    "miou",
    "mean_average_precision",
    "rank_accuracy",
)
COMPLEXITY = ("positive_ratio", "d_k", "entropy", "gini")
OPTIONAL = ("pointing_game:tolerance=15", "pointing_game:cases=difficult", "class_sensitivity")
MAPS = (*LOCALIZATION, *COMPLEXITY, *OPTIONAL)
"""Metrics that need a map or two: computed on all pictures, and for variants as well."""

PERTURBATION = (
    "lerf",
    "morf",
    "aopc:value=sigmoid",
    "deletion:value=sigmoid",
    "insertion:value=sigmoid",
    "morf_insertion:value=sigmoid",
    "remove_positive",
    "remove_negative",
    "remove_negative:everything=true",
    "occlusion_agreement",
)
SENSITIVITY = ("max_sensitivity:draws=5", "randomisation:depths=5")
SOFTMAX = (
    "lerf:step=400",
    "morf:step=400",
    "aopc:points=5",
    "deletion:points=10",
    "insertion:points=10",
    "morf_insertion:percent=10",
    "remove_positive",
    "remove_negative",
    "remove_negative:everything=true",
    "occlusion_agreement:grid=4",
)
"""Fewer points on curves for a network of 224 x 224 pixels, and the softmax score."""

COMPOSITES = ("lrp_cmp_alpha1", "lrp_cmp_alpha1_flat", "lrp_cmp_alpha2", "lrp_cmp_alpha2_flat")
SIZED = (*COMPOSITES, "lrp_z", "lrp_alpha1_beta0", "lrp_alpha2_beta1", "guided_backprop")
"""Compared over the size of the object's box."""


@dataclass(frozen=True)
class Sizes:
    """How many pictures are used.

    Attributes
    ----------
    single, several
        Pictures with one object, and with two or three, for metrics of maps.
    few_single, few_several
        Of these the first ones, for perturbation and sensitivity.
    fit
        Training pictures that patterns are fitted to.
    volumes, few_volumes, photographs, few_photographs
        The same for the other two networks: volumes, and cases of photographs.
    """

    single: int = 24
    several: int = 16
    few_single: int = 4
    few_several: int = 2
    fit: int = 1000
    volumes: int = 12
    few_volumes: int = 2
    photographs: int = 14
    few_photographs: int = 3


SMALL = Sizes(
    single=3,
    several=2,
    few_single=1,
    few_several=1,
    fit=128,
    volumes=2,
    few_volumes=1,
    photographs=2,
    few_photographs=1,
)
"""For a test: minutes."""


@dataclass(frozen=True)
class Plan:
    """What to measure.

    Attributes
    ----------
    networks, seeds
        The networks of the benchmark are trained once for each seed; the network of photographs
        has one set of weights.
    methods, variants
        What is compiled.
    baselines
        Maps that know nothing of the network, and occlusion.
    sizes
        How many pictures.
    """

    networks: tuple[str, ...] = NETWORKS
    seeds: tuple[int, ...] = SEEDS
    methods: tuple[str, ...] = tuple(builtin.METHODS)
    variants: tuple[Variant, ...] = VARIANTS
    baselines: tuple[str, ...] = BASELINES
    sizes: Sizes = field(default_factory=Sizes)

    @property
    def jobs(self) -> list[tuple[str, int]]:
        """Networks and seeds, what takes longest first."""
        found = [(n, s) for n in self.networks for s in self.seeds if n != PHOTOGRAPHS or s == 0]
        return sorted(found, key=lambda job: (job[0] != PHOTOGRAPHS, job[1]))

    def metrics(self, network: str) -> tuple[str, ...]:
        """What is computed on few pictures."""
        perturbation = SOFTMAX if network == PHOTOGRAPHS else PERTURBATION
        return (*perturbation, *SENSITIVITY)

    def key(self, network: str) -> str:
        """What the results of a network depend on beside its weights, as a hash."""
        sizes = asdict(self.sizes)
        kind = {VOLUMES: "volumes", PHOTOGRAPHS: "photographs"}.get(network, "generated")
        content = {
            "methods": self.methods,
            "variants": [one.name for one in self.variants],
            "baselines": self.baselines,
            "sizes": {name: sizes[name] for name in SIZES[kind]},
            "metrics": [*MAPS, *self.metrics(network)],
        }
        return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:16]


SIZES = {
    "generated": ("single", "several", "few_single", "few_several", "fit"),
    "volumes": ("volumes", "few_volumes", "fit"),
    "photographs": ("photographs", "few_photographs"),
}
"""The numbers of pictures that the results of a kind of network depend on."""


def base(label: str) -> str:
    """The name of a metric in tables: without what only says how it is computed."""
    name, _, rest = label.partition("(")
    kept = [one for one in rest.rstrip(")").split(", ") if one and not_computing(one)]
    return f"{name}({', '.join(kept)})" if kept else name


def not_computing(parameter: str) -> bool:
    """Whether a parameter changes what is measured, and not how finely."""
    return parameter.partition("=")[0] not in {
        "value",
        "draws",
        "depths",
        "step",
        "points",
        "percent",
        "grid",
    }
