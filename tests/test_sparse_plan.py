"""`export.sparse_plan`: each rule by itself, known networks, and the written file."""

import re

import keras
import numpy as np
import pytest
from fixtures import benchmark
from keras import layers

import tfticket
from tfticket import export
from tfticket.export.sparsity_plan import expectation
from tfticket.export.tflite import reader, sparse_rules
from tfticket.export.tflite.sparse_nodes import Nodes
from tfticket.keras_models.graph import FlatGraph


def network(first=None, middle=None, last=None, size=32, batch=1):
    """A small network that obeys all rules, or one with another part."""
    x = image = keras.Input((size, size, 3), batch_size=batch, name="image")
    x = (first or obedient_start)(x)
    x = layers.Conv2D(16, 1, use_bias=False, name="a")(x)
    x = layers.BatchNormalization()(x)
    x = layers.ReLU(6.0)(x)
    if middle:
        x = middle(x)
    x = layers.DepthwiseConv2D(3, padding="same", name="dw")(x)
    x = layers.Conv2D(24, 1, name="b")(x)
    x = (last or obedient_end)(x)
    return keras.Model(image, x)


def obedient_start(x):
    x = layers.ZeroPadding2D(1, name="pad")(x)
    return layers.Conv2D(8, 3, strides=2, activation="relu", name="first")(x)


def obedient_end(x):
    return layers.Dense(4, name="logits")(layers.GlobalAveragePooling2D()(x))


def block(x):
    """What may stand inside: a residual block with squeeze-and-excite."""
    y = layers.Conv2D(32, 1, name="expand")(x)
    y = layers.Activation("hard_silu")(layers.BatchNormalization()(y))
    y = layers.ZeroPadding2D(2)(y)
    y = layers.DepthwiseConv2D(5, name="dw5")(y)
    z = layers.GlobalAveragePooling2D(keepdims=True)(y)
    z = layers.Conv2D(8, 1, activation="silu", name="squeeze")(z)
    z = layers.Conv2D(32, 1, activation="sigmoid", name="excite")(z)
    y = layers.Conv2D(16, 1, name="project")(layers.Multiply()([y, z]))
    return layers.Dropout(0.1)(layers.Add()([x, layers.BatchNormalization()(y)]))


def pruned(model, share=0.9):
    random = np.random.default_rng(0)
    for layer in model.layers:
        if isinstance(layer, layers.Conv2D) and layer.kernel_size == (1, 1):
            mask = random.permutation(layer.kernel.shape[2] * layer.kernel.shape[3])
            kept = (mask >= share * mask.size).reshape(layer.kernel.shape)
            layer.kernel.assign(np.where(kept, layer.kernel, 0))
    return model


@pytest.fixture(scope="module")
def obedient():
    return pruned(network(middle=block))


def sparse(plan):
    return [row.layer for row in plan.rows if row.runs_sparse]


@pytest.mark.parametrize("target", ["arm", "web"])
def test_what_obeys_all_rules_runs_sparse(obedient, target):
    plan = export.sparse_plan(obedient, target)
    assert sparse(plan) == ["a", "expand", "squeeze", "excite", "project", "b"]
    assert plan.mends == ()
    assert plan.summary == f"6 of 6 1x1 kernels would run sparse on {target}"
    [cluster] = plan.clusters
    assert cluster.runs_sparse
    assert (cluster.layers[0], cluster.layers[-1]) == (
        "first",
        obedient.layers[-2].name,
    )
    assert 0.89 < cluster.zeros < 0.91
    rows = {row.layer: row for row in plan.rows}
    assert rows["a"].flops == 2 * 16 * 16 * 8 * 16
    assert rows["a"].needed == pytest.approx(2 / 3)
    assert "litert_matrix" in rows["logits"].reason
    assert rows["dw5"].kind == "depthwise 5x5"
    assert rows["dw5"].reason == sparse_rules.NOT_POINTWISE


def test_x86_has_the_path_switched_off(obedient):
    plan = export.sparse_plan(obedient, "x86")
    assert sparse(plan) == []
    assert plan.clusters == plan.mends == ()
    assert "disables its sparse path on x86" in plan.summary
    assert {row.reason for row in plan.pointwise} == {
        sparse_rules.RULES["target"].reason
    }


def test_the_operations_are_those_of_the_file(obedient, tmp_path):
    """Independent of this package's reading: what the converter wrote."""
    path = tmp_path / "m.tflite"
    export.litert(obedient, path, runtimes="builtin")
    written = [
        x
        for x in reader.read(path.read_bytes()).operations
        if x not in ("PAD", "LOGISTIC")
    ]
    names = {
        "1x1": "CONV_2D",
        "3x3": "CONV_2D",
        "depthwise 3x3": "DEPTHWISE_CONV_2D",
        "depthwise 5x5": "DEPTHWISE_CONV_2D",
        "GlobalAveragePooling2D": "MEAN",
        "Multiply": "MUL",
        "silu": "MUL",  # by what LOGISTIC makes
        "Activation": "HARD_SWISH",
        "Add": "ADD",
        "Dense": "FULLY_CONNECTED",
    }
    nodes = Nodes(FlatGraph(obedient)).all
    assert sorted(names[x.kind] for x in nodes if x.kind != "sigmoid") == sorted(
        written
    )


def made(kind, *arguments, **more):
    return lambda x: kind(*arguments, **more)(x)


def conv(**arguments):
    return lambda x: layers.Conv2D(**{"filters": 16, "kernel_size": 1} | arguments)(x)


def first(pad, **arguments):
    def start(x):
        x = layers.ZeroPadding2D(pad)(x) if pad else x
        defaults = {"filters": 8, "kernel_size": 3, "strides": 2}
        return layers.Conv2D(**defaults | arguments)(x)

    return start


def after(*steps):
    def all_of_them(x):
        for step in steps:
            x = step.from_config(step.get_config())(x)
        return x

    return all_of_them


def unsplit(x):
    return layers.Concatenate()([x, layers.Conv2D(4, 1)(x)])


def read_outside(x):
    y = layers.GlobalMaxPooling2D()(x)
    return layers.Concatenate()([layers.GlobalAveragePooling2D()(x), y])


class Own(layers.Layer):
    def call(self, x):
        return x + 0.0

    def compute_output_shape(self, shape):
        return shape


VIOLATIONS = [
    ("padding", {"first": first(0, padding="same")}),
    ("padding", {"first": first(((0, 1), (0, 1)))}),
    ("padding", {"first": first(0)}),
    ("padding", {"middle": made(layers.DepthwiseConv2D, 3)}),
    ("padding", {"middle": made(layers.DepthwiseConv2D, 5, strides=2, padding="same")}),
    # Padded by 1 on each side in fact, and not said in numbers.
    ("padding", {"first": first(0, padding="same"), "size": 33}),
    ("first_strides", {"first": first(1, strides=1)}),
    ("window", {"first": first(1, kernel_size=5)}),
    ("window", {"middle": conv(kernel_size=3, padding="same")}),
    ("begin", {"first": lambda x: x}),
    ("pointwise_strides", {"middle": conv(strides=2)}),
    (
        "pointwise_padding",
        {"middle": after(layers.ZeroPadding2D(1), layers.Conv2D(4, 1))},
    ),
    ("groups", {"middle": conv(groups=2)}),
    (
        "dilation",
        {"middle": made(layers.DepthwiseConv2D, 3, dilation_rate=2, padding="same")},
    ),
    ("depthwise_window", {"middle": made(layers.DepthwiseConv2D, 7, padding="same")}),
    (
        "depthwise_strides",
        {
            "middle": after(
                layers.ZeroPadding2D(1), layers.DepthwiseConv2D(3, strides=3)
            )
        },
    ),
    (
        "multiplier",
        {"middle": made(layers.DepthwiseConv2D, 3, depth_multiplier=2, padding="same")},
    ),
    ("constant", {"middle": made(layers.Activation, "hard_sigmoid")}),
    ("constant", {"middle": lambda x: x * 0.5}),
    ("constant", {"middle": made(layers.Rescaling, 2.0)}),
    ("normalization", {"middle": made(layers.BatchNormalization)}),
    ("operation", {"middle": made(layers.MaxPooling2D)}),
    ("operation", {"middle": made(layers.ReLU, 3.0)}),
    ("operation", {"middle": unsplit}),
    ("unknown", {"middle": made(Own)}),
    ("dtype", {"middle": conv(dtype="mixed_float16")}),
    (
        "batch",
        {
            "middle": lambda x: layers.Multiply()(
                [x, layers.Reshape((1, 1, 16))(layers.GlobalAveragePooling2D()(x))]
            ),
            "batch": None,
        },
    ),
    ("exit", {"last": made(layers.Flatten)}),
    ("exit", {"last": made(layers.GlobalMaxPooling2D)}),
    ("shared", {"last": read_outside}),
    ("output", {"last": lambda x: [x, layers.GlobalAveragePooling2D()(x)]}),
    (
        "broadcast",
        {"middle": lambda x: x + layers.GlobalAveragePooling2D(keepdims=True)(x)},
    ),
    (
        "head",
        {
            "last": after(
                layers.GlobalAveragePooling2D(keepdims=True), layers.Conv2D(4, 1)
            )
        },
    ),
]


@pytest.mark.parametrize(
    ("rule", "parts"),
    VIOLATIONS,
    ids=[f"{rule}-{i}" for i, (rule, _) in enumerate(VIOLATIONS)],
)
def test_one_broken_rule_is_named_and_mending_it_helps(rule, parts):
    plan = export.sparse_plan(network(**parts), sparsities=0.9)
    assert sparse(plan) == []
    assert [mend.reason for mend in plan.mends] == [sparse_rules.RULES[rule].reason]
    assert plan.mends[0].mend == sparse_rules.RULES[rule].mend
    # All that this rule has stopped; a head becomes a Dense layer.
    freed = {row.layer for row in plan.pointwise} - set(plan.mends[0].layers)
    assert freed <= set(plan.mends[0].freed)
    assert freed or rule == "pointwise_strides"
    for row in plan.pointwise:
        assert sparse_rules.RULES[rule].reason in row.reason
    assert f"0 of {len(plan.pointwise)}" in plan.summary


def test_every_rule_is_broken_once_here():
    tested = {rule for rule, _ in VIOLATIONS}
    others = {"target", "zeros", "rank", "channels_first"}
    assert tested | others == set(sparse_rules.RULES)


def test_channels_first_and_vectors():
    image = keras.Input((3, 8, 8))
    x = layers.Conv2D(4, 1, data_format="channels_first")(image)
    plan = export.sparse_plan(keras.Model(image, x), sparsities=0.9)
    assert plan.pointwise[0].reason == sparse_rules.RULES["channels_first"].reason
    plan = export.sparse_plan(
        keras.Sequential(
            [keras.Input((4,)), layers.Activation("tanh"), layers.Dense(3)]
        )
    )
    assert plan.summary == (
        "0 of 0 1x1 kernels would run sparse on arm: there are none"
    )


@pytest.mark.parametrize(("zeros", "enough"), [(96, False), (97, True)])
def test_more_than_two_thirds_over_the_whole_cluster(zeros, enough):
    """144 weights in two kernels: exactly two thirds are not enough."""
    model = keras.Sequential(
        [
            keras.Input((8, 8, 3), batch_size=1),
            layers.ZeroPadding2D(1),
            layers.Conv2D(8, 3, strides=2),
            layers.Conv2D(6, 1, name="a"),
            layers.Conv2D(16, 1, name="b"),
            layers.GlobalAveragePooling2D(),
        ]
    )
    kernel = np.ones(96)
    kernel[: zeros - 48] = 0
    model.get_layer("a").kernel.assign(np.zeros((1, 1, 8, 6)))
    model.get_layer("b").kernel.assign(kernel.reshape(1, 1, 6, 16))
    plan = export.sparse_plan(model)
    assert sparse(plan) == (["a", "b"] if enough else [])
    assert plan.clusters[0].runs_sparse is enough
    assert plan.clusters[0].zeros == zeros / 144
    if not enough:
        assert plan.mends[0].freed == ("a", "b")
        assert "frees 100% of their FLOPs" in plan.summary
        assert "no more than 2/3" in str(plan)


def test_a_dense_head_that_may_count_is_noted():
    plan = export.sparse_plan(network(), sparsities=0.9)
    assert len(plan.notes) == 1  # a small one makes no difference
    wide = made(layers.Dense, 500, name="wide")
    model = network(last=lambda x: wide(layers.GlobalAveragePooling2D()(x)))
    plan = export.sparse_plan(model, sparsities=0.9)
    assert sparse(plan) == ["a", "b"]
    zeros = round(0.9 * 128) + round(0.9 * 384)
    share = zeros / (128 + 384 + 24 * 500)
    assert f"'wide' may count in its cluster, {share:.1%} with it" in plan.notes[-1]


def test_two_clusters_of_which_one_is_stopped():
    image = keras.Input((32, 32, 3), batch_size=1)
    ends = []
    for padding, name in ((1, "good"), (((0, 1), (0, 1)), "bad")):
        x = layers.Conv2D(8, 3, strides=2)(layers.ZeroPadding2D(padding)(image))
        x = layers.Conv2D(16, 1, name=name)(x)
        ends.append(layers.GlobalAveragePooling2D()(x))
    plan = export.sparse_plan(keras.Model(image, ends), sparsities=0.8)
    assert sparse(plan) == ["good"]
    assert plan.mends[0].freed == ("bad",)
    assert "frees 50% of their FLOPs" in plan.summary


def test_sparsities_by_pattern(obedient):
    model = network(middle=block)
    assert export.sparse_plan(model).pointwise[0].zeros == 0
    chosen = {layers.Conv2D: 0.7, re.compile("b/"): 0.5, "a/kernel": 0.75}
    zeros = {
        row.layer: row.zeros
        for row in export.sparse_plan(model, sparsities=chosen).pointwise
    }
    assert zeros["a"] == 0.75
    assert zeros["b"] == 0.5
    assert zeros["excite"] == pytest.approx(0.7, abs=0.01)
    inner = keras.Sequential([keras.Input((16, 16, 16)), layers.Conv2D(8, 1, name="c")])
    inner.name = "inner"
    plan = export.sparse_plan(network(middle=inner), sparsities={"inner/c": 0.5})
    assert {row.layer: row.zeros for row in plan.pointwise}["inner/c"] == 0.5


def test_masks_count_and_a_separable_convolution_is_two():
    separable = layers.SeparableConv2D(16, 3, padding="same", name="sep")
    model = tfticket.prune(network(middle=separable), exclude=["first", "dw", "logits"])
    tfticket.sparsify(model, 0.75)
    plan = export.sparse_plan(model)
    assert sparse(plan) == ["a", "sep/pointwise_kernel", "b"]
    assert {row.zeros for row in plan.pointwise} == {0.75}
    assert "sep/depthwise_kernel" in {row.layer for row in plan.rows}


@pytest.fixture(scope="module")
def applications():
    names = ("MobileNet", "MobileNetV2", "MobileNetV3Small")
    return {
        name: getattr(keras.applications, name)(weights=None, input_shape=(96, 96, 3))
        for name in names
    }


@pytest.mark.parametrize(
    ("name", "kernels", "mends"),
    [
        ("MobileNet", 14, {"padding": 5, "head": 1}),
        ("MobileNetV2", 34, {"padding": 5}),
        ("MobileNetV3Small", 42, {"padding": 5, "constant": 9, "head": 1}),
    ],
)
def test_what_stops_known_networks(applications, name, kernels, mends):
    plan = export.sparse_plan(applications[name], "web", sparsities=0.9)
    assert sparse(plan) == []
    assert len(plan.pointwise) == kernels
    found = {mend.reason: len(mend.layers) for mend in plan.mends}
    assert found == {sparse_rules.RULES[x].reason: n for x, n in mends.items()}
    assert "batch_size=1" in plan.notes[-1]
    last = set(plan.mends[-1].freed)
    assert len(last) == kernels - {"MobileNet": 1, "MobileNetV2": 0}.get(name, 2)
    # Of weights as they are made, the zeros are missing too.
    assert "2/3" in export.sparse_plan(applications[name]).mends[-1].reason


def test_the_mend_mends_mobilenet_v2(applications):
    """With even padding, as a mirrored network has it."""

    def even(layer):
        if isinstance(layer, layers.ZeroPadding2D):
            return layers.ZeroPadding2D(1, name=layer.name)
        if layer.name != "Conv1":
            return layer.from_config(layer.get_config())
        stem = layers.Conv2D(32, 3, strides=2, use_bias=False, name="Conv1")
        return keras.Sequential(
            [keras.Input((96, 96, 3)), layers.ZeroPadding2D(1), stem], name="stem"
        )

    model = keras.models.clone_model(applications["MobileNetV2"], clone_function=even)
    plan = export.sparse_plan(model, sparsities=0.9)
    assert len(sparse(plan)) == 34
    assert len(plan.clusters) == 1


def test_the_printed_plan(obedient):
    text = str(export.sparse_plan(obedient)).splitlines()
    assert text[0].split()[:5] == ["layer", "kind", "zeros", "needed", "sparse"]
    assert re.match(r"a +1x1 +90\.6% +> 66\.7% +yes$", text[3])
    assert text[-1] == "6 of 6 1x1 kernels would run sparse on arm"


class Subclassed(keras.Model):
    def call(self, x):
        return x


@pytest.mark.parametrize(
    ("model", "arguments", "error", "message"),
    [
        (network, {"target": "riscv"}, ValueError, r"target must be one of \['arm'"),
        (network, {"target": 1}, TypeError, "target must be one of"),
        (network, {"sparsities": 1.0}, ValueError, "sparsities must be .*below 1"),
        (network, {"sparsities": float("nan")}, ValueError, "sparsities must be"),
        (network, {"sparsities": "0.9"}, TypeError, "sparsities must be a number"),
        (network, {"sparsities": {"a": 2}}, ValueError, r"sparsities\['a'\] must be"),
        (network, {"sparsities": {"c": 0.9}}, ValueError, "does not have"),
        (network, {"sparsities": {"logits": 0.9}}, ValueError, "does not have"),
        (lambda: layers.Dense(2), {}, TypeError, "must be a keras.Model"),
        (lambda: 3, {}, TypeError, "model must be a keras.Model"),
        (Subclassed, {}, TypeError, "subclassed.*Functional model"),
        (lambda: keras.Sequential([layers.Dense(2)]), {}, ValueError, "not built"),
        (lambda: network(batch=8), {}, ValueError, "fixed to 8.*batch_size=1"),
    ],
)
def test_bad_arguments(model, arguments, error, message):
    with pytest.raises(error, match=message):
        export.sparse_plan(model(), **arguments)


def test_nan_weights():
    model = network()
    model.get_layer("b").bias.assign(np.full(24, np.nan))
    with pytest.raises(ValueError, match="'b/bias' has NaN"):
        export.sparse_plan(model)


def test_open_sizes_have_no_flops():
    plan = export.sparse_plan(network(size=None, batch=None), sparsities=0.5)
    assert {row.flops for row in plan.rows} == {None, 2 * 24 * 4}
    assert plan.mends[0].flops is None
    assert "frees 2 kernels" in plan.summary


def test_what_is_expected_of_other_models():
    stopped = network(batch=None, middle=block)
    text, gains, wrong = expectation(stopped)
    assert not wrong
    assert "0 of 6 1x1 kernels run sparse, first obstacle: no more than 2/3" in text
    assert "on web once the batch is fixed to 1" in text
    assert not gains
    assert expectation(network(batch=8)) is None
    assert expectation(keras.Sequential([keras.Input((3,)), layers.Dense(2)])) is None


@pytest.mark.slow
def test_a_sparse_file_says_what_to_expect(obedient, tmp_path, recwarn):
    exported = export.litert(obedient, tmp_path / "m.tflite", sparse=True)
    assert "unstructured" in exported.sparse.values()
    assert exported.expectation.endswith("6 of 6 1x1 kernels run sparse")
    assert "nothing on x86" in str(exported)
    assert not [x for x in recwarn if "not faster" in str(x.message)]


@pytest.mark.parametrize(
    ("keepdims", "activation", "running"),
    [(True, "relu", 0), (True, "linear", 2), (False, "relu", 2), (True, "silu", 0)],
)
def test_an_activation_of_the_last_mean_is_an_operation(keepdims, activation, running):
    """What LiteRT.js answers of these: docs/results/after_cluster.md."""

    def last(x):
        x = layers.GlobalAveragePooling2D(keepdims=keepdims)(x)
        x = layers.Activation(activation, name="alone")(x)
        return layers.Dense(4)(layers.Flatten()(x))

    plan = export.sparse_plan(pruned(network(last=last)), "web")
    assert len(sparse(plan)) == running
    if not running:
        assert "'alone'" in plan.pointwise[0].reason
        assert "answers wrongly in browsers" in plan.pointwise[0].reason


AFTER = benchmark.load("after_cluster").CASES
# Answered right, as it happens, where the plan does not promise it.
CAREFUL = (
    "pixel_layer_normalization_flatten_dense",
    "pixel_pointwise_hard_swish_flatten_dense",
    "mean_and_map",
)


@pytest.mark.parametrize("name", AFTER)
def test_the_plan_knows_what_a_browser_answers_wrong(name):
    """Each case of docs/results/after_cluster.md, which was run in one."""
    plan = export.sparse_plan(AFTER[name].build(), "web", sparsities=0.9)
    if AFTER[name].answer != "right":
        assert plan.wrong
        assert len(plan.running) < len(plan.pointwise)
    elif name not in CAREFUL:
        assert not plan.wrong


def test_a_file_that_a_browser_answers_wrong_is_warned_of(tmp_path):
    script = benchmark.load("after_cluster")
    model = script.pruned(script.CASES["pixel_pointwise_flatten"].build())
    with pytest.warns(UserWarning, match=r"answers .* wrong without an error"):
        export.litert(model, tmp_path / "m.tflite", sparse=True)
