"""Compute what Keras's networks put out, for ``test_import_weights.py``. Run by hand:

    python tests/reference/make_keras_reference.py

with the development extra, whose TensorFlow brings Keras. It writes ``keras.json``, and
``keras.h5``, a small file in the layout of those that ``keras.applications`` downloads.
"""

import json
from pathlib import Path

import keras
import numpy as np
from random_weights import PICTURES, pictures, random_tensor

HERE = Path(__file__).parent
KEPT = 8
"""Logits and features of each picture that are written."""

FEATURES = {
    "resnet50": (keras.applications.ResNet50, "conv4_block6_out"),
    "resnet101": (keras.applications.ResNet101, "conv4_block23_out"),
    "densenet121": (keras.applications.DenseNet121, "conv4_block24_concat"),
    "densenet169": (keras.applications.DenseNet169, "conv4_block32_concat"),
    "vgg16": (keras.applications.VGG16, "block4_pool"),
    "vgg19": (keras.applications.VGG19, "block4_pool"),
}
"""How to build each network, and the layer whose means are its features."""


def references():
    """Yield the outputs of all networks by ``naming/architecture/strides``."""
    for name, (make, layer) in FEATURES.items():
        # Keras's VGG takes one size only.
        shape = (1, 224, 224, 3) if name.startswith("vgg") else PICTURES
        model = make(weights=None, input_shape=shape[1:], classifier_activation=None)
        for part in model.layers:
            for weight in part.weights:
                weight.assign(random_tensor(f"{part.name}/{weight.name}", tuple(weight.shape)))
        both = keras.Model(model.input, [model.output, model.get_layer(layer).output])
        logits, features = (np.asarray(output) for output in both(pictures(*shape)))
        yield (
            f"keras/{name}/v1",
            {
                "logits": logits[:, :KEPT].tolist(),
                "features": features.mean(axis=(1, 2))[:, :KEPT].tolist(),
                "scale": float(np.abs(logits).max()),
            },
        )
        keras.backend.clear_session()


def small_model():
    """Make a network with a layer of each kind, under names as DenseNet's first ones were."""
    inputs = keras.Input((8, 8, 3))
    y = keras.layers.Conv2D(4, 3, name="conv1_conv", use_bias=False)(inputs)
    y = keras.layers.BatchNormalization(name="conv1_bn")(y)
    y = keras.layers.GlobalAveragePooling2D(name="pool")(y)
    model = keras.Model(inputs, keras.layers.Dense(2, name="fc1000")(y))
    for part in model.layers:
        for weight in part.weights:
            weight.assign(random_tensor(f"{part.name}/{weight.name}", tuple(weight.shape)))
    return model


def main():
    """Write the files."""
    lines = [f"{json.dumps(name)}: {json.dumps(found)}" for name, found in sorted(references())]
    (HERE / "keras.json").write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")
    small_model().save(HERE / "keras.h5")


if __name__ == "__main__":
    main()
