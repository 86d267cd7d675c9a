"""PruneForLatencyOnXNNPack takes what TF-MOT takes, and says what is wrong."""

import keras
import pytest
from fixtures.tfmot_cases import policy_models, policy_verdicts

import tfticket
from tfticket.compat import tfmot

TAKEN = {
    "pointwise",
    "activations",
    "batch normalization",
    "bilinear",
    "nested",
    "depthwise 3 same 1 pad 0",
    "depthwise 3 valid 2 pad 1",
    "depthwise 5 same 1 pad 0",
    "depthwise 5 valid 2 pad 2",
    "residual",
    "sum written as +",
    "squeeze and excite",
}


def test_which_models_are_taken():
    verdicts = policy_verdicts(keras, tfmot)
    assert {name for name, taken in verdicts.items() if taken} == TAKEN
    assert len(verdicts) > 30


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("3x3 in the middle", r"'conv2d' \(Conv2D\).*must be 1x1"),
        ("tanh", r"\(Activation\).*relu6"),
        ("max pooling", r"'max_pooling2d'.*Change the layer, or prune without"),
        ("depth multiplier", r"'depthwise_conv2d'.*depth_multiplier=1"),
        ("batch normalization of rows", r"'batch_normalization'.*axis=-1"),
        ("nearest", "interpolation must be 'bilinear'"),
        ("no padding before", r"ends at layer 'dense'.*directly after a ZeroPadding2D"),
        ("no pooling", r"ends at layer 'input_layer.*a GlobalAveragePooling2D"),
        ("concatenated", "'concatenate'"),
    ],
)
def test_refusals_name_the_layer_and_the_mend(name, message):
    keras.utils.clear_session(free_memory=False)
    model = policy_models(keras)[name]()
    with pytest.raises(ValueError, match=message):
        tfmot.sparsity.keras.prune_low_magnitude(
            model, pruning_policy=tfmot.sparsity.keras.PruneForLatencyOnXNNPack()
        )


def test_only_pointwise_convolutions_are_pruned():
    policy = tfmot.sparsity.keras.PruneForLatencyOnXNNPack()
    model = policy_models(keras)["squeeze and excite"]()
    pruned = tfmot.sparsity.keras.prune_low_magnitude(model, pruning_policy=policy)
    assert len(tfticket.get_masks(pruned)) == 1
    policy.ensure_model_supports_pruning(pruned)


def test_subclassed_and_unbuilt_models_are_refused():
    class Own(keras.Model):
        pass

    policy = tfmot.sparsity.keras.PruneForLatencyOnXNNPack()
    with pytest.raises(ValueError, match="subclassed"):
        policy.ensure_model_supports_pruning(Own())
    with pytest.raises(ValueError, match="not built"):
        policy.ensure_model_supports_pruning(keras.Sequential([keras.layers.Dense(1)]))


def test_policies_are_abstract():
    with pytest.raises(TypeError, match="abstract"):
        tfmot.sparsity.keras.PruningPolicy()
