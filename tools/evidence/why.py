"""Why a claim has the verdict it has: a sentence for each, written by hand after looking.

A sentence belongs to a claim and a verdict; if the verdict changes, it is not printed.
"""

from __future__ import annotations

from evidence.claims import FAILED, HELD, NOISE

WHY: dict[tuple[str, str], str] = {
    ("rap-outside-inside-pos", FAILED): (
        "RAP is ahead of most methods on plain networks; alpha-beta (2, 1) leaves less outside on "
        "three of them, and on DenseNet others do."
    ),
    ("rap-outside-inside-all", FAILED): (
        "RAP takes its surplus off evenly from all active pixels, most of which are background; by "
        "magnitude that counts as relevance outside of the object."
    ),
    ("rap-miou", FAILED): (
        "At the papers' thresholds, zero for a map of both signs and the mean for one of one sign, "
        "alpha-beta (1, 0) is ahead on networks without skip connections; all others are behind."
    ),
    ("rap-lerf", HELD): (
        "So does the accuracy of almost all methods, as the tables show: the networks do not need "
        "the background, so that the claim is hardly tested."
    ),
    ("rap-signs", NOISE): (
        "It holds on plain networks and DenseNet. On ResNet and Inception the two parts correlate "
        "less with each other than the excitatory one does with edges."
    ),
    (
        "rapbn-negative",
        HELD,
    ): "Input x gradient and alpha-beta (2, 1) lose accuracy, RAP-BN does not.",
    ("rapbn-negative", NOISE): (
        "It holds against input x gradient on all networks; against alpha-beta (2, 1) it is open "
        "where that keeps most of the accuracy, too."
    ),
    ("rapbn-negative-all", HELD): "The same without all of them.",
    ("rapbn-negative-all", NOISE): "The same without all of them.",
    ("rapbn-dk", NOISE): (
        "It is never significantly larger; alpha-beta (2, 1), pattern attribution and integrated "
        "gradients are as compact on some networks."
    ),
    (
        "hedge-pointing",
        HELD,
    ): "By 0.1 to 0.4 on generated pictures; open on photographs.",
    ("hedge-pointing-cam", FAILED): (
        "Grad-CAM has 4 x 4 or 8 x 8 places on these networks, few for objects of 16 pixels of 64."
    ),
    ("hedge-positive-ratio", HELD): (
        "So it has to be: the relevance below each layer sums to gamma - 2, a negative number."
    ),
    ("hedge-classes", FAILED): (
        "It holds against RAP on all networks, and against both on photographs; on generated "
        "pictures FullGrad's maps of two classes differ as much as hedging's or more."
    ),
    ("hedge-gamma", NOISE): "Hedging points into the object nearly always, whatever gamma is.",
    ("hedge-gamma", FAILED): "Hedging points into the object nearly always, whatever gamma is.",
    ("hedge-insertion", FAILED): (
        "A twentieth of the pixels is enough for most methods; alpha-beta (2, 1) and integrated "
        "gradients need fewer on most networks."
    ),
    ("hedge-insertion", NOISE): "A twentieth of the pixels is enough for most methods.",
    ("hedge-terms", NOISE): (
        "All sets with the first term point into the object nearly always, C + S more often than "
        "all terms together on Inception; A + U alone is worse."
    ),
    ("hedge-terms", FAILED): (
        "All sets with the first term point into the object nearly always, C + S more often than "
        "all terms together on Inception; A + U alone is worse."
    ),
    ("hedge-total", HELD): (
        "The others fall short where a place with relevance has no active input that it is "
        "connected with; the formula does not mend that."
    ),
    ("hedge-randomization", NOISE): (
        "The map changes, but a rank correlation of about a half is left on most networks."
    ),
    ("hedge-randomization", FAILED): (
        "The map changes, but a rank correlation of about a half is left on most networks."
    ),
    ("cmp-composites", FAILED): (
        "Those with alpha 2 are never significantly worse; those with alpha 1, which have no "
        "negative relevance in the stack, are behind alpha-beta (2, 1) on most networks."
    ),
    ("cmp-flat-alpha2", NOISE): "It helps on some networks and is unclear on others.",
    ("cmp-flat-alpha2", FAILED): "It helps on some networks and hurts on others.",
    ("cmp-flat-alpha1", HELD): "It costs part of mu_w on all networks of the generated pictures.",
    ("cmp-z", FAILED): (
        "It holds where batch norms are merged and activations are ReLUs. DenseNet's batch norms "
        "can't be merged, CaffeNet has local response norms and Lite0 has ReLU6: LRP-z passes "
        "these, and the gradient changes there."
    ),
    ("cmp-pattern", FAILED): (
        "It is above on VGG, VGG-BN and CaffeNet, and below on ResNet, Inception and DenseNet."
    ),
    ("cmp-single", FAILED): (
        "Composites are ahead by plain mu as well: the objects here are smaller than ImageNet's, "
        "and do not fill the picture."
    ),
    ("cmp-classes", FAILED): (
        "They differ more than alpha-beta (1, 0) and guided backprop on all networks. Alpha-beta "
        "(2, 1) everywhere tells classes apart as well as composites, or better."
    ),
    ("cmp-occlusion", HELD): "Without the context, the logit even rises on the generated pictures.",
    ("cmp-depth", HELD): "The ratio falls with depth: see below.",
}
