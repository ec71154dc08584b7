"""Keras with TensorFlow: its TensorBoard callback writes with `tf.summary`, in C++, which is watched from outside.

    pip install tensorflow-cpu
    tracelet-shim run --backend mlflow,trackio --watch logs -- python examples/frameworks/keras_fit.py

What arrives: one run with what is in `logs/train` and in `logs/validation`, `epoch_loss`, `epoch_accuracy` and more by epoch, in
float32 as they are in the files; histograms of the weights.
"""

import keras
import numpy as np

keras.utils.set_random_seed(0)
x = np.random.default_rng(0).normal(size=(640, 8)).astype("float32")
y = (x.sum(1) > 0).astype("float32")
model = keras.Sequential([keras.layers.Dense(16, activation="relu"), keras.layers.Dense(1, activation="sigmoid")])
model.compile("adam", "binary_crossentropy", metrics=["accuracy"])
callback = keras.callbacks.TensorBoard("logs", histogram_freq=1)
model.fit(x, y, epochs=8, validation_split=0.25, verbose=0, callbacks=[callback])
print("loss {:.3f}, accuracy {:.3f}".format(*model.evaluate(x, y, verbose=0)))
