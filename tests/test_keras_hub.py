"""KerasHub's models, pruned in place; needs `pip install keras-hub` (see CONTRIBUTING).

Every vocabulary and weight is made here: nothing is downloaded.
"""

import inspect
import subprocess
import sys

import keras
import numpy as np
import pytest
from fixtures import pages

import tfticket
from tfticket.keras_models.names import named_weights
from tfticket.pruning.masks import masked_weights

keras_hub = pytest.importorskip("keras_hub", reason="needs: pip install keras-hub")

SMALL = {
    **dict.fromkeys(("vocabulary_size", "vocab_size", "image_size"), 16),
    **dict.fromkeys(("num_layers", "num_blocks", "num_groups"), 1),
    **dict.fromkeys(("num_heads", "num_query_heads", "num_attention_heads"), 2),
    **dict.fromkeys(("num_key_value_heads", "top_k", "num_experts_per_tok"), 1),
    **dict.fromkeys(("hidden_dim", "embedding_dim", "hidden_size"), 8),
    **dict.fromkeys(("intermediate_dim", "feedforward_dim", "mlp_dim"), 16),
    **dict.fromkeys(("moe_intermediate_dim", "shared_expert_intermediate_dim"), 16),
    **dict.fromkeys(("head_dim", "head_size", "bottleneck_size", "patch_size"), 4),
    "max_sequence_length": 8,
    "num_experts": 2,
    "image_shape": (16, 16, 3),
}
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
WORDS += ["the", "cat", "sat", "dog", "ran", "good", "bad", "film"]
TEXTS = ["the cat sat", "the dog ran", "good film", "bad film"] * 4
LABELS = np.array([0, 1, 1, 0] * 4)


def backbones():
    """Names of those whose arguments without a default are all in SMALL."""
    for name in sorted(vars(keras_hub.models)):
        if not name.endswith("Backbone") or name == "Backbone":
            continue
        given = inspect.signature(getattr(keras_hub.models, name).__init__).parameters
        plain = (
            inspect.Parameter.POSITIONAL_OR_KEYWORD,
            inspect.Parameter.KEYWORD_ONLY,
        )
        asked = [
            x for x, p in given.items() if p.kind in plain and p.default is p.empty
        ]
        if set(asked) - {"self"} <= set(SMALL):
            yield name


def small(name):
    kind = getattr(keras_hub.models, name)
    given = inspect.signature(kind.__init__).parameters
    return kind(**{x: SMALL[x] for x in given if x in SMALL})


@pytest.mark.slow
@pytest.mark.parametrize("name", backbones())
def test_every_matrix_is_masked_or_has_a_reason(name):
    keras.utils.set_random_seed(0)
    try:
        model = small(name)
    except (TypeError, ValueError, AttributeError, KeyError) as error:
        pytest.skip(f"can't be built that small: {error}")
    if not model.weights:
        pytest.skip("makes its weights when it is called")
    tfticket.prune(model, in_place=True)
    masked = {id(x.variable) for x in masked_weights(model).values()}
    assert masked
    names = {id(x): path for path, x in named_weights(model).items()}
    reasons = {row.name: row.why_dense for row in tfticket.summary_rows(model)}
    for weight in model.weights:
        if len(weight.shape) < 2 or id(weight) in masked:
            continue
        if weight.name == "bias":
            continue  # in the row of its kernel, as all biases are
        path = names[id(weight)]
        said = [
            reason
            for row, reason in reasons.items()
            if path == row or path.startswith(f"{row}/")
        ]
        assert any(said), (path, weight.path)


def attention_is_masked(model):
    masks = tfticket.get_masks(model)
    for kind in ("query", "key", "value", "output"):
        assert any(f"self_attention_layer/{kind}_dense" in name for name in masks)


def assert_zeros(model):
    for name, weight in masked_weights(model).items():
        mask = tfticket.get_masks(model)[name]
        value = keras.ops.convert_to_numpy(weight.value())
        assert not np.any(value[~mask]), name


def classifier():
    hub = keras_hub.models
    return hub.BertTextClassifier(
        backbone=hub.BertBackbone(
            vocabulary_size=len(WORDS),
            num_layers=2,
            num_heads=2,
            hidden_dim=8,
            intermediate_dim=16,
            max_sequence_length=8,
        ),
        num_classes=2,
        preprocessor=hub.BertTextClassifierPreprocessor(
            hub.BertTokenizer(vocabulary=WORDS), sequence_length=8
        ),
    )


def test_a_classifier_of_raw_strings(tmp_path):
    pytest.importorskip("tensorflow_text")
    keras.utils.set_random_seed(0)
    model = classifier()
    assert tfticket.prune(model, in_place=True) is model
    attention_is_masked(model)
    tfticket.sparsify(model, 0.5)
    model.fit(TEXTS, LABELS, batch_size=4, epochs=2, verbose=0)
    assert_zeros(model)
    model.backbone.enable_lora(2)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(0.001), loss)
    model.fit(TEXTS, LABELS, batch_size=4, verbose=0)
    assert_zeros(model)


def test_a_preset_loads_without_tfticket(tmp_path):
    pytest.importorskip("tensorflow_text")
    keras.utils.set_random_seed(0)
    model = classifier()
    tfticket.prune(model, in_place=True)
    tfticket.sparsify(model, 0.5)
    answers = model.predict(TEXTS, verbose=0)
    zeros = sum(int((~mask).sum()) for mask in tfticket.get_masks(model).values())
    model.save_to_preset(str(tmp_path / "preset"))
    np.save(tmp_path / "answers.npy", answers)
    code = f"""
import sys
sys.modules["tfticket"] = None  # as if it were not installed
import keras_hub, numpy as np
model = keras_hub.models.TextClassifier.from_preset({str(tmp_path / "preset")!r})
answers = model.predict({TEXTS!r}, verbose=0)
expected = np.load({str(tmp_path / "answers.npy")!r})
np.testing.assert_allclose(answers, expected, atol=1e-5)
found = sum(int((np.asarray(w) == 0).sum()) for w in model.weights if len(w.shape) > 1)
assert found >= {zeros}, found
"""
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


def writer():
    hub = keras_hub.models
    pieces = ["!", *"airplneothbĠ", "Ġa", "Ġt", "Ġi", "Ġb", "ai", "pl", "ne", "Ġat"]
    pieces += ["po", "rt", "Ġth", "air", "pla", "port", "Ġair", "Ġai", "plane"]
    pieces += ["<|endoftext|>"]
    merges = ["Ġ a", "Ġ t", "Ġ i", "Ġ b", "a i", "p l", "n e", "Ġa t", "p o", "r t"]
    merges += ["Ġt h", "ai r", "pl a", "po rt", "Ġai r", "Ġa i", "pla ne"]
    vocabulary = {piece: i for i, piece in enumerate(pieces)}
    return hub.GPT2CausalLM(
        hub.GPT2Backbone(len(vocabulary), 2, 2, 8, 16, max_sequence_length=8),
        hub.GPT2CausalLMPreprocessor(
            hub.GPT2Tokenizer(vocabulary=vocabulary, merges=merges), sequence_length=8
        ),
    )


def test_a_language_model_generates():
    pytest.importorskip("tokenizers")
    keras.utils.set_random_seed(0)
    model = writer()
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(0.01), loss, sampler="greedy")
    before = model.generate("airplane", max_length=8)
    tfticket.prune(model, in_place=True)
    attention_is_masked(model)
    assert model.generate("airplane", max_length=8) == before
    schedule = tfticket.schedules.PolynomialDecay(0.0, 0.6, 0, 4, frequency=1)
    pruning = tfticket.GradualPruning(schedule)
    texts = ["airplane at airport"] * 16
    model.fit(texts, batch_size=4, epochs=2, verbose=0, callbacks=[pruning])
    assert_zeros(model)
    masks = tfticket.get_masks(model)
    assert all(abs(1 - mask.mean() - 0.6) < 0.02 for mask in masks.values())
    pruned = model.generate("airplane", max_length=8)
    tfticket.strip(model, in_place=True)
    assert model.generate("airplane", max_length=8) == pruned


def test_the_guide(tmp_path, monkeypatch):
    """With presets made here in the place of those that would be downloaded."""
    pytest.importorskip("tensorflow_text")
    pytest.importorskip("tokenizers")
    monkeypatch.chdir(tmp_path)
    for kind, make in (("BertTextClassifier", classifier), ("GPT2CausalLM", writer)):
        real = getattr(keras_hub.models, kind)

        def made(preset, make=make, load=real.from_preset, **given):
            return load(preset, **given) if preset == "pruned_bert" else make()

        monkeypatch.setattr(real, "from_preset", staticmethod(made))
    pages.run_python("docs/guides/keras_hub.md")
