"""One small network of each family of timm, and what is known of it.

A family is a module of ``timm.models``. Where its networks multiply two values as matrices, both of
which depend on the input (attention), it is refused.
"""

from __future__ import annotations

CONVOLUTIONAL = {
    "byobnet": "gernet_s",
    "convmixer": "convmixer_768_32",
    "convnext": "convnext_atto",
    "cspnet": "cspdarknet53",
    "cspnext": "cspnext_tiny",
    "densenet": "densenet121",
    "dla": "dla46_c",
    "dpn": "dpn48b",
    "efficientnet": "mobilenetv2_050",
    "fasternet": "fasternet_t0",
    "fastvit": "fastvit_t8",
    "focalnet": "focalnet_tiny_srf",
    "ghostnet": "ghostnet_050",
    "hardcorenas": "hardcorenas_a",
    "hgnet": "hgnetv2_b0",
    "hrnet": "hrnet_w18_small",
    "inception_next": "inception_next_atto",
    "inception_resnet_v2": "inception_resnet_v2",
    "inception_v3": "inception_v3",
    "inception_v4": "inception_v4",
    "lcnetv2": "lcnetv2_small",
    "mambaout": "mambaout_femto",
    "metaformer": "poolformer_s12",
    "mlp_mixer": "mixer_s32_224",
    "mobilenetv3": "lcnet_035",
    "nasnet": "nasnetalarge",
    "nfnet": "nfnet_l0",
    "pnasnet": "pnasnet5large",
    "rdnet": "rdnet_tiny",
    "regnet": "regnetx_002",
    "repghost": "repghostnet_050",
    "repvit": "repvit_m0_9",
    "res2net": "res2net50_14w_8s",
    "resnest": "resnest14d",
    "resnet": "resnet10t",
    "resnetv2": "resnetv2_18",
    "rexnet": "rexnet_100",
    "selecsls": "selecsls42b",
    "senet": "legacy_seresnet18",
    "sknet": "skresnet18",
    "starnet": "starnet_s050",
    "tresnet": "tresnet_m",
    "vgg": "vgg11_bn",
    "vovnet": "ese_vovnet19b_slim_dw",
    "xception": "xception",
    "xception_aligned": "xception41",
}
"""Family -> its network."""

ATTENTION = {
    "beit": "beit_base_patch16_224",
    "byoanet": "botnet26t_256",
    "cait": "cait_xxs24_224",
    "coat": "coat_lite_tiny",
    "convit": "convit_tiny",
    "crossvit": "crossvit_9_240",
    "davit": "davit_tiny",
    "deit": "deit_tiny_patch16_224",
    "edgenext": "edgenext_xx_small",
    "efficientformer": "efficientformer_l1",
    "efficientvit_msra": "efficientvit_m0",
    "levit": "levit_128s",
    "maxxvit": "coatnet_nano_rw_224",
    "mobilevit": "mobilevit_xxs",
    "pvt_v2": "pvt_v2_b0",
    "swin_transformer": "swin_tiny_patch4_window7_224",
    "vision_transformer": "vit_tiny_patch16_224",
    "visformer": "visformer_tiny",
}
"""Family -> a network that is refused as attention."""

SIZES = {
    **dict.fromkeys(ATTENTION.values(), 224),
    "botnet26t_256": 256,
    "crossvit_9_240": 240,
    "mixer_s32_224": 224,
    "inception_v3": 96,
    "inception_v4": 96,
    "inception_resnet_v2": 96,
    "nasnetalarge": 96,
    "pnasnet5large": 96,
    "selecsls42b": 96,
}
"""Height and width of the inputs, where 64 are too few."""
