"""Keras on TensorFlow: its TensorBoard callback, which writes with `tf.summary`, in a directory that is watched.

    pip install tensorflow-cpu
    tracelet-shim run --watch logs -b mlflow,trackio -- python examples/frameworks/keras_fit.py

What arrives: one run with `epoch_loss` and `epoch_accuracy` of `train` and of `validation`, `train/epoch_learning_rate`,
`validation/evaluation_loss_vs_iterations` and `validation/evaluation_accuracy_vs_iterations`, 5 points each, float32 as the files
have them; and the graph in Keras's own form, JSON as a tensor of bytes (`train/keras`).
"""

import keras
import numpy as np

keras.utils.set_random_seed(0)

x = np.random.default_rng(0).standard_normal((640, 8), dtype=np.float32)
y = (x.sum(1) > 0).astype(np.float32)
model = keras.Sequential(
    [keras.Input((8,)), keras.layers.Dense(16, activation="relu"), keras.layers.Dense(1, activation="sigmoid")]
)
model.compile(keras.optimizers.Adam(0.01), "binary_crossentropy", metrics=["accuracy"])

tensorboard = keras.callbacks.TensorBoard("logs/keras")
history = model.fit(x, y, batch_size=32, epochs=5, validation_split=0.2, callbacks=[tensorboard], verbose=0)
print(f"accuracy {history.history['val_accuracy'][-1]:.3f}")
