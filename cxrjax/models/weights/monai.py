"""MONAI's DenseNets and ResNets of two dimensions.

Its ResNets have biases in the shortcuts' convolutions, and unless told otherwise a first stride of
1 (`conv1_t_stride`): the weights fit, but such a network saw finer maps than ours.
"""

from cxrjax.models.weights.layout import Layout, has_name

LAYOUTS = (
    Layout("MONAI", "densenet", (
        (r"\.layers\.(norm|conv)([12])\.", r".\1\2."),
        (r"^class_layers\.out\.", "classifier."),
    )),
    Layout("MONAI", "resnet", (), mark=has_name(r"downsample\.0\.bias$"),
           biases=(r"downsample\.0", "downsample.1")),
)
