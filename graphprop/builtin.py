"""The names of graphprop's own methods, rules and figures, known without importing torch.

The command line shows and completes them at once: importing torch takes seconds. That the names
are those that `graphprop.rules` registers is tested.
"""

DEFAULT_METHOD = "epsilon_plus_flat"
"""The method where none is named: a composite of Kohlbrenner et al. 2020.

Its flat rule on the input layer needs no bounds of the input, as zB does."""

METHODS = (
    "lrp_z",
    "lrp_epsilon",
    "lrp_alpha1_beta0",
    "lrp_alpha2_beta1",
    "lrp_cmp_alpha1",
    "lrp_cmp_alpha1_flat",
    "lrp_cmp_alpha2",
    "lrp_cmp_alpha2_flat",
    "epsilon_plus",
    "epsilon_plus_flat",
    "epsilon_alpha2_beta1",
    "epsilon_alpha2_beta1_flat",
    "epsilon_gamma_box",
    "preset_a",
    "preset_b",
    "deep_taylor",
    "rap",
    "rap-bn",
    "hedge",
    "gradient",
    "input_x_gradient",
    "integrated_gradients",
    "smoothgrad",
    "fullgrad",
    "guided_backprop",
    "deconvnet",
    "gradcam",
    "gradcam_plus_plus",
    "relevance_cam",
    "excitation_backprop",
    "contrastive_excitation_backprop",
    "contrastive_lrp",
    "deeplift",
    "pattern_attribution",
    "pattern_net",
)
BASELINES = ("random", "uniform", "edge", "occlusion")
"""The maps that `graphprop evaluate` can compare with."""

RULES = (
    "excitation",
    "excitation_top",
    "difference",
    "contrast",
    "above_zero",
    "gradient",
    "guided",
    "deconvnet",
    "deeplift",
    "bias_map",
    "times_input",
    "times_difference",
    "full_gradient",
    "gradient_cam",
    "gradient_cam_plus_plus",
    "relevance_cam",
    "pattern_attribution",
    "pattern_net",
    "hedge_start",
    "hedge",
    "hedge_share",
    "hedge_average",
    "z",
    "epsilon",
    "alpha_beta",
    "z_plus",
    "gamma",
    "flat",
    "w_square",
    "zB",
    "rap_start",
    "rap",
    "rap_bn_start",
    "compensate",
    "rap_bn",
    "rap_bn_input",
    "pass",
    "rearrange",
    "winner",
    "proportional",
    "share",
    "signal",
    "affine",
)
FIGURES = ("panel", "layers", "flows", "signs", "topk", "sanity", "curves", "size")
