"""Makes the event files beside this: Keras's own callback, and a writer of ``tf.summary``, with TensorFlow 2.21 (CPU).

    python make.py DIRECTORY
"""

from __future__ import annotations

import sys

import keras
import numpy as np
import tensorflow as tf


def main(directory: str) -> None:
    """Train a small model for six epochs."""
    rng = np.random.default_rng(3)
    x, y = rng.random((64, 4), np.float32), rng.random((64, 1), np.float32)
    model = keras.Sequential([keras.layers.Input((4,)), keras.layers.Dense(3), keras.layers.Dense(1)])
    model.compile("adam", "mse")
    callback = keras.callbacks.TensorBoard(directory, histogram_freq=3, write_graph=False)
    model.fit(x, y, epochs=6, validation_split=0.25, verbose=0, callbacks=[callback])
    writer = tf.summary.create_file_writer(f"{directory}/own")
    writer.set_as_default()  # never closed: TensorFlow writes the rest when the interpreter goes
    for step in range(37):
        tf.summary.scalar("mine", step / 7, step=step)
    tf.summary.text("note", "**a** text", step=1)


if __name__ == "__main__":
    main(sys.argv[1])
